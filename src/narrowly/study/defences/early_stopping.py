"""Stop as early as the narrow skill allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from narrowly.records.errors import SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.study.defences.protocol import Defence, EarlyStop, Plan


class EarlyStopping(Defence):
    """Take the earliest checkpoint that has reached a misaligned share on held-out topics of the trained domain."""

    stage = "after"
    source = "2605.12199 (earliest checkpoint that keeps the task); in some worlds the early one is the worst"
    cost = "none in training; an evaluation at each checkpoint"
    strength_field = "threshold"
    zero = 1.0

    kind: Literal["early_stopping"] = "early_stopping"
    threshold: float = Field(
        0.8, gt=0, le=1, description="misaligned share on held-out topics; 1, which none reaches: the last checkpoint"
    )

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(run, after=EarlyStop(self.threshold))


def earliest(held_out: Mapping[int, float], threshold: float) -> int:
    """Return the first step whose misaligned share on held-out topics is at least a threshold, else the last one.

    Args:
        held_out: share by checkpoint step.
        threshold: 0 to 1.

    Raises:
        SpecError: no checkpoint was evaluated.
    """
    if not held_out:
        raise SpecError("early_stopping has no evaluated checkpoint, accepted: at least one")
    return next((step for step in sorted(held_out) if held_out[step] >= threshold), max(held_out))
