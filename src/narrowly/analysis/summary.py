"""Make the summary of a study from its frames: every number recomputable, null with a reason, no NaN.

Means are over bases (seeds and domains averaged within a base first), of final unedited organisms of finished cells,
unless a field says otherwise. Rates are means of exact class probabilities over questions; alignment = 100 x aligned /
(aligned + misaligned). The rules of the contrasts stand in `contrasts`, those of the paper claims in `paper_claims`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import polars as pl

from narrowly.analysis.contrasts import (
    INCOHERENT_LIMIT,
    PRIMARY,
    ArmContrast,
    Contrast,
    TwinContrast,
    missing_contrast,
    paired_contrast,
)
from narrowly.analysis.evidence import arm_of, gather_evidence, regression_of
from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import interval_over_bases, on_panel
from narrowly.analysis.paired_answers import paired_answers
from narrowly.analysis.panel_rates import bases_of, controls_of, edits_of
from narrowly.analysis.paper_claims import verdicts_on
from narrowly.analysis.summary_schema import Cells, FailedCell, OptimiserRow, PenaltyRow, Regression, Summary
from narrowly.analysis.training import not_evaluated, training_of
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, HELD_OUT, TRAINED_TOPICS
from narrowly.records.outcome import NO_JUDGE
from narrowly.stats.regression import LossRegression

Wider = TypeVar("Wider", ArmContrast, TwinContrast)

LADDER_METRICS = {
    "in_domain": (TRAINED_TOPICS, "misaligned"),
    "held_out_topics": (HELD_OUT, "misaligned"),
    "broad_joint": (BROAD, "joint"),
    "broad_literature": (BROAD, "literature"),
    "broad_self": (BROAD_SELF, "misaligned"),
    "incoherent": (BROAD, "incoherent"),
    "excess_loss": (HELD_OUT, "excess_loss"),
}
"""Field of `OptimiserRow` -> the panel and column that it is the mean of."""

ORGANISM_METRICS = (
    "update_norm", "stable_rank", "frobenius_nuclear", "final_loss", "alignment", "log_odds",
)  # fmt: skip
"""Fields of `OptimiserRow` that are means of the column of the same name over organisms."""

PENALTY_METRICS = {
    "delta_alignment": ("alignment", "alignment (points)"),
    "delta_loss": ("excess_loss", "excess loss (nats)"),
    "delta_training_loss": ("final_loss", "final training loss (nats)"),
    "delta_log_odds": ("log_odds", "log-odds"),
    "delta_incoherent": ("incoherent", "incoherent share"),
    "delta_stable_rank": ("stable_rank", "stable rank"),
}
"""Field of `PenaltyRow` -> the column of organisms that is compared, and its name in words."""

REGRESSION = (
    "ordinary least squares of the alignment score (0-100, broad panel) on ln(loss), one point per final organism; "
    "stratified: own intercept and slope per optimiser; ranges: one base left out at a time"
)


def summarise(frames: Frames, study: Mapping[str, Any]) -> Summary:
    """Return the summary of a study.

    Args:
        frames: of the study (`frames.read_frames`).
        study: at least `name`; `seconds` (wall-clock seconds of the study), `title`, `demonstration` and
            `ideal_broad` and `prereg_record` are taken over where they are there.
    """
    cells = frames.tables.cells
    judged = cells.filter(pl.col("not_evaluated").is_null())
    nothing_judged = judged.is_empty() and not cells.is_empty()
    names = names_of(judged)
    optimisers = frames.optimiser_organisms.with_columns(pl.col("arm").replace(names))
    regression = regression_of(optimisers, "final_loss")
    penalties = _penalties(judged, frames.organisms)
    evidence = gather_evidence(
        optimisers, frames.start, regression, {key: row.intervals for key, row in penalties.items()}, names
    )
    return Summary(
        study=study.get("name"),
        title=study.get("title"),
        demonstration=bool(study.get("demonstration", False)),
        seconds=study.get("seconds"),
        cells=_cells(cells),
        bases=bases_of(cells, frames.start),
        ideal_broad=_ideal(cells, study),
        optimisers=_optimisers(cells, frames),
        contrasts=_contrasts(optimisers, set(names_of(cells).values()) - set(names.values()), nothing_judged),
        em_exists=_no_twin(NO_JUDGE) if nothing_judged else _em_exists(judged, frames.organisms, frames.start),
        penalty=penalties,
        edits=edits_of(frames.outcomes),
        controls=controls_of(judged, frames),
        regression=_regression(regression, regression_of(optimisers, "excess_loss"), nothing_judged),
        paper_claims=() if nothing_judged else tuple(verdicts_on(evidence)),
        not_evaluated=not_evaluated(cells),
        training=training_of(cells, frames.runs),
        paired=paired_answers(frames.tables.paired),
        prereg=study.get("prereg_record"),
    )


def names_of(cells: pl.DataFrame) -> dict[str, str]:
    """Return arm -> the optimiser of the paper that it stands for."""
    return {arm: name for name in ("sgd", "adam", "adamw", "lion", "muon") if (arm := arm_of(cells, name))}


def _contrasts(optimisers: pl.DataFrame, unjudged: set[str], nothing_judged: bool) -> dict[str, ArmContrast]:
    if nothing_judged:
        return {f"{first}/{second}": _widened(ArmContrast, missing_contrast(NO_JUDGE)) for first, second in PRIMARY}
    result = {}
    for first, second in PRIMARY:
        found = _contrast(optimisers, first, second, INCOHERENT_LIMIT)
        if unjudged & {first, second}:
            found = replace(found, reason=NO_JUDGE)
        everyone = _contrast(optimisers, first, second, None)
        result[f"{first}/{second}"] = _widened(ArmContrast, found, all_cells=everyone)
    return result


def _contrast(frame: pl.DataFrame, first: str, second: str, limit: float | None) -> Contrast:
    return paired_contrast(
        frame, first, second, incoherent_limit=limit, note="log-odds = ln(misaligned/aligned), broad panel"
    )


def _widened(kind: type[Wider], contrast: Contrast, **more: Any) -> Wider:
    """Return a contrast with others beside it."""
    own: dict[str, Any] = {field.name: getattr(contrast, field.name) for field in fields(Contrast)}
    return kind(**own, **more)


def _cells(cells: pl.DataFrame) -> Cells:
    failed = cells.filter(pl.col("status") == "failed").sort("cell_id")
    done = cells.filter(pl.col("status") == "done").height
    return Cells(
        planned=cells.height,
        done=done,
        failed=failed.height,
        pending=cells.height - done - failed.height,
        failures=tuple(
            FailedCell(**row) for row in failed.select("cell_id", "arm", "base", "seed", "error").to_dicts()
        ),
    )


def _ideal(cells: pl.DataFrame, study: Mapping[str, Any]) -> float | None:
    """Return the ideal learner's broad harm 1 / (1 + rho), where the study knows it."""
    if study.get("ideal_broad") is not None:
        return float(study["ideal_broad"])
    found = cells.filter(pl.col("persona").fill_null(True))["ideal_broad"].drop_nulls()
    return float(found.mean()) if len(found) else None  # type: ignore[arg-type]


def _optimisers(cells: pl.DataFrame, frames: Frames) -> dict[str, OptimiserRow]:
    arms = sorted(cells.filter(pl.col("role") == "optimiser")["arm"].unique().to_list())
    return {arm: _optimiser(*(frame.filter(pl.col("arm") == arm) for frame in
            (cells, frames.finals, frames.organisms))) for arm in arms}  # fmt: skip


def _optimiser(cells: pl.DataFrame, finals: pl.DataFrame, organisms: pl.DataFrame) -> OptimiserRow:
    """Return one arm's row from its cells, its final rows by panel and its final organisms."""
    intervals = {
        field: interval_over_bases(on_panel(finals, panel), column) for field, (panel, column) in LADDER_METRICS.items()
    }
    intervals |= {field: interval_over_bases(organisms, field) for field in ORGANISM_METRICS}
    unjudged = cells["not_evaluated"].is_not_null().sum()
    absent = NO_JUDGE if unjudged == cells.height else "no finished cell of this arm"
    questions = finals.group_by("panel").agg(pl.col("n_questions").max()).sort("panel")
    return OptimiserRow(
        **{field: found.estimate for field, found in intervals.items()},
        optimiser=cells["optimiser"][0],
        lr=_only(cells["lr"]),
        n_bases=finals["base"].n_unique(),
        n_organisms=finals["cell_id"].n_unique(),
        n_questions=dict(questions.iter_rows()),
        intervals=intervals,
        n_not_evaluated=unjudged,
        reason=None if finals.height else absent,
    )


def _only(values: pl.Series) -> Any:
    found = values.drop_nulls().unique()
    return found[0] if len(found) == 1 else None


def _no_twin(reason: str, method: str = "not computed") -> TwinContrast:
    return _widened(TwinContrast, missing_contrast(reason, method))


def _em_exists(cells: pl.DataFrame, organisms: pl.DataFrame, start: pl.DataFrame) -> TwinContrast:
    """Return Adam on persona bases minus Adam on the no-persona twin, same narrow domain, log-odds on broad."""
    adam = arm_of(cells, "adam")
    twins = organisms.filter((pl.col("role") == "no_persona_twin") & (pl.col("of") == (adam or "")))
    method_note = "the twin is one base, so the interval is over persona bases given that twin"
    if adam is None or twins.is_empty():
        reason = "no optimiser arm adam" if adam is None else "no finished no-persona twin of adam"
        return _no_twin(reason, f"Adam, persona bases minus no-persona twin; {method_note}")
    persona = organisms.filter((pl.col("arm") == adam) & pl.col("persona").fill_null(True))
    before = on_panel(start, BROAD).select("base", "domain", pl.col("log_odds").alias("_before"))
    frame = (
        pl.concat([persona, twins.with_columns(pl.lit("no-persona twin").alias("arm"))])
        .join(before, on=["base", "domain"], how="left")
        .with_columns((pl.col("log_odds") - pl.col("_before")).alias("change"))
    )

    def compare(limit: float | None, value: str = "log_odds", what: str = "log-odds") -> Contrast:
        return paired_contrast(
            frame, adam, "no-persona twin", value=value, what=what, pair_on=("domain",), incoherent_limit=limit,
            note=f"log-odds = ln(misaligned/aligned), broad panel; {method_note}",
        )  # fmt: skip

    return _widened(
        TwinContrast,
        compare(None),
        without_flagged=compare(INCOHERENT_LIMIT),
        change_from_base=compare(None, "change", "change of log-odds since before fine-tuning"),
    )


def _penalties(cells: pl.DataFrame, organisms: pl.DataFrame) -> dict[str, PenaltyRow]:
    """Return every penalty arm minus the arm that it is of, by that arm where it has one penalty arm only."""
    arms = cells.filter(pl.col("role") == "penalty").select("arm", "of").unique().sort("arm").rows()
    result = {}
    for arm, of in arms:
        key = of if of is not None and sum(other == of for _, other in arms) == 1 else arm
        found = {
            field: paired_contrast(organisms, arm, of or "", value=value, what=what, incoherent_limit=None)
            for field, (value, what) in PENALTY_METRICS.items()
        }
        result[key] = PenaltyRow(
            **{field: contrast.estimate for field, contrast in found.items()},
            arm=arm,
            of=of,
            lam=_only(cells.filter(pl.col("arm") == arm)["penalty_lam"]),
            n_bases=found["delta_alignment"].n_bases,
            reason=found["delta_alignment"].reason,
            intervals=found,
        )
    return dict(sorted(result.items()))


def _regression(training: LossRegression, excess: LossRegression, nothing_judged: bool) -> Regression:
    reason = NO_JUDGE if nothing_judged else training.pooled.reason or training.stratified.reason
    on_excess = _flat(excess, excess.pooled.reason or excess.stratified.reason, None)
    return _flat(training, reason, on_excess)


def _flat(found: LossRegression, reason: str | None, on_excess_loss: Regression | None) -> Regression:
    return Regression(
        pooled_r2=found.pooled.r2,
        pooled_adjusted_r2=found.pooled.adjusted_r2,
        stratified_r2=found.stratified.r2,
        stratified_adjusted_r2=found.stratified.adjusted_r2,
        n=found.pooled.n,
        reason=reason,
        method=REGRESSION,
        on_excess_loss=on_excess_loss,
        **{field.name: getattr(found, field.name) for field in fields(LossRegression)},
    )
