"""Record which state a run resumes from, and remove what is no longer needed.

    resume/step-N.pt               the newest state alone; gone when the run is done
    resume/step-N-unmeasured.pt    the same, where the checkpoint of step N is still to be measured
    resume.json                    its file, step and sha256

A state counts only once resume.json names it; what it holds is written and read in `train/resume.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from narrowly.records.errors import IntegrityError
from narrowly.records.files import UNFINISHED, read_json, write_json
from narrowly.runs.directory import RESUME_RECORD, checkpoint_folder, checkpoint_steps

RESUME = "resume"


class NamedState(NamedTuple):
    """Say which state a run resumes from.

    Attributes:
        step: optimiser steps done.
        file: name of its file.
        sha256: of its file.
    """

    step: int
    file: str
    sha256: str


def state_file(run_directory: Path, step: int, measured: bool = True) -> Path:
    """Return the file of the state after a step, whether it exists or not.

    Names differ, so that the file that resume.json names is never replaced.
    """
    return run_directory / RESUME / f"step-{step}{'' if measured else '-unmeasured'}.pt"


def name_state(run_directory: Path, state: NamedState) -> None:
    """Make a state the one to resume from, and remove all others.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written.
    """
    write_json(run_directory / RESUME_RECORD, state._asdict())
    _keep_only(run_directory, state.file)


def _keep_only(run_directory: Path, name: str | None) -> None:
    """Remove every file beside a state, half-written ones too; None removes all."""
    for path in (run_directory / RESUME).glob("*"):  # names that begin with a dot, too
        if path.name != name:
            path.unlink(missing_ok=True)


def named_state(run_directory: Path) -> NamedState | None:
    """Return the state to resume from, or None where there is none.

    Raises:
        IntegrityError: resume.json is broken.
    """
    path = run_directory / RESUME_RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    if isinstance(record, dict):
        step, file, sha256 = record.get("step"), record.get("file"), record.get("sha256")
        if type(step) is int and isinstance(sha256, str) and isinstance(file, str) and Path(file).name == file:
            return NamedState(step, file, sha256)
    raise IntegrityError(
        f"{path} does not hold file, step and sha256 of a state; it is corrupt, not ours or of an earlier version; "
        f"{way_out(run_directory)}"
    )


def way_out(run_directory: Path) -> str:
    """Return what helps where a state cannot be used."""
    return f"remove {run_directory / RESUME_RECORD} to train the run from its beginning"


def discard_after(run_directory: Path, step: int) -> None:
    """Remove what a killed run wrote after the last step that counts: later checkpoints, unfinished files."""
    for later in checkpoint_steps(run_directory):
        if later > step:
            shutil.rmtree(checkpoint_folder(run_directory, later))
    for unfinished in (run_directory / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    found = named_state(run_directory)
    _keep_only(run_directory, None if found is None else found.file)


def drop_state(run_directory: Path) -> None:
    """Remove the resume state of a finished run. Costs nothing where it is gone already."""
    record, folder = run_directory / RESUME_RECORD, run_directory / RESUME
    if not record.is_file() and not folder.is_dir():
        return
    shutil.rmtree(folder, ignore_errors=True)
    record.unlink(missing_ok=True)  # last, so that a run killed in between is tidied by the next call
