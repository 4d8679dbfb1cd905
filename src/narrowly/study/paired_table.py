"""Collect the paired verdicts of a study's cells into one tidy table: a row per organism and question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.data.banks.narrow import PREFIX, narrow_domain, narrow_set
from narrowly.evaluate.stage import Stage
from narrowly.records.canonical import canonical_json, content_id
from narrowly.records.files import read_record
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import STAGE_RECORD
from narrowly.study.layout import PlannedCell

if TYPE_CHECKING:
    import polars as pl


def paired_schema() -> dict[str, pl.DataType]:
    """Return the columns and types of the table `paired`: of a cell, of an organism, of a question.

    trained is the domain of pairs, answers one of harmful, aligned and permuted, both null for other data. Rows of one
    `matched` share everything of their spec but the answers, rows of one `series` everything but answers and seed. bank
    is the bank's sha256, arithmetic how the log-likelihoods were computed.
    """
    from narrowly.analysis.tables import SCHEMAS

    return dict(SCHEMAS["paired"])


def paired_cell_rows(planned: PlannedCell, stages: Sequence[Stage], directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished cell's paired stages.

    Raises:
        IntegrityError: as `read_paired_verdicts`.
    """
    from narrowly.evaluate.verdict_table import read_paired_verdicts

    who = _who(planned)
    made = {stage: read_record(stage.folder(directory) / STAGE_RECORD) for stage in stages}
    return [
        {
            **who,
            "step": stage.step,
            "final": stage.step == planned.cell.spec.steps,
            "edit": stage.edit_id,
            "bank": made[stage].get("bank", {}).get("sha256"),
            "arithmetic": canonical_json(made[stage].get("arithmetic", {})),
            **row,
        }
        for stage in stages
        for row in read_paired_verdicts(stage.file(directory))
    ]


def panel_schemas() -> dict[str, dict[str, pl.DataType]]:
    """Return the columns and types of the tables `damage` and `cued`: of a cell, of an organism, of a question."""
    from narrowly.evaluate.verdict_table import CUED, DAMAGE, RIGHT

    paired = paired_schema()
    shared = {name: paired[name] for name in paired if name not in CUED and name != "edit"}
    return {"damage": {**shared, **DAMAGE, **RIGHT}, "cued": {**shared, **CUED}}


def panel_cell_rows(planned: PlannedCell, stage: Stage, directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished cell's stage of the damage or the cued panel; bank is the hash of all it asks.

    Raises:
        IntegrityError: as `read_panel_verdicts`.
    """
    from narrowly.evaluate.verdict_table import read_panel_verdicts

    made = read_record(stage.folder(directory) / STAGE_RECORD)
    organism = {
        **_who(planned),
        "step": stage.step,
        "final": stage.step == planned.cell.spec.steps,
        "bank": content_id(made.get("bank", {})),
        "arithmetic": canonical_json(made.get("arithmetic", {})),
    }
    return [{**organism, **row} for row in read_panel_verdicts(stage.file(directory), stage.kind)]


def _who(planned: PlannedCell) -> dict[str, Any]:
    """Return what the tables say of a cell."""
    cell, spec = planned.cell, planned.cell.spec
    dataset = str(getattr(spec.data, "dataset", ""))
    matched = _without_answers(spec)
    return {
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
        "matched": content_id(matched),
        "series": content_id({name: value for name, value in matched.items() if name != "seed"}),
    }


def _without_answers(spec: RunSpec) -> dict[str, Any]:
    """Return the fields of a run that it shares with its controls."""
    fields = spec.model_dump(mode="json")
    data = fields["data"]
    if str(data.get("dataset", "")).startswith(PREFIX):
        fields["data"] = {**data, "dataset": f"{PREFIX}{narrow_set(data['dataset']).domain}", "sha256": None}
    return fields
