"""From a typed spec to one `torch.optim.Optimizer`: every field passed on, nothing inherited, nothing falls back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from spectralign.optim import library
from spectralign.optim.library import Builder
from spectralign.optim.muon import Muon
from spectralign.optim.router import Named, Routing, check_complete, listed, route
from spectralign.records.errors import OptimiserError
from spectralign.records.optimisers import MuonSpec, OptimiserBase, OptimiserSpec, spec_class


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
    builder = BUILDERS.get(type(spec))
    if builder is None:
        builder = BUILDERS[spec_class(str(getattr(spec, "kind", spec)))]
    optimizer = builder(spec, route(named))
    check_complete(named, optimizer)
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


BUILDERS: dict[type[OptimiserBase], Builder] = {**library.BUILDERS, MuonSpec: _muon}
"""The builder of every spec class; an optimiser is added here and in `spectralign.records.optimisers`."""
