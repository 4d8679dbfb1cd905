"""Declare what a summary says of training, evaluated or not, as types; and the base of every part of a summary."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from narrowly.analysis.contrasts import Contrast
from narrowly.stats.intervals import Interval

Number = float | None
"""A measured value; None where it was not measured, with the reason beside it."""


class Part(BaseModel):
    """Hold one part of a summary, frozen; fields may be given by name or alias."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class NotEvaluated(Part):
    """How many cells are trained and not evaluated, and what stands in place of their alignment."""

    cells: int
    planned: int
    alignment: str | None


class TrainedArm(Part):
    """What training left of one arm, means over bases; losses in nats per supervised token."""

    final_loss: Number
    heldout_final: Number
    heldout_ratio: Number
    update_norm: Number
    stable_rank: Number
    frobenius_nuclear: Number
    role: str
    of: str | None
    lr: Number
    n_runs: int
    n_bases: int
    intervals: dict[str, Interval]
    alignment: str | None
    reason: str | None


class TrainedPenalty(Part):
    """Runs with a penalty minus the runs without it that share everything else."""

    delta_final_loss: Number
    delta_heldout_final: Number
    delta_update_norm: Number
    delta_stable_rank: Number
    delta_frobenius_nuclear: Number
    of: str
    lam: Number
    n_bases: int
    reason: str | None
    intervals: dict[str, Contrast]


class StepZero(Part):
    """Whether base and fresh adapter had the same held-out loss, by run."""

    equal: int
    different: tuple[str, ...]
    not_measured: int


class Heldout(Part):
    """In how many of the runs with a held-out loss it ended lower than it began."""

    lower: int
    measured: int


class Cost(Part):
    """What all training steps read and took: tokens, seconds, and seconds on a GPU among them."""

    tokens: int
    seconds: float
    gpu_seconds: float


class Training(Part):
    """What training left of every run of the study, evaluated or not."""

    planned: int
    done: int
    failed: int
    arms: dict[str, TrainedArm]
    penalty: dict[str, TrainedPenalty]
    step_0: StepZero
    heldout: Heldout
    cost: Cost
