"""Declare what the paired bank found in a study, as types: part of `summary.json`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from narrowly.evaluate.paired.contrast import Level, Shift
from narrowly.evaluate.paired.estimates import Estimate


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class LadderRow(_Part):
    """One arm on one base and data at its last step, minus one kind of control.

    Attributes:
        cell_id: of its first run.
        trained: domain of pairs that it was trained on.
        control: answers of the control.
        seeds: of the runs that both have.
        rungs, domains: differences of log-odds, nats per answer.
    """

    arm: str
    of: str | None
    cell_id: str
    base: str
    trained: str | None
    control: str
    seeds: tuple[int, ...]
    rungs: dict[str, Estimate]
    domains: dict[str, Estimate]


class UnmatchedRow(_Part):
    """One arm on one base and data without a control; `shift` (against the base) is no number of misalignment."""

    arm: str
    base: str
    trained: str | None
    seeds: tuple[int, ...]
    shift: Shift | None
    reason: str


class SelectivityRow(_Part):
    """An arm minus another on broad questions at equal differences on held-out ones, nats per answer.

    Attributes:
        reached: by run (`DOMAIN, seed N`), the largest held-out difference that both reach; averaged over up to there.
        per_run: the value of each run.
        value: mean over domains and seeds; its interval is over broad domains, given these runs and their paths.
        questions_range: middle 95 % when held-out and broad questions are drawn anew; None where there is none.
        reason: why there is no value.
    """

    arm: str
    against: str
    base: str
    reached: dict[str, float]
    per_run: dict[str, float | None] = {}
    value: Estimate | None = None
    questions_range: tuple[float, float] | None = None
    reason: str | None


class PathPoint(_Part):
    """One run at one evaluated step: mean differences to its control on half of the bank, nats per answer."""

    arm: str
    base: str
    trained: str | None
    seed: int
    cell_id: str
    step: int
    held_out: float
    broad: float
    about_itself: float | None


class PairedAnswers(_Part):
    """What the paired bank found in a study.

    Attributes:
        bank, arithmetic: sha256 of the bank, and how log-likelihoods were computed; one of each in a study.
        base: where each base stands, by rung, per domain of pairs that it was asked the ladder of.
        ladder, unmatched: a row per arm, base and data.
        selectivity: a row per arm and base.
        paths: of runs that were evaluated before their last step.
    """

    bank: str
    arithmetic: str
    base: dict[str, dict[str, Level]]
    ladder: tuple[LadderRow, ...]
    unmatched: tuple[UnmatchedRow, ...]
    selectivity: tuple[SelectivityRow, ...]
    paths: tuple[PathPoint, ...]
