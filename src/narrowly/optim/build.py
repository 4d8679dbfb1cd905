"""Build one `torch.optim.Optimizer` from a typed spec: every field passed on, nothing inherited, no fallback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from narrowly.optim.builders import library
from narrowly.optim.builders import muon as muon_builders
from narrowly.optim.builders.library import Builder
from narrowly.optim.router import Named, check_complete, route
from narrowly.records.optimisers.registry import OptimiserBase, OptimiserSpec, optimiser_spec


def build_optimizer(
    spec: OptimiserSpec | Mapping[str, Any], model: nn.Module | Iterable[Named]
) -> torch.optim.Optimizer:
    """Build the optimiser that a spec describes, over all trainable parameters.

    Args:
        spec: an optimiser's spec, or the same as a mapping: `{"kind": "muon", "lr": 1e-3}`.
        model: a module, or (name, parameter) pairs.

    Raises:
        OptimiserError: nothing to train, or a parameter that the optimiser cannot update.
        SpecError: an unknown kind or field, a value that is not accepted, fields that contradict each other.
        MissingExtraError: the optimiser's library is not installed.
    """
    typed = optimiser_spec(spec)
    named = list(model.named_parameters() if isinstance(model, nn.Module) else model)
    optimizer = BUILDERS[type(typed)](typed, route(named))
    check_complete(named, optimizer)
    return optimizer


BUILDERS: dict[type[OptimiserBase], Builder] = {**library.BUILDERS, **muon_builders.BUILDERS}
"""The builder of every spec class; an optimiser is added here and in `narrowly.records.optimisers.registry`."""
