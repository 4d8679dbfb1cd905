"""Learning-rate schedules as a pure function of the step, the same numbers as `transformers.get_scheduler`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from narrowly.records.run_spec import ScheduleSpec

if TYPE_CHECKING:
    import torch


def lr_factor(schedule: ScheduleSpec, step: int, steps: int) -> float:
    """Return the factor on the optimiser's lr in one optimiser step, between 0 and 1.

    With w = `warmup_steps` and p = (step - w) / (steps - w), the share of the way after warm-up:
    step / w during warm-up, then 1 (constant), 1 - p (linear) or (1 + cos(pi p)) / 2 (cosine).
    The convention is that of transformers 5.23 (`optimization.py`), so that runs compare with those of other
    trainers: the first step of a warm-up has factor 0, and the last step is one short of the end of the decay.

    Args:
        schedule: kind and warm-up.
        step: index of the optimiser step, 0 ... steps - 1.
        steps: number of optimiser steps of the run, more than `schedule.warmup_steps`.
    """
    if step < schedule.warmup_steps:
        return step / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (steps - schedule.warmup_steps)
    if schedule.kind == "linear":
        return max(0.0, 1.0 - progress)
    if schedule.kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return 1.0


def build_scheduler(
    schedule: ScheduleSpec, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return torch's scheduler that multiplies every group's lr by `lr_factor`."""
    import torch

    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(schedule, step, steps))
