"""Collect the paired verdicts of a study's cells into one tidy table: a row per organism and question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.data.banks.narrow import PREFIX, narrow_domain, narrow_set
from narrowly.evaluate.stage import Stage
from narrowly.study.layout import PlannedCell

if TYPE_CHECKING:
    import polars as pl


def paired_schema() -> dict[str, pl.DataType]:
    """Return the columns and types of the table `paired`.

    Of a cell: cell_id, arm, role, of, optimiser, lr, base, seed, trained (domain of pairs, else null), answers
    (harmful, aligned, permuted, else null). Of an organism: step, final, edit. Then those of `PAIRED`.
    """
    import polars as pl

    from narrowly.evaluate.verdict_table import PAIRED

    text, integer, number = pl.String(), pl.Int64(), pl.Float64()
    cell = {"cell_id": text, "arm": text, "role": text, "of": text, "optimiser": text, "lr": number, "base": text}
    training = {"seed": integer, "trained": text, "answers": text}
    return {**cell, **training, "step": integer, "final": pl.Boolean(), "edit": text, **PAIRED}


def paired_cell_rows(planned: PlannedCell, stages: Sequence[Stage], directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished cell's paired stages.

    Raises:
        IntegrityError: as `read_paired_verdicts`.
    """
    from narrowly.evaluate.verdict_table import read_paired_verdicts

    cell, spec = planned.cell, planned.cell.spec
    dataset = str(getattr(spec.data, "dataset", ""))
    who = {
        "cell_id": cell.cell_id,
        "arm": cell.arm,
        "role": cell.role,
        "of": cell.of,
        "optimiser": spec.optimiser.kind,
        "lr": spec.optimiser.lr,
        "base": planned.base,
        "seed": spec.seed,
        "trained": narrow_domain(dataset),
        "answers": narrow_set(dataset).answers if dataset.startswith(PREFIX) else None,
    }
    return [
        {**who, "step": stage.step, "final": stage.step == spec.steps, "edit": stage.edit_id, **row}
        for stage in stages
        for row in read_paired_verdicts(stage.file(directory))
    ]
