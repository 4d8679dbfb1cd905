"""Specify our own optimisers: Muon on LoRA factors and its relatives.

Their steps normalise the momentum, so the scale of the gradient does not matter and `lr` is a length in weight space.
Defaults marked "ours" are choices; none has been validated beyond what its source says.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from narrowly.records.added_later import ADDED_LATER
from narrowly.records.optimisers.base import Acts, Decay, LearningRate, Momentum, OptimiserBase
from narrowly.records.optimisers.library import AdamWSpec
from narrowly.records.optimisers.scale_rules import ScaleRule

Orthogonaliser = Literal["newton_schulz5", "polar_express", "exact"]

_ORTHOGONALISER = (
    "newton_schulz5: Jordan's quintic (2024), singular values in about .68-1.20; polar_express: arXiv 2505.16932; "
    "exact: U V^T by an eigenvalue solver"
)
_STEPS = "iterations of newton_schulz5 / polar_express; torch 2.13 default"
_SCALE_RULE = (
    "factor on lr for rows x columns: original sqrt(max(1, rows/columns)) (torch default); "
    "match_rms_adamw 0.2 sqrt(max(rows, columns)) (Moonlight, arXiv 2502.16982); "
    "spectral_norm sqrt(rows/columns) (dion)"
)
_EPS = "smallest Frobenius norm that a momentum is divided by; torch 2.13 default"
_DECAY = "decoupled; torch.optim.Muon's default is 0.1, ten times AdamW's: 0 keeps decay out of comparisons"
_MOMENTUM = "torch.optim.Muon 2.13 default"
_NESTEROV = "torch.optim.Muon 2.13 default"


class MuonSpec(OptimiserBase):
    """Orthogonalised momentum on each LoRA factor by itself (Jordan et al. 2024), ours.

    Of a whole model (method full), on each matrix of its numbered blocks; `other` trains embeddings, norms and head.

    The step on a factor W (rows x columns) is `W <- (1 - lr * weight_decay) W - lr * f * orth(G + momentum M)`, where
    f is the scale rule's factor and M the momentum buffer. Trainable parameters that are no LoRA factor are refused,
    unless `other` says how to train them.
    """

    acts: ClassVar[Acts] = Acts(
        "orthogonalised momentum",
        "orthogonalised momentum times the scale rule's factor",
        "as A, by itself",
        "refused, or AdamW where `other` is given",
    )

    kind: Literal["muon"] = "muon"
    lr: LearningRate = Field(description="step length in spectral norm, before the scale rule's factor")
    momentum: Momentum = Field(0.95, description=f"{_MOMENTUM}; the replication's value (C)")
    nesterov: bool = Field(True, description=_NESTEROV)
    weight_decay: Decay = Field(0.0, description=_DECAY)
    orthogonaliser: Orthogonaliser = Field("newton_schulz5", description=_ORTHOGONALISER)
    ns_steps: int = Field(5, ge=1, le=20, description=_STEPS)
    scale_rule: ScaleRule = Field("original", description=_SCALE_RULE)
    eps: float = Field(1e-7, gt=0, description=_EPS)
    other: Annotated[AdamWSpec | None, ADDED_LATER] = Field(
        None,
        description="an adamw spec, with its own lr, for trainable parameters that are no factor; null refuses them",
    )

    def full_fault(self) -> str | None:
        """Return that embeddings, norms and head need `other`, where it is not given."""
        if self.other is None:
            return (
                "optimiser muon with method full needs `other`, an adamw spec for embeddings, norms, biases and head "
                "(Jordan et al. 2024; torch.optim.Muon); accepted: other: {kind: adamw, lr: ...}"
            )
        return super().full_fault()


class MuonBAdamASpec(OptimiserBase):
    """Muon on every LoRA B, AdamW on every LoRA A, as one optimiser, ours.

    Under Muon's usual scale rules a wide A hardly moves beside a tall B, so flat spectra could come from that alone:
    this arm tells. The proposal is OneTrainer's (Nerogar/OneTrainer#1314).
    """

    acts: ClassVar[Acts] = Acts(
        "orthogonalised momentum",
        "AdamW with lr_A",
        "orthogonalised momentum times the scale rule's factor, as muon",
        "refused",
    )

    factors_only: ClassVar[str | None] = "it tells A from B"

    kind: Literal["muon_B_adam_A"] = "muon_B_adam_A"
    lr: LearningRate = Field(description="of B: step length in spectral norm, before the scale rule's factor")
    lr_A: LearningRate = Field(
        6e-4, description="of A: AdamW's; ours, Adam's rate in the prototype of the microworld, not tuned for this pair"
    )
    momentum: Momentum = Field(0.95, description=f"of B; {_MOMENTUM}")
    nesterov: bool = Field(True, description=f"of B; {_NESTEROV}")
    orthogonaliser: Orthogonaliser = Field("newton_schulz5", description=f"of B; {_ORTHOGONALISER}")
    ns_steps: int = Field(5, ge=1, le=20, description=f"of B; {_STEPS}")
    scale_rule: ScaleRule = Field("original", description=f"of B; {_SCALE_RULE}")
    eps: float = Field(1e-7, gt=0, description=f"of B; {_EPS}")
    beta1: Momentum = Field(0.9, description="of A; arXiv 1412.6980, section 2")
    beta2: Momentum = Field(0.999, description="of A; arXiv 1412.6980, section 2")
    eps_A: float = Field(1e-8, gt=0, description="of A; arXiv 1412.6980, section 2")
    weight_decay: Decay = Field(0.0, description="decoupled, on both factors, each times its own rate; ours, as muon's")


class LoRAMuonSpec(OptimiserBase):
    """Spectral steepest descent on the product BA of each pair (arXiv 2606.12921), ours.

    Each factor's momentum is whitened by the other factor, orthogonalised and whitened again; each factor gets half of
    the step. BA takes the same way whichever factors A and B it starts from: (A, B) and (C A, B C^-1) train alike.
    """

    acts: ClassVar[Acts] = Acts(
        "orthogonalised momentum",
        "momentum orthogonalised in the metric of B, half of the step of BA",
        "momentum orthogonalised in the metric of A, half of the step of BA",
        "refused",
    )

    no_decoupled_penalty: ClassVar[str | None] = "its lr is a change of the product BA, not of a factor"

    factors_only: ClassVar[str | None] = "it moves the product BA of a pair"

    kind: Literal["lora_muon"] = "lora_muon"
    lr: LearningRate = Field(description="largest change of BA in spectral norm, before PEFT's alpha/r")
    momentum: Momentum = Field(0.95, description=f"of the factors' gradients; {_MOMENTUM}; ours here")
    nesterov: bool = Field(True, description=f"{_NESTEROV}; ours here: the paper's rule has none")
    weight_decay: Decay = Field(
        0.0, description="decoupled, on the product: BA decays by 1 - lr * weight_decay a step; ours: none"
    )
    orthogonaliser: Orthogonaliser = Field("newton_schulz5", description=_ORTHOGONALISER)
    ns_steps: int = Field(5, ge=1, le=20, description=_STEPS)
    floor: float = Field(
        0.5,
        ge=0,
        le=100,
        description="singular values of BA below floor * lr count as that, where the neglected product of both "
        "changes would outgrow the step; ours, from that argument, not tuned; 0 is the published rule",
    )


def smallest_floor(power: float) -> float:
    """Return the smallest floor at which a power leaves float32 rounding alone.

    A momentum of low rank has rounding of about 1e-7 in its empty directions. They weigh `1e-7 floor^(p - 1)` where a
    strong direction weighs 1, so below `floor = 1e-6^(1 / (1 - p))` a step would follow rounding. Never below 1e-4,
    where the square roots of `narrowly.optim.spectral_power` have converged.
    """
    return 1e-4 if power > -0.5 else 10 ** (-6 / (1 - power))


class SpectralPowerSpec(OptimiserBase):
    """The momentum's U S V^T becomes U S^p V^T (BeyondMuon, DynMuon), at the norm of Muon's step, on each LoRA factor.

    p = 1 is normalised momentum SGD, p = 0 Muon with the exact polar factor, p below 0 moves along the momentum's weak
    directions first. BeyondMuon (arXiv 2602.04669) has p = 1, 1/2, 1/4 and 0, DynMuon (arXiv 2605.17109) lets p fall
    from above to below 0. Ours are the floor, the factors and the fixed norm. What it does to misalignment is a
    lead of the prototype (two bases, one seed), established nowhere.
    """

    acts: ClassVar[Acts] = Acts(
        "spectral power of momentum",
        "momentum with singular values to the power p, times the scale rule's factor",
        "as A, by itself",
        "refused",
    )

    factors_only: ClassVar[str | None] = "it was made for factors of small rank"

    kind: Literal["spectral_power"] = "spectral_power"
    lr: LearningRate = Field(description="step length before the scale rule's factor; spectral norm where p = 0")
    power: float = Field(0.0, ge=-2, le=1, description="p; ours: 0, Muon, from where the prototype went to 1 and to -1")
    floor: float = Field(
        1e-3,
        ge=1e-4,
        lt=1,
        description="singular values s, in units of the momentum's Frobenius norm, weigh s (s^2 + floor^2)^((p-1)/2): "
        "below the floor they fade; at least 1e-6^(1/(1-p)), .01 at p = -2, or rounding would be amplified; ours, "
        "not tuned",
    )
    momentum: Momentum = Field(0.95, description=f"{_MOMENTUM}; also the prototype's")
    nesterov: bool = Field(True, description=f"{_NESTEROV}; also the prototype's")
    weight_decay: Decay = Field(0.0, description=_DECAY)
    scale_rule: ScaleRule = Field("original", description=f"{_SCALE_RULE}; original is the prototype's")

    @model_validator(mode="after")
    def _rounding_not_amplified(self) -> SpectralPowerSpec:
        least = smallest_floor(self.power)
        if self.floor < least * (1 - 1e-9):
            raise ValueError(
                f"floor is {self.floor:g} with power {self.power:g}, accepted: at least {least:.2g} (below, directions "
                "that hold float32 rounding alone would lead the step)"
            )
        return self


class KaonSpec(OptimiserBase):
    """Kaon: the momentum's singular values scrambled by a chaotic map, at the Frobenius norm of Muon's step.

    X = M / ||M||_F, then `rounds` times X <- 4.1 (I - X X^T)^2 X (arXiv 2605.11181, whose title says that random
    spectra work as well as Muon's). Its own scale is 1 / 1.175, the largest value of the map; here the step has the
    norm of Muon's, so that the two are of one length at one lr.
    """

    acts: ClassVar[Acts] = Acts(
        "scrambled momentum",
        "momentum with singular values scrambled, times the scale rule's factor",
        "as A, by itself",
        "refused",
    )

    factors_only: ClassVar[str | None] = "it is compared with spectral_power, which was made for factors of small rank"

    kind: Literal["kaon"] = "kaon"
    lr: LearningRate = Field(
        description="root mean square of the step's singular values, before the scale rule's factor"
    )
    rounds: int = Field(5, ge=1, le=20, description="of the map; arXiv 2605.11181")
    momentum: Momentum = Field(0.95, description="arXiv 2605.11181; also torch.optim.Muon's default")
    nesterov: bool = Field(True, description=f"{_NESTEROV}; ours here: the paper's loop has a plain momentum")
    weight_decay: Decay = Field(0.0, description=_DECAY)
    scale_rule: ScaleRule = Field("original", description=f"{_SCALE_RULE}; as spectral_power")
