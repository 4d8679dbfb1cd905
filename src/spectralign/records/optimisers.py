"""Typed optimiser specs: every field explicit, every default sourced. `spectralign.optim` builds from them.

Two specs that differ in any field are two different optimisers and give two different run-ids. Nothing is inherited
from a host library: the specs pass every argument on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LearningRate = Annotated[float, Field(gt=0, lt=100)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SGDSpec(_Spec):
    """Stochastic gradient descent, heavy-ball momentum without dampening (torch.optim.SGD)."""

    kind: Literal["sgd"] = "sgd"
    lr: LearningRate = Field(description="step length; no default, because no source gives one for LoRA")
    momentum: Momentum = Field(0.0, description="0 and 0.9 are the two arms of the studies; torch 2.13 default 0")
    nesterov: bool = Field(False, description="torch 2.13 default")
    weight_decay: Decay = Field(0.0, description="coupled (added to the gradient); torch 2.13 default")


class AdamSpec(_Spec):
    """Adam with coupled decay (torch.optim.Adam; Kingma and Ba, arXiv 1412.6980)."""

    kind: Literal["adam"] = "adam"
    lr: LearningRate = Field(description="step length, about the RMS step per element")
    beta1: Momentum = Field(0.9, description="arXiv 1412.6980, section 2")
    beta2: Momentum = Field(0.999, description="arXiv 1412.6980, section 2")
    eps: float = Field(1e-8, gt=0, description="arXiv 1412.6980, section 2")
    weight_decay: Decay = Field(0.0, description="coupled; torch 2.13 default")


class AdamWSpec(_Spec):
    """Adam with decoupled decay (torch.optim.AdamW; Loshchilov and Hutter, arXiv 1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    lr: LearningRate = Field(description="step length; decay per step is lr * weight_decay")
    beta1: Momentum = Field(0.9, description="arXiv 1412.6980, section 2")
    beta2: Momentum = Field(0.999, description="arXiv 1412.6980, section 2")
    eps: float = Field(1e-8, gt=0, description="arXiv 1412.6980, section 2")
    weight_decay: Decay = Field(0.01, description="torch 2.13 default; also the replication's value (C)")


class LionSpec(_Spec):
    """Sign of an interpolated momentum (Chen et al., arXiv 2302.06675), from pytorch-optimizer."""

    kind: Literal["lion"] = "lion"
    lr: LearningRate = Field(description="step length of every element (sign update)")
    beta1: Momentum = Field(0.9, description="interpolation for the step; arXiv 2302.06675, algorithm 2")
    beta2: Momentum = Field(
        0.99, description="momentum decay; arXiv 2302.06675. The Trainer's lion_* pass 0.999 instead"
    )
    weight_decay: Decay = Field(0.0, description="decoupled; pytorch-optimizer 4.1 default")


class MuonSpec(_Spec):
    """Orthogonalised momentum on each LoRA factor by itself (Jordan et al. 2024), ours.

    The step on a factor W (rows x columns) is `W <- (1 - lr * weight_decay) W - lr * f * orth(G + momentum M)`, where
    f is the scale rule's factor and M the momentum buffer. Trainable parameters that are no LoRA factor are refused.
    """

    kind: Literal["muon"] = "muon"
    lr: LearningRate = Field(description="step length in spectral norm, before the scale rule's factor")
    momentum: Momentum = Field(0.95, description="torch.optim.Muon 2.13 default; the replication's value (C)")
    nesterov: bool = Field(True, description="torch.optim.Muon 2.13 default")
    weight_decay: Decay = Field(
        0.0,
        description="decoupled; torch.optim.Muon's default is 0.1, ten times AdamW's: 0 keeps decay out of comparisons",
    )
    orthogonaliser: Literal["newton_schulz5", "polar_express", "exact"] = Field(
        "newton_schulz5",
        description="newton_schulz5: Jordan's quintic, singular values in about .68-1.20; polar_express: "
        "arXiv 2505.16932; exact: U V^T by SVD",
    )
    ns_steps: int = Field(
        5, ge=1, le=20, description="iterations of newton_schulz5 / polar_express; torch 2.13 default"
    )
    scale_rule: Literal["original", "match_rms_adamw", "spectral_norm"] = Field(
        "original",
        description="factor on lr for rows x columns: original sqrt(max(1, rows/columns)) (torch default); "
        "match_rms_adamw 0.2 sqrt(max(rows, columns)) (Moonlight, arXiv 2502.16982); "
        "spectral_norm sqrt(rows/columns) (dion)",
    )
    eps: float = Field(
        1e-7, gt=0, description="smallest Frobenius norm that a momentum is divided by; torch 2.13 default"
    )


OptimiserSpec = Annotated[
    SGDSpec | AdamSpec | AdamWSpec | LionSpec | MuonSpec,
    Field(discriminator="kind"),
]

OPTIMISERS: dict[str, type[_Spec]] = {
    "sgd": SGDSpec,
    "adam": AdamSpec,
    "adamw": AdamWSpec,
    "lion": LionSpec,
    "muon": MuonSpec,
}
"""Every optimiser by the name a spec file uses."""
