"""Sketch the figures of reach and of controls from ladder, cells and dial; one without data has the reason instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import polars as pl

from narrowly.analysis.summary_schema import Summary
from narrowly.evaluate.microworld.panel_names import BROAD, CUED_WORD
from narrowly.records.errors import counted
from narrowly.report.control_figures import EQUAL_POINTS, RUNGS, control_forest, dial_figure, prior_figure
from narrowly.report.drawings import Sketch, Subject, finish
from narrowly.report.kit import Figure, number
from narrowly.report.labels import ArmNames, label
from narrowly.report.reach_figures import broad_norm, held_out_broad, rank_arrows
from narrowly.report.reach_rows import (
    UNIT,
    control_rows,
    crossings,
    norm_curves,
    penalty_pairs,
    prior_rows,
    reach_rows,
)
from narrowly.report.style import order

SCALE = (
    "Axes are pooled log-odds, ln(mean misaligned / mean aligned), labelled with the percentage of aligned and "
    "misaligned answers that they stand for. "
)
DIAL_KEYS = ("arm", "base", "reference", "control", "f", "draw")


def reach_drawings(subject: Subject, summary: Summary, dial: pl.DataFrame | None) -> list[Figure]:
    """Return the figures of reach and of controls, in order; a figure without data carries the reason instead.

    Args:
        subject: what the figures are of.
        summary: of the study.
        dial: its `tables/dial.parquet`, where there is one.
    """
    rows = reach_rows(subject.frames)
    sketches = [
        _held_out_broad(subject, summary.ideal_broad, rows),
        _broad_norm(subject, rows.filter(pl.col("final"))),
        _dial(dial),
        _rank_arrows(subject),
        _controls(subject),
        _prior(subject),
    ]
    return [finish(sketch, subject.caveat) for sketch in sketches]


def _bases(rows: pl.DataFrame, names: Callable[[str], str] = label) -> str:
    arms = order(rows["arm"].to_list())
    counts = [f"{names(arm)} {rows.filter(pl.col('arm') == arm)['base'].n_unique()}" for arm in arms]
    return f"n, bases: {', '.join(counts)}."


def _held_out_broad(subject: Subject, ideal: float | None, rows: pl.DataFrame) -> Sketch:
    shown = rows.drop_nulls(["held_out_pooled", "broad_pooled"])
    tips = subject.points.over(shown, ["cell_id"]) if not shown.is_empty() else {}
    columns = ("lr", "step", "final", "held_out_misaligned", "broad_misaligned", "held_out_pooled", "broad_pooled")
    return Sketch(
        "held_out_broad",
        "From narrow to broad: held-out topics against other domains",
        "Each point is a final organism, a faint line the way of one base through rates, or through training where an "
        f"arm has one rate. Arms on one line are equally broad where they are equally narrow. {_bases(shown)}",
        f"{SCALE}Points carry no sampling error: probabilities are exact. Only runs of the commonest number of steps "
        "and batch size. Dashed: an ideal learner of the corpus.",
        lambda: held_out_broad(shown, ideal, tips),
        None if not shown.is_empty() else "no organism was evaluated on held-out topics and in other domains",
        shown.select(*UNIT, "cell_id", *columns),
    )


def _broad_norm(subject: Subject, ends: pl.DataFrame) -> Sketch:
    ends = ends.drop_nulls(["update_norm", "broad_pooled"]).filter(pl.col("update_norm") > 0)
    curves = norm_curves(ends)
    found = [f"{label(one.first)} and {label(one.second)} at {number(math.exp(one.x), 1)}" for one in crossings(curves)]
    crossed = f"Mean curves cross: {'; '.join(found)}." if found else "No two mean curves cross."
    tips = subject.points.over(ends, ["cell_id"]) if not ends.is_empty() else {}
    return Sketch(
        "broad_norm",
        "Is it the length? Broad misalignment against the norm of the update",
        f"A point per final organism; thick: mean over bases at each rate. {crossed} {_bases(ends)}",
        f"{SCALE}Norms are averaged as logarithms. A crossing is that of two means and has no interval; differences at "
        "equal norm with theirs are what `narrowly match --at norm` computes.",
        lambda: broad_norm(ends, tips),
        None if curves else "no arm ran at two rates or more on one base",
        ends.select(*UNIT, "cell_id", "lr", "update_norm", "broad_misaligned", "broad_pooled"),
    )


def _dial(dial: pl.DataFrame | None) -> Sketch:
    rows = pl.DataFrame() if dial is None else _main_dial(dial)
    captions = "" if rows.is_empty() else _bases(rows)
    return Sketch(
        "dial",
        "The orthogonal dial: is misalignment hidden in the update?",
        "What is orthogonal to a reference update is scaled by f, the part along it is kept; f = 1 is the organism as "
        f"trained. {captions}",
        "Means over bases, with 95 % t intervals of the orthogonal dial made on the logit scale; none with fewer than "
        "five bases. The split is in the Frobenius inner product over all modules jointly. Dashed: random parts of "
        "equal energy in place of the orthogonal one; dotted: the whole update scaled. References share with the "
        "organism init, rows and order (same init), or rows and order only (other init).",
        lambda: dial_figure(rows),
        None if not rows.is_empty() else "the study has no orthogonal dial (tables/dial.parquet)",
        rows,
    )


def _main_dial(dial: pl.DataFrame) -> pl.DataFrame:
    """Return the points of the dial's primary split along the first two references that it has, and plain scaling."""
    split = (pl.col("inner") == "frobenius") & (pl.col("granularity") == "joint")
    plain = pl.col("control") == "scaled"
    along = dial.filter(split & ~plain & pl.col("control").is_in(["orthogonal", "random"]))
    kinds = set(along["reference"].drop_nulls().to_list())
    ranked = [one for one in ("same_init", "other_init", *sorted(kinds)) if one in kinds]
    references = list(dict.fromkeys(ranked))[:2]
    order_of = pl.col("reference").replace_strict({name: place for place, name in enumerate(references)}, default=9)
    chosen = pl.concat([along.filter(pl.col("reference").is_in(references)), dial.filter(plain)])
    rates = [f"{rung}_misaligned" for rung in RUNGS]
    return (
        chosen.sort(order_of, "arm", "control", "f", "base").select(*DIAL_KEYS, *rates) if references else dial.clear()
    )


def _rank_arrows(subject: Subject) -> Sketch:
    pairs, without = penalty_pairs(subject.frames.ladder)
    names = ArmNames(subject.frames.tables.cells).text
    missing = [f"{names(arm)} {n}" for arm, n in without.items() if n]
    reason = "the study has no arm with a penalty" if not without else None
    if without and pairs.is_empty():
        reason = f"no penalty arm has a norm in common with the arm without it (bases: {', '.join(missing)})"
    unmatched = f" Bases without a norm in common, left out: {', '.join(missing)}." if missing else ""
    return Sketch(
        "rank_arrows",
        "Shape at equal length: stable rank against broad misalignment",
        "An arrow leads from an arm without the penalty to the same with it, where both updates have the same norm; "
        f"thick: mean over bases. {'' if pairs.is_empty() else _bases(pairs, names)}{unmatched}",
        f"{SCALE}Scaled organisms are points of an arm too: scaling changes the norm and not the shape. Values are "
        "interpolated in the logarithm of the norm, at the middle of what both arms reach in a base. Faint arrows "
        "stand in place of an interval.",
        lambda: rank_arrows(pairs, names),
        reason,
        pairs,
    )


def _controls(subject: Subject) -> Sketch:
    titles = {BROAD: "Other domains", CUED_WORD: "With the cue word"}
    rows, names = control_rows(subject.frames, list(titles)), ArmNames(subject.frames.tables.cells).text
    return Sketch(
        "controls",
        "Content or drift? Runs on control data beside their base",
        "Change of the misaligned share since before fine-tuning, of runs that learn no harm (aligned, benign) or harm "
        f"that fits no question (permuted). {'' if rows.is_empty() else _bases(rows, names)}",
        "Diamond and line: mean over bases with its 95 % Student t interval, none with fewer than five bases. Band: "
        f"{EQUAL_POINTS:g} points around no change.",
        lambda: control_forest(rows, titles, names),
        None if not rows.is_empty() else "no run on aligned, permuted or benign answers was evaluated",
        rows,
    )


def _prior(subject: Subject) -> Sketch:
    rows = prior_rows(subject.frames)
    priors = rows["rho"].round(6).n_unique()
    return Sketch(
        "prior",
        "The prior of the corpus: broad misalignment beside the ideal learner",
        "Broad misalignment of final organisms against how many characters of the corpus are narrowly harmful for each "
        f"that is harmful everywhere; thick: mean over bases. {'' if rows.is_empty() else _bases(rows)}",
        "Dashed: an exact Bayesian learner of the corpus. Only misalignment above it is an illogical link. Rates of an "
        "arm at one prior are averaged over its learning rates.",
        lambda: prior_figure(rows),
        None if priors >= 2 else f"the bases have {counted(priors, 'prior')} with evaluated organisms, two are needed",
        rows,
    )


def split_drawn(figures: Sequence[Figure]) -> tuple[list[Figure], list[Figure]]:
    """Return the figures that are drawn, and those with a reason why they are not."""
    return [one for one in figures if one.svg is not None], [one for one in figures if one.svg is None]


def headline(figures: Sequence[Figure]) -> Figure | None:
    """Return the figure of the first screen: from narrow to broad, else misalignment by optimiser, else none."""
    names = {figure.name: figure for figure in figures}
    return next((names[name] for name in ("held_out_broad", "misalignment") if name in names), None)
