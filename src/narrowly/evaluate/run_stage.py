"""Evaluate organisms: one on its own, or as a stage of its run that leaves its verdicts on disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.evaluate.banks import Bank, bank_of, why_not_evaluated
from narrowly.evaluate.stage import Stage
from narrowly.evaluate.verdict_files import check_finite, write_verdicts
from narrowly.evaluate.verdict_table import read_verdicts
from narrowly.models.edited import edited_adapter
from narrowly.models.kept import kept_organism
from narrowly.models.lora import merged
from narrowly.models.organism import Organism
from narrowly.records.adapter_files import EDIT_RECORD
from narrowly.records.canonical import content_id
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import atomic_path, write_json
from narrowly.runs.directory import STAGE_RECORD, adapter_folder, base_verdicts_file, read_inputs, read_spec


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

    At step 0 that is the base, whose verdicts are kept for all runs of the folder: they are found, not made, where
    another run has left them. Two processes that make them at once write the same file.

    Raises:
        TrainingError: where a probability is not finite.
    """
    start = time.perf_counter()
    kept = _kept_verdicts(stage, directory, bank, device)
    if kept is None or not _can_be_read(kept):
        rows = _rows_of(stage, directory, bank, device)
        check_finite(rows, f"run {directory.name}, step {stage.step}, edit {stage.edit_id}")
        if kept is not None:
            write_verdicts(rows, kept)
    record = stage.model_dump(mode="json")
    write_json(stage.folder(directory) / STAGE_RECORD, {**record, "seconds": round(time.perf_counter() - start, 4)})
    if kept is None:
        write_verdicts(rows, stage.file(directory))
    else:
        with atomic_path(stage.file(directory)) as unfinished:
            shutil.copyfile(kept, unfinished)
    mark_stage(stage, directory)


def _rows_of(stage: Stage, directory: Path, bank: Bank, device: str) -> Sequence[Mapping[str, Any]]:
    folder = None if stage.edit is None else edited_adapter(directory, stage.edit)
    organism = kept_organism(directory, stage.step, folder, device)
    if stage.kind == "exact":
        return bank.exact(organism, stage.panels)
    return bank.samples(organism, stage.panels, stage.per_panel, read_spec(directory).seed)


def _kept_verdicts(stage: Stage, directory: Path, bank: Bank, device: str) -> Path | None:
    """Return where the verdicts of a stage are kept for other runs: those on a base, which depend on no run."""
    if stage.step != 0 or stage.kind != "exact" or stage.edit is not None:
        return None
    spec, inputs = read_spec(directory), read_inputs(directory).model_dump(mode="json", exclude={"data_sha256"})
    asked = {"questions": bank.record.questions, "judge": bank.record.judge, "panels": stage.panels}
    return base_verdicts_file(
        directory, content_id({"base": inputs, "dtype": spec.base_dtype, "device": device, **asked})
    )


def _can_be_read(file: Path) -> bool:
    try:
        read_verdicts(file)
    except IntegrityError:  # not there, or broken: it is made anew
        return False
    return True


def mark_stage(stage: Stage, directory: Path) -> None:
    """Record in an edited adapter that it was evaluated, also where the writer of the verdicts was killed.

    Raises:
        IntegrityError: the adapter's weights are not those of its record.
    """
    from narrowly.spectrum.edits import mark_evaluated

    folder = None if stage.edit is None else adapter_folder(directory, "final", stage.edit_id)
    if folder is not None and (folder / EDIT_RECORD).is_file():
        mark_evaluated(folder, {"kind": stage.kind, "panels": list(stage.panels), "verdict_id": stage.verdict_id})
