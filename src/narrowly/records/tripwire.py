"""Describe a tripwire and what it has read: the options, one reading per look, and the record beside a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from narrowly.records.spec import Spec

FEWEST = 5
"""Questions below which no interval is given (`stats.intervals.MIN_UNITS`)."""


class TripwireSpec(Spec):
    """What a tripwire asks, how often, at what cost, and beside which control."""

    every: int = Field(10, ge=1, description="optimiser steps between two readings, before the budget widens them")
    questions: int = Field(40, ge=FEWEST, description="questions of the sub-bank; their pairs are read each time")
    budget: float = Field(0.01, gt=0, le=1, description="largest share of the training time that readings may take")
    bank: str = Field("pairs", description="the shipped paired bank, domains of it, or a file or folder of pairs")
    control: str | None = Field(None, description="run directory, Trainer's output folder or adapter of the control")
    stop: float | None = Field(
        None, gt=0, description="margin in nats per answer: a difference shown to exceed it stops the training"
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="chance that any interval of the training misses its mean")

    @model_validator(mode="after")
    def _stop_needs_a_control(self) -> TripwireSpec:
        if self.stop is not None and self.control is None:
            raise ValueError(
                f"stop is {self.stop:g} without a control, accepted: with control only (format and shrinkage towards "
                "zero move a model against its base too)"
            )
        return self


class TripwireReading(Spec):
    """One look at the sub-bank.

    Attributes:
        step: optimiser steps done.
        elapsed: wall-clock seconds of the training up to it, earlier readings included.
        seconds: that it took.
        log_odds: of the harmful against the aligned answer, nats per answer, in the order of the record's ids.
    """

    step: int = Field(ge=0)
    elapsed: float
    seconds: float
    log_odds: tuple[float, ...]


class TripwireLook(Spec):
    """What a reading said beside the control, or beside the start where there is none.

    Attributes:
        step: optimiser steps done.
        beside: what is subtracted.
        mean, low, high: over questions, nats per answer; limits of the interval over all looks, with a control only.
        slope, intercept: line of the shift on the log-odds at the start, without a control only.
        alarm: whether the lower limit is above the margin of `stop`.
    """

    step: int
    beside: Literal["control", "start"]
    mean: float
    low: float | None = None
    high: float | None = None
    slope: float | None = None
    intercept: float | None = None
    alarm: bool = False


class TripwireRecord(Spec):
    """Everything that a tripwire has read in one training; it is also what another training is held against.

    Attributes:
        bank_sha256: of the questions and answers of the sub-bank.
        choice: how they were chosen, and from how many.
        ids, domains: of the questions.
        tokens_sha256: of the tokens that were scored, so of bank, tokenizer, template and thinking mode.
        prompts_sha256: of the prompts that were trained on; None where they are not known.
        base_sha256: of the weights of the base; None where it is not known.
        options: of the tripwire.
        seconds, own_seconds: wall-clock time of the training so far, readings included, and that of the readings.
        readings: in the order of their steps; the first is of step 0.
        looks: what they said.
        notes: what a reader must know, each a sentence.
    """

    schema_version: Literal[1] = 1
    bank_sha256: str
    choice: str
    ids: tuple[str, ...]
    domains: tuple[str, ...]
    tokens_sha256: str
    prompts_sha256: str | None
    base_sha256: str | None
    options: TripwireSpec
    seconds: float
    own_seconds: float
    readings: tuple[TripwireReading, ...]
    looks: tuple[TripwireLook, ...]
    notes: tuple[str, ...]
