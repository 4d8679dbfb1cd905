"""Compare two sets of organisms from rows of the ladder: what is checked first, and the record of what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from narrowly.analysis.matching.contrast import Curves, Over, Terms, contrasts, rising_pairs
from narrowly.analysis.matching.curves import ITSELF, ORGANISM, Sources, Unit, curves, unit_of
from narrowly.analysis.matching.measures import SCALES, Measure, measure, outcome_column
from narrowly.analysis.matching.schema import Matched, Point, SetOfRuns
from narrowly.records.errors import SpecError, counted
from narrowly.stats.first_passage import EVERYWHERE
from narrowly.stats.split_halves import attenuation, shift_by_noise

MARGIN = 0.35
"""Difference of pooled log-odds that does not matter: selectivity in the plan of the study X1, from the pilot of
2026-11-28, whose differences at equal held-out log-odds had a standard deviation of .44 over bases."""


def match_ladder(
    first: pl.DataFrame,
    second: pl.DataFrame,
    *,
    at: str = "held_out",
    of: str = "broad",
    scale: str = "pooled",
    dial: str = "lr",
    margin: float | None = None,
    over: Over = "base",
    between: tuple[float, float] | None = None,
    questions: pl.DataFrame | None = None,
    names: tuple[str, str] | None = None,
    studies: tuple[str | None, str | None] = (None, None),
) -> Matched:
    """Compare two sets of organisms at equal values of a matching variable.

    Each set is a curve in every base, domain and seed: its points, ordered by the dial, joined by straight lines. The
    difference is the mean of the first curve's outcome minus the second's over all levels of the matching variable
    that both pass. Where a curve turns back, the branches before and after its turn are matched apart.

    Args:
        first: rows of `ladder_table`, one per organism.
        second: the same of the other set.
        at: what is matched on: held_out, norm, trained_loss, excess_trained or step.
        of: rung that is compared: broad, self, held_out or trained.
        scale: pooled or per_question of the microworld, nats of paired answers.
        dial: column that orders the points of a curve; `at` orders them by what is matched on, without branches.
        margin: largest difference that does not matter, in the unit of the outcome, fixed before; above 0. `MARGIN` for
            log-odds of the microworld; nats have no default.
        over: base, or seed where there is one base only; the interval then says nothing of another base.
        between: levels of the matching variable that count, in its own unit; all where it is None.
        questions: what each question gave (`questions.py`); without it the bootstrap draws bases alone.
        names: what the sets are called; their arms where it is None.
        studies: that they are of.

    Raises:
        SpecError: an empty set, runs in both, a matching variable or outcome that was not measured, no base in common,
            one base only, several organisms at one setting of the dial, or a margin that is not above 0.
        UnknownNameError: an unknown matching variable or outcome.
    """
    found, outcome = measure(at, scale), outcome_column(of, scale)
    limit = _margin(margin, scale)
    if outcome == found.column:
        raise SpecError(f"{of} would be compared at equal {at}; accepted: another outcome or matching variable")
    called = names or (_called(first), _called(second))
    _check_apart(first, second, called)
    for name, rows in zip(called, (first, second), strict=True):
        _check_measured(rows, name, found, outcome)
        if found.column == "step" and dial not in ("step", ITSELF):
            raise SpecError(f"curves over {dial} have no levels of the step; accepted: the dial step")
        if dial != ITSELF:
            _check_one_dial(rows, name, dial)
    sources = Sources(found, outcome, dial, questions)
    wholes = curves(first, sources), curves(second, sources)
    silent = _unmeasured((first, second), wholes)
    left_out = _check_bases(*wholes, called, over, silent)
    terms = Terms(found, limit, over, EVERYWHERE if between is None else found.window(between), silent)
    primary, *others = contrasts(*wholes, terms)
    noise = attenuation([whole.x for one in wholes for whole in one.values()])
    sides = [
        _side(rows, name, study, found.column if dial == ITSELF else dial)
        for rows, name, study in zip((first, second), called, studies, strict=True)
    ]
    return Matched(
        first=sides[0],
        second=sides[1],
        at=found.name,
        at_words=found.words,
        at_unit=found.unit,
        of=of.replace("-", "_"),
        scale=scale,
        unit=SCALES[scale][0],
        margin=limit,
        between=between,
        over=over,
        primary=primary,
        others=tuple(others),
        attenuation=noise,
        no_attenuation=None if noise else _why_no_attenuation(found, questions),
        noise_shift=None if noise is None else shift_by_noise(rising_pairs(*wholes, terms), noise.reliability),
        points=_points(*wholes, found),
        left_out=left_out,
    )


def _margin(margin: float | None, scale: str) -> float:
    if margin is None and scale == "nats":
        raise SpecError("no margin for a difference in nats; accepted: a number that was fixed before, as --margin 0.1")
    found = MARGIN if margin is None else margin
    if not (found > 0 and math.isfinite(found)):
        raise SpecError(f"margin is {margin}; accepted: a finite number above 0")
    return found


def _called(rows: pl.DataFrame) -> str:
    return "+".join(rows["arm"].unique().sort().to_list()) or "an empty set"


def _check_apart(first: pl.DataFrame, second: pl.DataFrame, names: tuple[str, str]) -> None:
    for name, rows in zip(names, (first, second), strict=True):
        if rows.is_empty():
            raise SpecError(f"{name}: no finished organism; accepted: sets of at least one")
    run = "run_id" if "run_id" in first.columns and "run_id" in second.columns else "cell_id"
    trained = first.filter(pl.col("step") > 0)  # before training both sets are the base
    both = trained.join(second, on=[run, *ORGANISM[1:]], how="semi", nulls_equal=True)
    if not both.is_empty():
        shared = f"share {counted(both.height, 'organism')} ({both['cell_id'][0]})"
        raise SpecError(f"{names[0]} and {names[1]} {shared}; accepted: two sets without a run in common")


def _check_measured(rows: pl.DataFrame, name: str, at: Measure, outcome: str) -> None:
    for column, words in ((at.column, at.words), (outcome, outcome.replace("_", " "))):
        if column not in rows.columns or rows[column].null_count() == rows.height:
            raise SpecError(
                f"{name}: none of {counted(rows.height, 'organism')} has {words}, so there is nothing to match"
            )


def _check_one_dial(rows: pl.DataFrame, name: str, dial: str) -> None:
    """Refuse a set whose organisms differ in their arm at one setting of the dial, or in their step off it."""
    others = [column for column in ("arm", "step", "edit") if column != dial]
    several = (
        rows.group_by("base", "domain", "seed", dial)
        .agg(pl.col(others).n_unique().name.suffix("_n"), pl.col(others).unique().sort().cast(pl.String))
        .sort("base", "domain", "seed", dial)
    )
    for column in others:
        twice = several.filter(pl.col(f"{column}_n") > 1)
        if not twice.is_empty():
            row = twice.row(0, named=True)
            where = f"{name}: organisms of {row['base']} at {dial} {row[dial]:g}"
            told = f"differ in {column} ({', '.join(row[column])})"
            raise SpecError(f"{where} {told}; accepted: one organism at each setting of the dial")
    if dial != "step" and rows["step"].n_unique() > 1:
        steps = ", ".join(map(str, rows["step"].unique().sort()))
        raise SpecError(
            f"{name}: organisms of steps {steps} on one curve of {dial}; accepted: one, as step={rows['step'][0]}"
        )


def _unmeasured(sets: tuple[pl.DataFrame, pl.DataFrame], wholes: tuple[Curves, Curves]) -> tuple[Unit, ...]:
    """Return the units that both sets ran on and that have no curve in one of them."""
    keys = ["base", "domain", "seed"]
    ran = [rows.filter(pl.col("step") > 0).select(keys).unique() for rows in sets]
    both = ran[0].join(ran[1], on=keys, nulls_equal=True).sort(keys)
    units = [unit_of(*row) for row in both.iter_rows()]
    return tuple(unit for unit in units if unit not in wholes[0] or unit not in wholes[1])


def _check_bases(
    first: Curves, second: Curves, names: tuple[str, str], over: Over, silent: tuple[Unit, ...]
) -> tuple[str, ...]:
    """Return what is on one side only.

    Raises:
        SpecError: no unit in common, or fewer than two of what the interval is over.
    """
    shared = [unit for unit in first if unit in second]
    if not shared:
        told = [
            f"{name} has {_few([unit.base for unit in own])}" for name, own in zip(names, (first, second), strict=True)
        ]
        same = {unit.base for unit in first} & {unit.base for unit in second}
        what = "domain and seed of a base" if same else "base"
        raise SpecError(f"no {what} in common: {' and '.join(told)}; accepted: sets with runs on the same bases")
    bases = sorted({unit.base for unit in shared})
    if over == "base" and len(bases) < 2:
        raise SpecError(
            f"one base only ({bases[0]}), so nothing is known of another; accepted: at least two, or --over seed for "
            "the seeds of this one"
        )
    if over == "seed" and len(bases) > 1:
        raise SpecError(f"{counted(len(bases), 'base')} with --over seed; accepted: one, as base={bases[0]}")
    return tuple(
        f"{unit.base}, domain {unit.domain}, seed {unit.seed}: no runs of {name}"
        for name, own, other in ((names[1], first, second), (names[0], second, first))
        for unit in own
        if unit not in other and unit not in silent
    )


def _few(names: Sequence[str], most: int = 4) -> str:
    found = sorted(set(names))
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _side(rows: pl.DataFrame, name: str, study: str | None, dial: str) -> SetOfRuns:
    return SetOfRuns(
        name=name,
        study=study,
        arms=tuple(rows["arm"].unique().sort().to_list()),
        runs=rows["cell_id"].n_unique(),
        bases=tuple(rows["base"].unique().sort().to_list()),
        dial=dial,
        settings=tuple(float(one) for one in rows[dial].drop_nulls().unique().sort()),
    )


def _why_no_attenuation(at: Measure, questions: pl.DataFrame | None) -> str:
    if at.column in ("update_norm", "step"):
        return f"the {at.words} is exact"
    if at.column == "final_loss":
        return "the training loss rests on batches, not on questions that could be split"
    if questions is None:
        return "what each question gave is not at hand"
    return "no curve with two points and two questions"


def _points(first: Curves, second: Curves, at: Measure) -> tuple[Point, ...]:
    points = []
    for side, curves_ in ((1, first), (2, second)):
        for unit, whole in curves_.items():
            before, after = (set(whole.points(branch).tolist()) for branch in ("rising", "falling"))
            for place, setting in enumerate(whole.settings_T):
                x = at.back(float(whole.x.plain_T[place]), float(whole.x.plain_T[place]))[0]
                points.append(
                    Point(
                        side=side, **unit._asdict(), setting=float(setting), x=x, y=float(whole.y.plain_T[place]),
                        rising=place in before, falling=place in after,
                    )
                )  # fmt: skip
    return tuple(points)
