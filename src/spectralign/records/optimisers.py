"""Typed optimiser specs: every field explicit, every default sourced. `spectralign.optim` builds from them.

Two specs that differ in any field are two different optimisers and give two different run-ids. Nothing is inherited
from a host library: the specs pass every argument on. To add an optimiser: its spec class into `OptimiserSpec` here,
its builder into `spectralign.optim.build.BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field

from spectralign.records.errors import UnknownNameError, unknown_name
from spectralign.records.library_optimisers import (
    AdafactorSpec,
    AdamSpec,
    AdamWSpec,
    AdEMAMixSpec,
    LibraryOptimiser,
    LionSpec,
    LoRARITESpec,
    ProdigySpec,
    ScheduleFreeAdamWSpec,
    SGDSpec,
    SOAPSpec,
)
from spectralign.records.optimiser_base import Acts, Decay, LearningRate, Momentum, OptimiserBase

__all__ = [
    "OPTIMISERS",
    "REFUSED",
    "AdEMAMixSpec",
    "AdafactorSpec",
    "AdamSpec",
    "AdamWSpec",
    "LionSpec",
    "LoRARITESpec",
    "MuonSpec",
    "OptimiserBase",
    "OptimiserSpec",
    "ProdigySpec",
    "SGDSpec",
    "SOAPSpec",
    "ScheduleFreeAdamWSpec",
    "describe",
    "spec_class",
]


class MuonSpec(OptimiserBase):
    """Orthogonalised momentum on each LoRA factor by itself (Jordan et al. 2024), ours.

    The step on a factor W (rows x columns) is `W <- (1 - lr * weight_decay) W - lr * f * orth(G + momentum M)`, where
    f is the scale rule's factor and M the momentum buffer. Trainable parameters that are no LoRA factor are refused.
    """

    acts: ClassVar[Acts] = Acts(
        "orthogonalised momentum", "orthogonalised momentum times the scale rule's factor", "as A, by itself", "refused"
    )

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


_CLOSURE = "step() must compute loss and gradient again, which accumulation and clipping in a Trainer do not allow"
_HESSIAN = "it needs an estimate of the Hessian from a second backward pass, which a Trainer does not give"
_FUSED = "it updates parameters during the backward pass, before accumulation, clipping and the penalty"

REFUSED = {
    "sophia": f"{_HESSIAN}; nearest that works: lion (clipped momentum) or adamw",
    "adahessian": f"{_HESSIAN}; nearest that works: adamw or soap",
    "lbfgs": f"{_CLOSURE}; nearest that works: soap",
    "sam": f"{_CLOSURE}; nearest that works: adamw",
    "lomo": f"{_FUSED}; nearest that works: sgd",
    "adalomo": f"{_FUSED}; nearest that works: adafactor",
}
"""Known optimisers that cannot work here, each with its reason."""

_REFUSED_ALIASES = {"sophiag": "sophia", "sophiah": "sophia", "gsam": "sam", "asam": "sam", "samsgd": "sam"}


def _refusal(kind: str) -> str | None:
    plain = "".join(character for character in kind.lower() if character.isalnum())
    name = _REFUSED_ALIASES.get(plain, plain)
    return f"{kind!r} is refused: {REFUSED[name]}" if name in REFUSED else None


def _not_refused(value: Any) -> Any:
    """Give a refused name its reason where pydantic would only say that it is no accepted tag."""
    kind = value.get("kind") if isinstance(value, Mapping) else None
    refusal = _refusal(kind) if isinstance(kind, str) else None
    if refusal is not None:
        raise ValueError(refusal)
    return value


OptimiserSpec = Annotated[
    LibraryOptimiser | MuonSpec,
    Field(discriminator="kind"),
    BeforeValidator(_not_refused),
]
"""The spec of any optimiser, told apart by `kind`."""

OPTIMISERS: dict[str, type[OptimiserBase]] = {
    spec.model_fields["kind"].default: spec for spec in get_args(get_args(OptimiserSpec)[0])
}
"""Every optimiser by the name a spec file uses."""


def spec_class(kind: str) -> type[OptimiserBase]:
    """Return the spec class of an optimiser.

    Raises:
        UnknownNameError: no optimiser of this kind, with the nearest match, or one that is refused, with the reason.
    """
    if kind in OPTIMISERS:
        return OPTIMISERS[kind]
    refusal = _refusal(kind)
    if refusal is not None:
        raise UnknownNameError(f"optimiser {refusal}")
    raise unknown_name("optimiser", kind, OPTIMISERS)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))


def describe(kind: str) -> dict[str, Any]:
    """Return what an optimiser does to LoRA A, LoRA B and other parameters, and its fields.

    Returns:
        `optimiser`, `family`, `A`, `B`, `other`, `about` (the spec's docstring) and `fields`: by name, `required`,
        `default`, `accepted` (the names of a choice, else None) and `source`.

    Raises:
        UnknownNameError: as `spec_class`.
    """
    spec = spec_class(kind)
    fields = {
        name: {
            "required": field.is_required(),
            "default": None if field.is_required() else field.default,
            "accepted": list(_choices(field.annotation)) or None,
            "source": field.description,
        }
        for name, field in spec.model_fields.items()
        if name != "kind"
    }
    return {"optimiser": kind, **spec.acts._asdict(), "about": cleandoc(spec.__doc__ or ""), "fields": fields}
