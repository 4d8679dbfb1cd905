"""Record which checkpoint a run resumes from, and remove what is no longer needed.

    checkpoints/step-N/resume.pt      optimiser, scheduler, penalty; newest checkpoint only, gone when the run is done
    resume.json                       step and sha256 of what a resume reads

A checkpoint counts only once resume.json names it; what it holds is written and read in `train/checkpoint.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from narrowly.records.errors import IntegrityError
from narrowly.records.files import UNFINISHED, read_json, write_json
from narrowly.runs.directory import RESUME_RECORD, checkpoint_folder, checkpoint_steps

RESUME_STATE = "resume.pt"


def resume_from(run_directory: Path, step: int, sha256: Mapping[str, str]) -> None:
    """Make a checkpoint the one to resume from, and remove the resume state of those before it.

    Args:
        run_directory: of the run.
        step: of the checkpoint.
        sha256: of each file in its folder that a resume reads, by name.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written.
    """
    write_json(run_directory / RESUME_RECORD, {"step": step, "sha256": dict(sha256)})
    for older in checkpoint_steps(run_directory):
        if older < step:
            (checkpoint_folder(run_directory, older) / RESUME_STATE).unlink(missing_ok=True)


def resume_hashes(run_directory: Path) -> tuple[int, dict[str, str]] | None:
    """Return the step of the checkpoint to resume from and the sha256 of its files, or None where there is none.

    Raises:
        IntegrityError: resume.json is broken.
    """
    file = run_directory / RESUME_RECORD
    if not file.is_file():
        return None
    record = read_json(file)
    hashes = record.get("sha256") if isinstance(record, dict) else None
    step = record.get("step") if isinstance(record, dict) else None
    if not isinstance(step, int) or not isinstance(hashes, dict) or RESUME_STATE not in hashes:
        raise IntegrityError(f"{file} does not hold a step and its hashes; it is corrupt or not ours")
    return step, hashes


def discard_after(run_directory: Path, step: int) -> None:
    """Remove what a killed run wrote after the step that is resumed: later checkpoints, unfinished folders."""
    for later in checkpoint_steps(run_directory):
        if later > step:
            shutil.rmtree(checkpoint_folder(run_directory, later))
    for unfinished in (run_directory / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def drop_resume_state(run_directory: Path) -> None:
    """Remove the resume state of a finished run; the weights stay. Costs nothing where it is gone already."""
    record = run_directory / RESUME_RECORD
    if not record.is_file():
        return
    for step in checkpoint_steps(run_directory):
        (checkpoint_folder(run_directory, step) / RESUME_STATE).unlink(missing_ok=True)
    record.unlink(missing_ok=True)  # last, so that a run killed in between is tidied by the next call
