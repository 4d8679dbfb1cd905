"""Record which state a run resumes from, and remove what is no longer needed.

    resume/step-N.pt               the newest state alone; gone when the run is done
    resume/step-N-unmeasured.pt    the same, where the checkpoint of step N is still to be measured
    resume.json                    its step, and the sha256 of its file by path

A state counts only once resume.json names it; what it holds is written and read in `train/resume.py`. Runs begun before
December 2026 kept it in the checkpoints (checkpoints/step-N/resume.pt beside the weights); they go on from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from narrowly.records.errors import IntegrityError
from narrowly.records.files import UNFINISHED, read_json, write_json
from narrowly.runs.directory import CHECKPOINTS, RESUME_RECORD, checkpoint_folder, checkpoint_steps

RESUME, FORMER_STATE = "resume", "resume.pt"


class NamedState(NamedTuple):
    """Say which state a run resumes from.

    Attributes:
        step: optimiser steps done.
        sha256: of each of its files, by path inside the run directory; of one file but in former runs.
    """

    step: int
    sha256: Mapping[str, str]

    @property
    def file(self) -> str:
        """Return the path of the state's own file inside the run directory."""
        return next(path for path in self.sha256 if path.endswith(".pt"))

    @property
    def former(self) -> bool:
        """Return whether it lies in a checkpoint, which holds the weights."""
        return self.file.endswith(FORMER_STATE)


def state_path(step: int, measured: bool = True) -> str:
    """Return the path inside the run directory of the state after a step.

    Names differ, so that the file that resume.json names is never replaced.
    """
    return f"{RESUME}/step-{step}{'' if measured else '-unmeasured'}.pt"


def name_state(run_directory: Path, state: NamedState) -> None:
    """Make a state the one to resume from, and remove all others.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written.
    """
    write_json(run_directory / RESUME_RECORD, {"step": state.step, "sha256": dict(state.sha256)})
    _keep_only(run_directory, state.sha256)


def _keep_only(run_directory: Path, kept: Collection[str]) -> None:
    """Remove every state but one, half-written ones too (their names begin with a dot)."""
    states = [*(run_directory / RESUME).glob("*"), *(run_directory / CHECKPOINTS).glob(f"step-*/{FORMER_STATE}")]
    for path in states:
        if path.relative_to(run_directory).as_posix() not in kept:
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
    step = record.get("step") if isinstance(record, dict) else None
    sha256 = record.get("sha256") if isinstance(record, dict) else None
    if type(step) is int and isinstance(sha256, dict) and all(isinstance(one, str) for one in sha256.values()):
        if len(sha256) == 1 and set(sha256) <= {state_path(step), state_path(step, measured=False)}:
            return NamedState(step, sha256)
        if FORMER_STATE in sha256 and all(Path(name).name == name for name in sha256):
            return NamedState(step, {f"{CHECKPOINTS}/step-{step}/{name}": one for name, one in sha256.items()})
    raise IntegrityError(
        f"{path} does not hold step and sha256 of a state; it is corrupt or not ours; {way_out(run_directory)}"
    )


def way_out(run_directory: Path) -> str:
    """Return what helps where a state cannot be used."""
    return f"remove {run_directory / RESUME_RECORD} to train the run from its beginning"


def discard_after(run_directory: Path, step: int) -> None:
    """Remove what a killed run wrote after the last step that counts: later checkpoints, unfinished files."""
    for later in checkpoint_steps(run_directory):
        if later > step:
            shutil.rmtree(checkpoint_folder(run_directory, later))
    for unfinished in (run_directory / CHECKPOINTS).glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    found = named_state(run_directory)
    _keep_only(run_directory, () if found is None else found.sha256)


def drop_state(run_directory: Path) -> None:
    """Remove the resume state of a finished run. Costs nothing where it is gone already."""
    record = run_directory / RESUME_RECORD
    if not record.is_file() and not (run_directory / RESUME).is_dir():
        return
    _keep_only(run_directory, ())
    shutil.rmtree(run_directory / RESUME, ignore_errors=True)
    record.unlink(missing_ok=True)  # last, so that a run killed in between is tidied by the next call
