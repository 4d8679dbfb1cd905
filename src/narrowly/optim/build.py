"""From a typed spec to one `torch.optim.Optimizer`: every field passed on, nothing inherited, nothing falls back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from narrowly.optim.builders import library
from narrowly.optim.builders import muon as muon_builders
from narrowly.optim.builders.library import Builder
from narrowly.optim.router import Named, check_complete, route
from narrowly.records.optimisers.registry import OptimiserBase, OptimiserSpec, spec_class


def build_optimizer(spec: OptimiserSpec, model: nn.Module | Iterable[Named]) -> torch.optim.Optimizer:
    """Return the optimiser that a spec describes, over all trainable parameters.

    Args:
        spec: one of the classes of `narrowly.records.optimisers.registry`.
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


BUILDERS: dict[type[OptimiserBase], Builder] = {**library.BUILDERS, **muon_builders.BUILDERS}
"""The builder of every spec class; an optimiser is added here and in `narrowly.records.optimisers.registry`."""
