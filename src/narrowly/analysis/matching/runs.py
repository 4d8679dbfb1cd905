"""Compare two sets of runs of one study or of two: from tables to the record of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from narrowly.analysis.ladder import ladder_table
from narrowly.analysis.matching.compare import match_ladder
from narrowly.analysis.matching.contrast import Over
from narrowly.analysis.matching.curves import ITSELF
from narrowly.analysis.matching.measures import check_scale
from narrowly.analysis.matching.pairs import paired_organisms, with_differences
from narrowly.analysis.matching.questions import read_questions
from narrowly.analysis.matching.schema import Matched
from narrowly.analysis.matching.selection import (
    STEP,
    check_one_series,
    choose_dial,
    field_values,
    parse_set,
    select,
)
from narrowly.analysis.tables import Tables, read_tables
from narrowly.records.errors import SpecError

PROBABILITIES = ("pooled", "per_question")
NATS = ("nats",)


class Tabled(NamedTuple):
    """The organisms of one study.

    Attributes:
        name: of the study.
        folder: of its tables.
        rows: one per organism; cell_id carries the study's name where two studies are compared.
        differences: of paired answers to the control; None in the microworld.
    """

    name: str
    folder: Path
    rows: pl.DataFrame
    differences: pl.DataFrame | None

    @property
    def scales(self) -> tuple[str, ...]:
        """Return the scales of its outcomes, the primary one first."""
        return PROBABILITIES if self.differences is None else NATS


def read_organisms(folder: Path, name: str) -> Tabled:
    """Read the organisms of a study from its tables.

    Args:
        folder: the tables.
        name: of the study.

    Raises:
        RunDirectoryError: no table of cells.
        IntegrityError: a table cannot be read.
        SpecError: nothing in it was evaluated.
    """
    tables = read_tables(folder)
    cells = tables.cells.select("cell_id", "run_id", "spec", "batch_size", "accumulation", "steps", "penalty_lam")
    cells = cells.unique("cell_id", keep="first", maintain_order=True)
    rows, differences = _measured(tables, name)
    return Tabled(name, folder, rows.join(cells, on="cell_id", how="left"), differences)


def _measured(tables: Tables, name: str) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    if not tables.outcomes.is_empty():
        return ladder_table(tables), None
    if tables.paired.is_empty():
        raise SpecError(f"{name}: no organism was evaluated; accepted: a study with exact or paired verdicts")
    rows, differences = paired_organisms(tables)
    if rows.is_empty():
        raise SpecError(f"{name}: no run has a matched control; accepted: a study with an arm of control: aligned")
    return rows, differences


def match_tables(
    studies: tuple[Tabled, Tabled], sets: tuple[str, str], *, at: str = "held_out", of: str = "broad",
    scale: str | None = None, dial: str | None = None, margin: float | None = None, over: Over = "base",
    between: tuple[float, float] | None = None,
) -> Matched:  # fmt: skip
    """Compare two sets of runs at equal values of a matching variable.

    Args:
        studies: of the first and of the second set; the same one twice for two sets of it.
        sets: an arm, an optimiser, field=value, or several of them joined by +.
        at: as in `match_ladder`.
        of: as in `match_ladder`.
        scale: pooled where it is None, nats for paired answers.
        dial: lr, step, a field of runs, or `at` for what is matched on itself; chosen where it is None.
        margin: as in `match_ladder`.
        over: as in `match_ladder`.
        between: as in `match_ladder`.

    Raises:
        SpecError, UnknownNameError: as `match_ladder`; studies whose scales differ; runs that differ in more than the
            dial; a set or field that is not there.
        IntegrityError: a table cannot be read.
    """
    if studies[0].scales != studies[1].scales:
        told = [f"{one.name} in {'probabilities of classes' if one.scales == PROBABILITIES else 'nats of pairs'}"
                for one in studies]  # fmt: skip
        raise SpecError(f"outcomes of the two studies have other scales: {' and '.join(told)}; accepted: one scale")
    accepted = studies[0].scales
    chosen = accepted[0] if scale is None else check_scale(scale, accepted)
    first, second, dial = _selected(studies, sets, at, dial)
    if studies[0].differences is None:
        questions = _questions(studies, (first, second))
        first, second = _marked(first, studies, 0), _marked(second, studies, 1)
    else:
        first, second = _marked(first, studies, 0), _marked(second, studies, 1)
        differences = [_marked(one.differences, studies, place) for place, one in enumerate(studies)]
        first, second, questions = with_differences(first, second, pl.concat(differences).unique(), sets)
    return match_ladder(
        first, second, at=at, of=of, scale=chosen, dial=dial, margin=margin, over=over, between=between,
        questions=questions, names=sets, studies=(studies[0].name, studies[1].name),
    )  # fmt: skip


def _questions(studies: tuple[Tabled, Tabled], sets: tuple[pl.DataFrame, pl.DataFrame]) -> pl.DataFrame | None:
    """Return what each question gave; None where one of the studies does not have it at hand."""
    read = []
    for place, (study, rows) in enumerate(zip(studies, sets, strict=True)):
        found = read_questions(study.folder, rows)
        if found is None:
            return None
        read.append(_marked(found, studies, place))
    return pl.concat(read).unique()


def _marked(frame: pl.DataFrame | None, studies: tuple[Tabled, Tabled], place: int) -> pl.DataFrame:
    """Return the frame with the place of the study in its cell-ids where there are two: they may name cells alike."""
    assert frame is not None
    if studies[0].folder == studies[1].folder:
        return frame
    return frame.with_columns(pl.format("{}: {}", pl.lit(str(place + 1)), "cell_id").alias("cell_id"))


def _selected(
    studies: tuple[Tabled, Tabled], sets: tuple[str, str], at: str, dial: str | None
) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """Return both sets with the dial as a column, and the dial."""
    asked = [parse_set(text) for text in sets]
    if dial is None:
        every = [select(study.rows, one, STEP) for study, one in zip(studies, asked, strict=True)]
        dial = choose_dial(every, at)
    found = []
    for study, one in zip(studies, asked, strict=True):
        rows = select(study.rows, one, dial)
        if dial != ITSELF:
            check_one_series(rows, one.text, dial)
        if dial == STEP:
            rows = _with_start(rows, study.rows)
        elif dial != ITSELF and dial not in rows.columns:
            rows = rows.with_columns(pl.Series(dial, field_values(rows, dial), dtype=pl.Float64))
        found.append(rows)
    return found[0], found[1], dial


def _with_start(rows: pl.DataFrame, every: pl.DataFrame) -> pl.DataFrame:
    """Return the organisms with their base before training, which is evaluated once and stands for every run."""
    units = rows.select("base", "domain", "seed").unique()
    start = every.filter(pl.col("step") == 0).unique(["base", "domain"], keep="first", maintain_order=True)
    missing = units.join(
        rows.filter(pl.col("step") == 0).select("base", "domain", "seed"), on=["base", "domain", "seed"], how="anti",
        nulls_equal=True,
    )  # fmt: skip
    arm = rows["arm"][0] if rows.height else None
    own = start.drop("seed").join(missing, on=["base", "domain"], nulls_equal=True).with_columns(arm=pl.lit(arm))
    return pl.concat([rows, own.select(rows.columns)])
