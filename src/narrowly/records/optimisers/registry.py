"""Find optimiser specs by name; `narrowly.optim` builds from them. Every field is explicit, every default sourced.

Two specs that differ in any field are two different optimisers and give two different run-ids. Nothing is inherited
from a host library: the specs pass every argument on. To add an optimiser: its spec class into `OptimiserSpec` here,
its builder into `narrowly.optim.build.BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field

from narrowly.records.errors import UnknownNameError, unknown_name
from narrowly.records.optimisers.base import OptimiserBase
from narrowly.records.optimisers.library import (
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
from narrowly.records.optimisers.muon import KaonSpec, LoRAMuonSpec, MuonBAdamASpec, MuonSpec, SpectralPowerSpec
from narrowly.records.spec import validated

__all__ = [
    "OPTIMISERS",
    "REFUSED",
    "AdEMAMixSpec",
    "AdafactorSpec",
    "AdamSpec",
    "AdamWSpec",
    "KaonSpec",
    "LionSpec",
    "LoRAMuonSpec",
    "LoRARITESpec",
    "MuonBAdamASpec",
    "MuonSpec",
    "OptimiserBase",
    "OptimiserSpec",
    "ProdigySpec",
    "SGDSpec",
    "SOAPSpec",
    "ScheduleFreeAdamWSpec",
    "SpectralPowerSpec",
    "describe",
    "optimiser_spec",
    "spec_class",
]


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
    LibraryOptimiser | MuonSpec | MuonBAdamASpec | LoRAMuonSpec | SpectralPowerSpec | KaonSpec,
    Field(discriminator="kind"),
    BeforeValidator(_not_refused),
]
"""The spec of any optimiser, told apart by `kind`."""

OPTIMISERS: dict[str, type[OptimiserBase]] = {
    spec.model_fields["kind"].default: spec for spec in get_args(get_args(OptimiserSpec)[0])
}
"""Every optimiser by the name a spec file uses."""


def optimiser_spec(value: OptimiserSpec | Mapping[str, Any]) -> OptimiserSpec:
    """Return the typed spec of an optimiser from a mapping with `kind`; a typed one as it is.

    Raises:
        SpecError: an unknown or refused kind, an unknown field, a value that is not accepted.
    """
    spec: OptimiserSpec = validated(OptimiserSpec, value, "optimiser")
    return spec


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
