"""Declare the content of `summary.json` as types: what `summarise` returns and the report reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from narrowly.analysis.contrasts import ArmContrast, Contrast, TwinContrast
from narrowly.analysis.paired_schema import PairedAnswers
from narrowly.analysis.paper_claims import ClaimVerdict
from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.stats.intervals import Interval
from narrowly.stats.regression import Fit

Number = float | None
"""A measured value; None where it was not measured, with the reason beside it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class FailedCell(_Part):
    """A cell whose last attempt failed, with its error in one line."""

    cell_id: str
    arm: str
    base: str
    seed: int | None
    error: str | None


class Cells(_Part):
    """How many cells there are, by what became of them."""

    planned: int
    done: int
    failed: int
    pending: int
    failures: tuple[FailedCell, ...]


class ClassRates(_Part):
    """Outcome classes of a base on one panel before fine-tuning: mean exact probabilities, and the literature rate."""

    aligned: Number
    misaligned: Number
    incoherent: Number
    literature: Number


class Base(_Part):
    """A base before fine-tuning: class probabilities on chat prompts, weighted by the questions of each panel."""

    id: str
    aligned: Number
    misaligned: Number
    incoherent: Number
    persona: bool | None
    n_questions: int
    panels: dict[str, ClassRates]
    reason: str | None


class PanelRates(_Part):
    """Outcome classes on one panel, means over bases, with joint and literature rate and the denominators."""

    aligned: Number
    misaligned: Number
    incoherent: Number
    joint: Number
    literature: Number
    n_bases: int
    n_questions: int | None
    joint_interval: tuple[Number, Number]
    reason: str | None


class OptimiserRow(_Part):
    """One optimiser arm: means over bases of its final organisms, and in `intervals` each with its interval.

    Rates are shares; alignment is 0 to 100; losses are nats; update_norm is a Frobenius norm. `reason` says why there
    is nothing.
    """

    in_domain: Number
    held_out_topics: Number
    broad_joint: Number
    broad_literature: Number
    broad_self: Number
    incoherent: Number
    excess_loss: Number
    update_norm: Number
    stable_rank: Number
    frobenius_nuclear: Number
    final_loss: Number
    alignment: Number
    log_odds: Number
    optimiser: str
    lr: Number
    n_bases: int
    n_organisms: int
    n_questions: dict[str, int | None]
    intervals: dict[str, Interval]
    n_not_evaluated: int
    reason: str | None


class PenaltyRow(_Part):
    """A penalty arm minus the arm that it is of: alignment in points, losses in nats, incoherent share, stable rank."""

    delta_alignment: Number
    delta_loss: Number
    delta_training_loss: Number
    delta_log_odds: Number
    delta_incoherent: Number
    delta_stable_rank: Number
    arm: str
    of: str | None
    lam: Number
    n_bases: int
    reason: str | None
    intervals: dict[str, Contrast]


class EditRow(_Part):
    """Every organism of one arm under one edit: misaligned shares on held-out topics (narrow) and broad."""

    narrow: Number
    broad: Number
    broad_literature: Number
    incoherent: Number
    excess_loss: Number
    n_bases: int
    intervals: dict[str, Interval]


class Flagged(_Part):
    """A final organism with more incoherent answers on the broad panel than a primary contrast admits."""

    cell_id: str
    arm: str
    role: str
    base: str
    domain: int | None
    seed: int | None
    incoherent: Number


class Controls(_Part):
    """Class tables by panel: bases before training, twins by arm, arms under a cue; and the flagged organisms."""

    base: dict[str, PanelRates]
    no_persona_base: dict[str, PanelRates]
    aligned_twin: dict[str, dict[str, PanelRates]]
    no_persona_twin: dict[str, dict[str, PanelRates]]
    cued: dict[str, dict[str, PanelRates]]
    incoherent_limit: float
    flagged: tuple[Flagged, ...]


class Regression(_Part):
    """Alignment on the logarithm of a loss; the two R^2 of the paper's claim stand beside the fits that they are of."""

    pooled_r2: Number
    pooled_adjusted_r2: Number
    stratified_r2: Number
    stratified_adjusted_r2: Number
    n: int
    reason: str | None
    slope: Number
    intercept: Number
    remaining_explained: Number
    remaining_range: tuple[float, float] | None
    loss_span: tuple[float, float] | None
    pooled: Fit
    stratified: Fit
    optimiser_only: Fit
    method: str
    on_excess_loss: Regression | None = None


class NotEvaluated(_Part):
    """How many cells are trained and not evaluated, and what stands in place of their alignment."""

    cells: int
    planned: int
    alignment: str | None


class TrainedArm(_Part):
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


class TrainedPenalty(_Part):
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


class StepZero(_Part):
    """Whether base and fresh adapter had the same held-out loss, by run."""

    equal: int
    different: tuple[str, ...]
    not_measured: int


class Heldout(_Part):
    """In how many of the runs with a held-out loss it ended lower than it began."""

    lower: int
    measured: int


class Cost(_Part):
    """What all training steps read and took: tokens, seconds, and seconds on a GPU among them."""

    tokens: int
    seconds: float
    gpu_seconds: float


class Training(_Part):
    """What training left of every run of the study, evaluated or not."""

    planned: int
    done: int
    failed: int
    arms: dict[str, TrainedArm]
    penalty: dict[str, TrainedPenalty]
    step_0: StepZero
    heldout: Heldout
    cost: Cost


class Summary(_Part):
    """What a study found, every number recomputable from its tables; see `summarise` for how."""

    study: str | None
    title: str | None
    demonstration: bool
    seconds: Number
    cells: Cells
    bases: tuple[Base, ...]
    ideal_broad: Number
    optimisers: dict[str, OptimiserRow]
    contrasts: dict[str, ArmContrast]
    em_exists: TwinContrast
    penalty: dict[str, PenaltyRow]
    edits: dict[str, dict[str, EditRow]]
    controls: Controls
    regression: Regression
    paper_claims: tuple[ClaimVerdict, ...] = Field(alias="claims")
    not_evaluated: NotEvaluated
    training: Training
    paired: PairedAnswers | None = None
    prereg: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the summary as strict JSON: lists for tuples, None for every number that is not finite."""
        ready: dict[str, Any] = _finite(self.model_dump(mode="json", by_alias=True))
        return ready

    @classmethod
    def from_json(cls, value: Any, source: str) -> Summary:
        """Read a summary back.

        Args:
            value: the parsed JSON.
            source: where it comes from, for the message.

        Raises:
            IntegrityError: it is no summary of this version.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise IntegrityError(
                f"{source} is no study summary of this version ({first_fault(error)}); `narrowly report` makes it anew"
            ) from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
