"""Put the model in place for optimisers that train at other parameters: ScheduleFree trains at y, the model is x.

Any optimiser with callable `train` and `eval` counts as such. Its own switch there and back is right up to rounding
only, so the parameters of training are kept and put back bit for bit: looking at a run must not change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TrainingPoint = list[Tensor]
"""Copies of the parameters at which training goes on, in the order of the optimiser's groups."""


@contextmanager
def evaluation_mode(optimizer: Any) -> Iterator[TrainingPoint | None]:
    """Put the parameters that are the model in place for a while: for checkpoints, spectra and evaluations.

    Costs one copy of the trained parameters, and nothing for optimisers without modes. Changes that the block makes
    to trained parameters are lost. An optimiser that is in evaluation mode already stays in it.

    Args:
        optimizer: any optimiser, also inside accelerate's AcceleratedOptimizer.

    Yields:
        The parameters of training where they differ from those in place (what an exact resume needs), else None.
    """
    inner = _unwrapped(optimizer)
    if not _has_modes(inner) or not all(group.get("train_mode", True) for group in inner.param_groups):
        yield None
        return
    point = [parameter.detach().clone() for parameter in _parameters(inner)]
    inner.eval()
    try:
        yield point
    finally:
        return_to_training(inner, point)


def return_to_training(optimizer: Any, point: TrainingPoint | None) -> None:
    """Go on from a training point: switch to training mode, then make the parameters what they were, bit for bit.

    Args:
        optimizer: the optimiser, for instance with a state dict just loaded that was taken in evaluation mode.
        point: what `evaluation_mode` yielded; None does nothing.
    """
    if point is None:
        return
    inner = _unwrapped(optimizer)
    inner.train()
    with torch.no_grad():
        for parameter, kept in zip(_parameters(inner), point, strict=True):
            parameter.copy_(kept)


def _unwrapped(optimizer: Any) -> Any:
    # its train() and eval() are there whether the optimiser inside has modes or not
    while type(optimizer).__name__ == "AcceleratedOptimizer":
        optimizer = optimizer.optimizer
    return optimizer


def _has_modes(optimizer: Any) -> bool:
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def _parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
