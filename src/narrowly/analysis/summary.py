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

from narrowly.analysis.arm_rows import ladders_of, optimisers_of, penalties_of
from narrowly.analysis.contrasts import (
    PRIMARY,
    ArmContrast,
    Contrast,
    TwinContrast,
    missing_contrast,
    paired_contrast,
    sensitivity_rows,
)
from narrowly.analysis.design import design_of
from narrowly.analysis.edited import edits_of
from narrowly.analysis.evidence import arm_of, gather_evidence, regression_of
from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import on_panel
from narrowly.analysis.paired_answers import paired_answers
from narrowly.analysis.panel_rates import bases_of, controls_of
from narrowly.analysis.paper_claims import verdicts_on
from narrowly.analysis.summary_schema import SCALE, Cells, FailedCell, Regression, Summary
from narrowly.analysis.training import not_evaluated, training_of
from narrowly.evaluate.microworld.panel_names import BROAD
from narrowly.records.outcome import NO_JUDGE
from narrowly.stats.regression import LossRegression

Wider = TypeVar("Wider", ArmContrast, TwinContrast)

POOLED = "pooled log-odds = ln(mean misaligned / mean aligned), broad panel, no organism left out"

RUNG_COLUMNS = {
    "trained": "trained_pooled",
    "held_out": "held_out_pooled",
    "broad": "pooled",
    "self": "self_pooled",
    "broad_minus_held_out": "broad_minus_held_out",
}
"""Rung of the ladder -> the column of organisms that is compared; the last is what broad has beyond held-out."""

REGRESSION = (
    "ordinary least squares of the alignment score (0-100, broad panel) on ln(loss), one point per final organism; "
    "stratified: own intercept and slope per optimiser; within: both from their base's mean; intervals: middle 95 % of "
    "draws of whole bases"
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
    design = design_of(judged, frames.tables.trajectory, names)
    optimisers = frames.optimiser_organisms.with_columns(pl.col("arm").replace(names))
    losses = {loss: regression_of(optimisers, loss) for loss in ("final_loss", "excess_loss", "excess_trained")}
    penalties = penalties_of(judged, frames.organisms)
    called = {names.get(arm, arm): names.get(original, original) for arm, original in design.copies.items()}
    evidence = gather_evidence(
        optimisers,
        frames.start,
        losses["final_loss"],
        {key: row.intervals for key, row in penalties.items()},
        names,
        design._replace(copies=called),
    )
    return Summary(
        study=study.get("name"),
        title=study.get("title"),
        demonstration=bool(study.get("demonstration", False)),
        seconds=study.get("seconds"),
        cells=_cells(cells),
        bases=bases_of(cells, frames.start),
        ideal_broad=_ideal(cells, study),
        optimisers=optimisers_of(cells, frames, design.copies),
        contrasts=_contrasts(optimisers, set(names_of(cells).values()) - set(names.values()), nothing_judged),
        em_exists=_no_twin(NO_JUDGE) if nothing_judged else _em_exists(judged, frames.organisms, frames.start),
        penalty=penalties,
        edits=edits_of(frames),
        controls=controls_of(judged, frames),
        regression=_regression(losses, nothing_judged),
        paper_claims=() if nothing_judged else tuple(verdicts_on(evidence)),
        not_evaluated=not_evaluated(cells),
        training=training_of(cells, frames.runs),
        paired=paired_answers(frames.tables.paired),
        scale=SCALE,
        ladder=ladders_of(judged, frames, design.copies),
        copies=dict(design.copies),
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
        found = paired_contrast(optimisers, first, second, note=POOLED)
        if unjudged & {first, second}:
            found = replace(found, reason=NO_JUDGE)
        rungs = {
            name: paired_contrast(optimisers, first, second, value=column, what=f"pooled log-odds, {name}")
            for name, column in RUNG_COLUMNS.items()
        }
        beside = sensitivity_rows(optimisers, first, second)
        result[f"{first}/{second}"] = _widened(ArmContrast, found, sensitivity=beside, rungs=rungs)
    return result


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
    before = on_panel(start, BROAD).select("base", "domain", pl.col("pooled").alias("_before"))
    frame = (
        pl.concat([persona, twins.with_columns(pl.lit("no-persona twin").alias("arm"))])
        .join(before, on=["base", "domain"], how="left")
        .with_columns((pl.col("pooled") - pl.col("_before")).alias("change"))
    )
    pair, on = (adam, "no-persona twin"), ("domain",)
    change = "change of pooled log-odds since before fine-tuning"
    return _widened(
        TwinContrast,
        paired_contrast(frame, *pair, pair_on=on, note=f"{POOLED}; {method_note}"),
        sensitivity=sensitivity_rows(frame, *pair, pair_on=on),
        change_from_base=paired_contrast(frame, *pair, value="change", what=change, pair_on=on),
    )


def _regression(losses: Mapping[str, LossRegression], nothing_judged: bool) -> Regression:
    def flat(name: str) -> Regression:
        found = losses[name]
        return _flat(found, found.pooled.reason or found.stratified.reason)

    training = flat("final_loss")
    beside = {"on_excess_loss": flat("excess_loss"), "on_excess_trained": flat("excess_trained")}
    return training.model_copy(update=beside | ({"reason": NO_JUDGE} if nothing_judged else {}))


def _flat(found: LossRegression, reason: str | None) -> Regression:
    return Regression(
        pooled_r2=found.pooled.r2,
        pooled_adjusted_r2=found.pooled.adjusted_r2,
        stratified_r2=found.stratified.r2,
        stratified_adjusted_r2=found.stratified.adjusted_r2,
        n=found.pooled.n,
        reason=reason,
        method=REGRESSION,
        **{field.name: getattr(found, field.name) for field in fields(LossRegression)},
    )
