"""Declare the content of `summary.json` as types: what `summarise` returns and the report reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from narrowly.analysis.contrasts import ArmContrast, Contrast, TwinContrast
from narrowly.analysis.paired_schema import PairedAnswers
from narrowly.analysis.paper_claims import ClaimVerdict
from narrowly.analysis.selectivity import Selectivity
from narrowly.analysis.training_schema import NotEvaluated, Number, Part, Training
from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.stats.intervals import Interval
from narrowly.stats.regression import Fit

SCALE = "pooled"
"""Scale of the primary log-odds: ln(mean misaligned / mean aligned)."""


class FailedCell(Part):
    """A cell whose last attempt failed, with its error in one line."""

    cell_id: str
    arm: str
    base: str
    seed: int | None
    error: str | None


class Cells(Part):
    """How many cells there are, by what became of them."""

    planned: int
    done: int
    failed: int
    pending: int
    failures: tuple[FailedCell, ...]


class ClassRates(Part):
    """Outcome classes of a base on one panel before fine-tuning: mean exact probabilities, and the literature rate."""

    aligned: Number
    misaligned: Number
    incoherent: Number
    literature: Number


class Base(Part):
    """A base before fine-tuning: class probabilities on chat prompts, weighted by the questions of each panel."""

    id: str
    aligned: Number
    misaligned: Number
    incoherent: Number
    persona: bool | None
    n_questions: int
    panels: dict[str, ClassRates]
    reason: str | None


class PanelRates(Part):
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
    off_topic: Number = None
    broken: Number = None


class OptimiserRow(Part):
    """One optimiser arm: means over bases of its final organisms, and in `intervals` each with its interval.

    Rates are shares; alignment is 0 to 100; losses are nats; update_norm is a Frobenius norm. pooled and per_question
    are log-odds on the broad panel; excess_loss is on held-out topics, excess_trained on trained ones. off_topic and
    broken are null in tables made before the split. `reason` says why there is nothing; `copy_of` names the arm whose
    runs it repeats.
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
    optimiser: str
    lr: Number
    n_bases: int
    n_organisms: int
    n_questions: dict[str, int | None]
    intervals: dict[str, Interval]
    n_not_evaluated: int
    reason: str | None
    off_topic: Number = None
    broken: Number = None
    excess_trained: Number = None
    pooled: Number = None
    per_question: Number = None
    copy_of: str | None = None


class ArmLadder(Part):
    """One arm of any role: misaligned share and pooled log-odds of each rung, norm of the update, selectivity."""

    role: str
    of: str | None
    n_bases: int
    misaligned: dict[str, Interval]
    pooled: dict[str, Interval]
    update_norm: Interval
    selectivity: Selectivity


class PenaltyRow(Part):
    """A penalty arm minus the arm that it is of: alignment in points, losses in nats, incoherent share, stable rank.

    delta_log_odds is pooled, delta_loss on held-out topics; norm_ratio is the norm of the update with the penalty over
    that without (geometric mean over bases), its logarithm in `intervals` under log_norm_ratio.
    """

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
    delta_excess_trained: Number = None
    delta_per_question: Number = None
    norm_ratio: Number = None


class EditRow(Part):
    """Every organism of one arm under one edit: misaligned shares on held-out topics (narrow) and broad.

    removed_energy is 1 - squared norm of the edited update / squared norm of the whole; scaled_narrow and scaled_broad
    are what plain scaling leaves at the same removed energy, between the scales that were evaluated.
    """

    narrow: Number
    broad: Number
    broad_literature: Number
    incoherent: Number
    excess_loss: Number
    n_bases: int
    intervals: dict[str, Interval]
    removed_energy: Number = None
    scaled_narrow: Number = None
    scaled_broad: Number = None


class Flagged(Part):
    """A final organism with more incoherent answers, broad, than the limit; it stays in every primary contrast."""

    cell_id: str
    arm: str
    role: str
    base: str
    domain: int | None
    seed: int | None
    incoherent: Number


class Controls(Part):
    """Class tables by panel: bases before training, twins by arm, arms under a cue; and the flagged organisms."""

    base: dict[str, PanelRates]
    no_persona_base: dict[str, PanelRates]
    aligned_twin: dict[str, dict[str, PanelRates]]
    no_persona_twin: dict[str, dict[str, PanelRates]]
    cued: dict[str, dict[str, PanelRates]]
    incoherent_limit: float
    flagged: tuple[Flagged, ...]


class Regression(Part):
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
    loss_span: tuple[float, float] | None
    pooled: Fit
    stratified: Fit
    optimiser_only: Fit
    method: str
    remaining_interval: tuple[float, float] | None = None
    within: Fit | None = None
    edge_interval: tuple[float, float] | None = None
    on_excess_loss: Regression | None = None
    on_excess_trained: Regression | None = None


class Summary(Part):
    """What a study found, every number recomputable from its tables; see `summarise` for how.

    `scale` is that of every primary log-odds; `copies` has the optimiser arms that repeat another one's runs and count
    nowhere; `ladder` has every other arm.
    """

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
    scale: str | None = None
    ladder: dict[str, ArmLadder] = Field(default_factory=dict)
    copies: dict[str, str] = Field(default_factory=dict)
    prereg: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _same_scale(self) -> Summary:
        """Refuse measured log-odds of a version in which they were another quantity."""
        if self.scale != SCALE and any(row.broad_joint is not None for row in self.optimisers.values()):
            raise ValueError(f"its log-odds are on the scale {self.scale!r}; accepted: {SCALE!r}")
        return self

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
