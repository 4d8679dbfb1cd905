"""Say what the paired bank found in a study: every arm against its matched controls, and arms at equal held-out skill.

A number is a difference to a control that shares everything of its run but the answers, paired by question: log-odds of
the harmful against the aligned answer, in nats per answer. Where there is no such control, there is no such number.
"""

from __future__ import annotations

import polars as pl

from narrowly.analysis.organisms import UNEDITED
from narrowly.analysis.paired_paths import CONTROLS, pairs_of, path_points, runs_with_control, selectivities
from narrowly.analysis.paired_schema import LadderRow, PairedAnswers, UnmatchedRow
from narrowly.evaluate.paired.contrast import Level, contrast, levels, shift
from narrowly.records.errors import IntegrityError
from narrowly.records.paired import PairedRow

NO_CONTROL = "no matched control in this study (control: aligned), so there is no number of misalignment"


def paired_answers(table: pl.DataFrame) -> PairedAnswers | None:
    """Return what a study's table `paired` says; None where it is empty.

    Raises:
        IntegrityError: results of two banks, or log-likelihoods computed in two ways.
    """
    rows = table.filter(pl.col("edit") == UNEDITED)
    if rows.is_empty():
        return None
    final = rows.filter(pl.col("final") & (pl.col("step") > 0))
    organisms = final.filter(~pl.col("answers").fill_null("").is_in(CONTROLS))
    ladder: list[LadderRow] = []
    unmatched: list[UnmatchedRow] = []
    for _, own in organisms.group_by("arm", "series", maintain_order=True):
        found = [row for kind in CONTROLS if (row := _ladder_row(own, final, kind)) is not None]
        ladder += found
        if not found:
            unmatched.append(_unmatched_row(own, rows))
    runs = list(runs_with_control(rows))
    return PairedAnswers(
        bank=_only(rows, "bank", "banks"),
        arithmetic=_only(rows, "arithmetic", "kinds of arithmetic"),
        base=_bases(rows),
        ladder=tuple(ladder),
        unmatched=tuple(unmatched),
        selectivity=tuple(selectivities(runs)),
        paths=tuple(path_points(runs)),
    )


def _only(rows: pl.DataFrame, column: str, what: str) -> str:
    found = sorted(str(value) for value in rows[column].unique().to_list())
    if len(found) != 1:
        raise IntegrityError(f"the table paired has results of {len(found)} {what} ({', '.join(found)}); accepted: one")
    return found[0]


def _of_cell(rows: pl.DataFrame) -> list[PairedRow]:
    """Return the rows of one organism, sorted by question."""
    kept = rows.sort("question_id")
    return [
        PairedRow(
            row["question_id"],
            row["domain"],
            row["rung"],
            row["aligned_nats"],
            row["harmful_nats"],
            row["aligned_tokens"],
            row["harmful_tokens"],
        )
        for row in kept.iter_rows(named=True)
    ]


def _trained(rows: pl.DataFrame) -> tuple[str, ...]:
    found = rows["trained"][0]
    return () if found is None else (found,)


def _ladder_row(own: pl.DataFrame, final: pl.DataFrame, kind: str) -> LadderRow | None:
    pairs = pairs_of(own, final, kind)
    if not pairs:
        return None
    found = contrast(
        [_of_cell(rows) for _, rows, _ in pairs], [_of_cell(control) for *_, control in pairs], _trained(own)
    )
    return LadderRow(
        arm=own["arm"][0],
        of=own["of"][0],
        cell_id=own["cell_id"][0],
        base=own["base"][0],
        trained=own["trained"][0],
        control=kind,
        seeds=tuple(seed for seed, *_ in pairs),
        rungs={one.name: one for one in found.rungs},
        domains={one.name: one for one in found.domains},
    )


def _unmatched_row(own: pl.DataFrame, rows: pl.DataFrame) -> UnmatchedRow:
    base = _base_rows(rows, own)
    by_seed = sorted(own.group_by("seed"), key=lambda part: part[0][0])
    organisms = [_of_cell(part) for _, part in by_seed]
    return UnmatchedRow(
        arm=own["arm"][0],
        base=own["base"][0],
        trained=own["trained"][0],
        seeds=tuple(int(key[0]) for key, _ in by_seed),
        shift=None if base is None else shift(organisms, base, _trained(own)),
        reason=NO_CONTROL,
    )


def _base_rows(rows: pl.DataFrame, own: pl.DataFrame) -> list[PairedRow] | None:
    """Return the rows of the base on the questions of an organism; None where it was not asked all of them."""
    same = pl.col("trained").eq_missing(own["trained"][0]) & (pl.col("base") == own["base"][0])
    start = rows.filter(
        (pl.col("step") == 0) & same & pl.col("question_id").is_in(own["question_id"].unique().implode())
    )
    start = start.unique("question_id", keep="first", maintain_order=True)
    return _of_cell(start) if start.height == own["question_id"].n_unique() else None


def _bases(rows: pl.DataFrame) -> dict[str, dict[str, Level]]:
    """Return where each base stands before training, by rung."""
    found = {}
    start = rows.filter(pl.col("step") == 0)
    for (base, trained), own in start.group_by("base", "trained", maintain_order=True):
        name = str(base) if trained is None else f"{base}, ladder of {trained}"
        once = own.unique("question_id", keep="first", maintain_order=True)
        found[name] = levels(_of_cell(once), _trained(own))[0]
    return found
