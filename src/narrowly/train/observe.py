"""Observers: functions that look at a run at its checkpoint steps, and cannot disturb it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.engines import stopping
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from torch import nn


class ObserverContext(NamedTuple):
    """What an observer sees: the live run at one checkpoint step.

    `step` is the number of optimiser steps done. The PEFT model is in eval mode and gradients are off; its parameters
    must not be changed.
    """

    step: int
    model: nn.Module
    tokenizer: Any
    run_directory: Path


Observer = Callable[[ObserverContext], Mapping[str, float]]
"""Called at every checkpoint step, 0 included; what it returns goes into that step's row of trajectory.jsonl."""


def finite_or_none(value: float | None) -> float | None:
    """Return a float, or None for what JSON has no number for (NaN, infinity: a spectrum at B = 0)."""
    return None if value is None or not math.isfinite(value) else float(value)


def call_observers(
    observers: Sequence[Observer], context: ObserverContext, taken: frozenset[str]
) -> dict[str, float | None]:
    """Call every observer and join what they return.

    Raises:
        SpecError: two observers, or an observer and the run itself, use the same name.
        Stopped: a signal asked for it between two of them.
    """
    values: dict[str, float | None] = {}
    for observer in observers:
        stopping.check()
        for key, value in observer(context).items():
            if key in values or key in taken:
                raise SpecError(
                    f"an observer returned {key!r}, which is already in the row; accepted: a name of its own"
                )
            values[key] = finite_or_none(value)
    return values
