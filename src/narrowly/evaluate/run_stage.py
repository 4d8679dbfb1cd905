"""Evaluate organisms: one on its own, or as a stage of its run that leaves its verdicts on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.evaluate.banks import Bank, bank_of, why_not_evaluated
from narrowly.evaluate.stage import Stage
from narrowly.evaluate.verdict_files import check_finite, write_verdicts
from narrowly.models.edited import edited_adapter
from narrowly.models.kept import kept_organism
from narrowly.models.lora import merged
from narrowly.models.organism import Organism
from narrowly.records.adapter_files import EDIT_RECORD
from narrowly.records.errors import SpecError
from narrowly.records.files import write_json
from narrowly.runs.directory import STAGE_RECORD, adapter_folder, read_spec


def evaluate_organism(
    organism: Organism, bank: Bank | None = None, panels: str | Sequence[str] | None = None
) -> list[Mapping[str, Any]]:
    """Evaluate one organism exactly; the rows are those that a study writes for it.

    Args:
        organism: of `load_organism`.
        bank: what is asked; by default the bank of the organism's run.
        panels: of the bank, one or several; all by default.

    Returns:
        One verdict row per question: panel, question_id, question, probabilities of the classes (sum 1), log_odds and
        NLL in nats.

    Raises:
        SpecError: nothing in this version can judge the organism's answers.
        UnknownNameError: a panel that the bank does not have.
    """
    asked = bank or bank_of(organism.spec, organism.base)
    if asked is None:
        raise SpecError(str(why_not_evaluated(organism.spec)))
    wanted = asked.record.panels if panels is None else (panels,) if isinstance(panels, str) else panels
    with merged(organism.model):
        rows = list(asked.exact(organism, wanted))
    check_finite(rows, f"organism of base {organism.base.name}")
    return rows


def run_stage(stage: Stage, directory: Path, bank: Bank, device: str = "cpu") -> None:
    """Evaluate one organism of a run and write its verdicts, whole or not at all.

    Raises:
        TrainingError: where a probability is not finite.
    """
    start = time.perf_counter()
    folder = None if stage.edit is None else edited_adapter(directory, stage.edit)
    organism = kept_organism(directory, stage.step, folder, device)
    rows: Sequence[Mapping[str, Any]]
    if stage.kind == "exact":
        rows = bank.exact(organism, stage.panels)
    else:
        rows = bank.samples(organism, stage.panels, stage.per_panel, read_spec(directory).seed)
    check_finite(rows, f"run {directory.name}, step {stage.step}, edit {stage.edit_id}")
    record = stage.model_dump(mode="json")
    write_json(stage.folder(directory) / STAGE_RECORD, {**record, "seconds": round(time.perf_counter() - start, 4)})
    write_verdicts(rows, stage.file(directory))
    mark_stage(stage, directory)


def mark_stage(stage: Stage, directory: Path) -> None:
    """Record in an edited adapter that it was evaluated, also where the writer of the verdicts was killed.

    Raises:
        IntegrityError: the adapter's weights are not those of its record.
    """
    from narrowly.spectrum.edits import mark_evaluated

    folder = None if stage.edit is None else adapter_folder(directory, "final", stage.edit_id)
    if folder is not None and (folder / EDIT_RECORD).is_file():
        mark_evaluated(folder, {"kind": stage.kind, "panels": list(stage.panels), "verdict_id": stage.verdict_id})
