"""From a typed spec to one `torch.optim.Optimizer`: every field passed on, nothing inherited, nothing falls back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from spectralign.optim.muon import Muon
from spectralign.optim.router import Named, Routing, check_complete, listed, route
from spectralign.records.errors import MissingExtraError, OptimiserError, SpecError, unknown_name
from spectralign.records.optimisers import (
    OPTIMISERS,
    AdamSpec,
    AdamWSpec,
    LionSpec,
    MuonSpec,
    OptimiserSpec,
    SGDSpec,
)


def build_optimizer(spec: OptimiserSpec, model: nn.Module | Iterable[Named]) -> torch.optim.Optimizer:
    """Return the optimiser that a spec describes, over all trainable parameters.

    Args:
        spec: one of the classes of `spectralign.records.optimisers`.
        model: a module, or (name, parameter) pairs.

    Raises:
        OptimiserError: nothing to train, or a parameter that the optimiser cannot update.
        SpecError: fields that contradict each other.
        MissingExtraError: the optimiser's library is not installed.
        UnknownNameError: no optimiser of this kind.
    """
    named = list(model.named_parameters() if isinstance(model, nn.Module) else model)
    optimizer = _build(spec, route(named))
    check_complete(named, optimizer)
    return optimizer


def _build(spec: OptimiserSpec, routing: Routing) -> torch.optim.Optimizer:
    """Dispatch on the spec; the one place, with `_UPDATES` below, where a new optimiser is added."""
    every = [parameter for part in routing for _, parameter in part]
    match spec:
        case SGDSpec():
            if spec.nesterov and spec.momentum == 0:
                raise SpecError("sgd: nesterov is true with momentum 0, accepted: nesterov with momentum above 0")
            return torch.optim.SGD(
                every,
                lr=spec.lr,
                momentum=spec.momentum,
                dampening=0.0,
                nesterov=spec.nesterov,
                weight_decay=spec.weight_decay,
                maximize=False,
                foreach=True,
                differentiable=False,
                fused=False,
            )
        case AdamSpec() | AdamWSpec():
            family = torch.optim.Adam if isinstance(spec, AdamSpec) else torch.optim.AdamW
            return family(
                every,
                lr=spec.lr,
                betas=(spec.beta1, spec.beta2),
                eps=spec.eps,
                weight_decay=spec.weight_decay,
                amsgrad=False,
                maximize=False,
                foreach=True,
                capturable=False,
                differentiable=False,
                fused=False,
            )
        case LionSpec():
            return _lion(spec, every)
        case MuonSpec():
            return _muon(spec, routing)
    raise unknown_name("optimiser", str(getattr(spec, "kind", spec)), OPTIMISERS)


def _lion(spec: LionSpec, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    try:
        from pytorch_optimizer.optimizer.lion import Lion
    except ImportError as error:
        raise MissingExtraError(
            "Lion needs pytorch-optimizer, which is not installed; run pip install 'spectralign[spectral]'"
        ) from error
    optimizer: torch.optim.Optimizer = Lion(
        parameters,
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        weight_decay=spec.weight_decay,
        weight_decouple=True,
        fixed_decay=False,
        foreach=True,
        maximize=False,
    )
    return optimizer


def _muon(spec: MuonSpec, routing: Routing) -> Muon:
    if routing.other:
        raise OptimiserError(
            f"Muon updates LoRA factors only; found {len(routing.other)} other trainable parameters: "
            f"{listed(name for name, _ in routing.other)}. Freeze them, or choose another optimiser"
        )
    return Muon(
        [parameter for part in (routing.lora_A, routing.lora_B) for _, parameter in part],
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        orthogonaliser=spec.orthogonaliser,
        ns_steps=spec.ns_steps,
        scale_rule=spec.scale_rule,
        eps=spec.eps,
    )


_UPDATES = {
    "sgd": ("gradient or its heavy-ball momentum", "as A", "as A"),
    "adam": ("momentum over root mean square, elementwise", "as A", "as A"),
    "adamw": ("as adam, with decoupled decay", "as A", "as A"),
    "lion": ("sign of an interpolated momentum, elementwise", "as A", "as A"),
    "muon": ("orthogonalised momentum times the scale rule's factor", "as A, by itself", "refused"),
}


def describe(kind: str) -> dict[str, Any]:
    """Return what an optimiser does to LoRA A, LoRA B and other parameters, and its fields with defaults and sources.

    Raises:
        UnknownNameError: no optimiser of this kind.
    """
    if kind not in OPTIMISERS:
        raise unknown_name("optimiser", kind, OPTIMISERS)
    on_A, on_B, on_other = _UPDATES[kind]
    fields = {
        name: {"default": None if field.is_required() else field.default, "source": field.description}
        for name, field in OPTIMISERS[kind].model_fields.items()
        if name != "kind"
    }
    return {"optimiser": kind, "A": on_A, "B": on_B, "other": on_other, "fields": fields}
