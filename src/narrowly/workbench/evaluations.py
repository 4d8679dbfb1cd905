"""Read what is known of one organism's behaviour: the exact verdicts in its run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narrowly.records.errors import IntegrityError, NarrowlyError
from narrowly.records.files import read_record
from narrowly.runs.directory import stage_records, verdict_files
from narrowly.workbench.model_card import Evaluation
from narrowly.workbench.panel import panels_of


def evaluations_of(directory: Path, step: int, edit_id: str | None) -> list[Evaluation]:
    """Return the panels on which one organism of a run was evaluated exactly, by name; empty where it was not.

    Args:
        directory: of the run.
        step: checkpoint of the organism.
        edit_id: edit of its adapter, or None for the adapter as trained.

    Raises:
        IntegrityError: records or verdicts that cannot be read.
    """
    from narrowly.evaluate.verdict_table import read_verdicts

    found: dict[str, Evaluation] = {}
    for file in stage_records(directory):
        stage = read_record(file)
        if (stage.get("kind"), stage.get("step"), _edit_id(stage, file)) != ("exact", step, edit_id):
            continue
        for verdicts in verdict_files(file):
            for panel, rates in panels_of(read_verdicts(verdicts)).items():
                found[panel] = Evaluation(
                    panel, rates.n, len(rates.each), rates.aligned, rates.misaligned, rates.incoherent, rates.low,
                    rates.high, rates.literature,
                )  # fmt: skip
    return [found[panel] for panel in sorted(found)]


def _edit_id(stage: Mapping[str, Any], file: Path) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from narrowly.records.edits import EditSpec

    if stage.get("edit") is None:
        return None
    try:
        edit: EditSpec = TypeAdapter(EditSpec).validate_python(stage["edit"])
    except (ValidationError, NarrowlyError) as error:
        raise IntegrityError(f"{file}: edit is no edit of ours; it is corrupt or not ours") from error
    return edit.edit_id
