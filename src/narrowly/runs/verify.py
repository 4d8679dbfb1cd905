"""Check every hash of a folder of runs, and say what is missing, foreign or damaged. Nothing is changed, and no torch.

Hashes are those of the run-id (spec and inputs), of `done` (weights of every checkpoint), of resume.json (the state to
go on from) and of edits. Verdict files have none: that they are whole is seen from their ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from narrowly.records.adapter_files import ADAPTER_WEIGHTS, EDIT_RECORD
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import UNFINISHED, read_record
from narrowly.runs import directory
from narrowly.runs.resume import named_state
from narrowly.runs.trajectory import read_trajectory

Kind = Literal["missing", "foreign", "damaged"]

PARQUET = b"PAR1"
"""First and last four bytes of a Parquet file (its format's specification)."""


class Fault(NamedTuple):
    """Say what is wrong with one path: missing (a record names it), foreign (nothing of ours), damaged."""

    kind: Kind
    path: Path
    what: str


class Checked(NamedTuple):
    """Hold what was found in one run directory.

    Attributes:
        run: its folder.
        done: whether the run is finished.
        hashes: that were compared.
        faults: none is what is wanted.
    """

    run: Path
    done: bool
    hashes: int
    faults: tuple[Fault, ...]


def entries(runs: Path) -> list[Path]:
    """Return what stands in the folder of all runs, by name; hidden names are claims and what runs share.

    Raises:
        RunDirectoryError: there is no such folder.
    """
    if not runs.is_dir():
        raise RunDirectoryError(f"{runs} is no folder of runs; accepted: what --runs named, with runs/ in it")
    return sorted(path for path in runs.iterdir() if not path.name.startswith("."))


def verify_entry(path: Path) -> Checked:
    """Check one entry of the folder of all runs.

    Args:
        path: a run directory, or whatever stands where one belongs.
    """
    if not path.is_dir():
        return Checked(path, False, 0, (Fault("foreign", path, "a file among the run directories"),))
    try:
        begun = directory.check_directory(path)
    except RunDirectoryError as error:
        kind: Kind = "missing" if (path / directory.DONE).is_file() else "foreign"
        same = {directory.SPEC, directory.INPUTS} <= {one.name for one in path.iterdir()}
        return Checked(path, False, 0, (Fault("foreign" if same else kind, path, str(error)),))
    except IntegrityError as error:
        return Checked(path, False, 1, (Fault("damaged", path, str(error)),))
    if not begun:
        return Checked(path, False, 0, ())  # a writer was killed before its first record
    checks = [*_weights(path), *_edits(path), *_evaluations(path)]
    faults = tuple(fault for fault in checks if fault is not None)
    return Checked(path, directory.is_done(path), 1 + len(checks), faults)


def _weights(run: Path) -> Iterator[Fault | None]:
    """Yield for every recorded file of a run what is wrong with it, or None."""
    if not directory.is_done(run):
        try:
            state = named_state(run)
        except IntegrityError as error:
            yield Fault("damaged", run / directory.RESUME_RECORD, str(error))
            return
        for name, sha256 in (state.sha256 if state is not None else {}).items():
            yield _compared(run / name, sha256, directory.RESUME_RECORD)
        return
    spec = directory.read_spec(run)
    try:
        done, recorded = directory.read_done(run), directory.weights_sha256(run, spec.method)
        read_trajectory(run, spec.steps)
    except IntegrityError as error:
        yield Fault("damaged", run, str(error))
        return
    if (done.get("run_id"), done.get("steps")) != (run.name, spec.steps):
        yield Fault("damaged", run / directory.DONE, f"does not say that {spec.steps} steps of this run are done")
    steps = set(directory.checkpoint_steps(run))
    for step in sorted(set(spec.checkpoint_steps()) - steps):
        yield Fault("missing", directory.checkpoint_folder(run, step), "a checkpoint of the finished run")
    for step in sorted(steps - set(spec.checkpoint_steps())):
        yield Fault("foreign", directory.checkpoint_folder(run, step), "no checkpoint of this run")
    for step_text, sha256 in recorded.items():
        folder = run / directory.CHECKPOINTS / f"step-{step_text}"
        if folder.is_dir():
            files = sorted(folder.glob("*.safetensors"))
            file = files[0] if len(files) == 1 else folder / ADAPTER_WEIGHTS
            yield _compared(file, sha256, directory.DONE)


def _compared(file: Path, sha256: str, record: str) -> Fault | None:
    try:
        found = sha256_file(file)
    except FileNotFoundError:
        return Fault("missing", file, f"{record} names it")
    except OSError as error:
        return Fault("damaged", file, f"cannot be read: {error.strerror or error}")
    if found == sha256:
        return None
    return Fault("damaged", file, f"has sha256 {found[:12]}, {record} says {sha256[:12]}")


def _edits(run: Path) -> Iterator[Fault | None]:
    for name in directory.made_edits(run):
        folder = directory.edit_folder(run, name)
        if name.startswith(UNFINISHED):
            continue
        try:
            recorded = read_record(folder / EDIT_RECORD).get("sha256")
        except IntegrityError as error:
            yield Fault("damaged" if (folder / EDIT_RECORD).is_file() else "missing", folder / EDIT_RECORD, str(error))
            continue
        if isinstance(recorded, str):
            yield _compared(folder / ADAPTER_WEIGHTS, recorded, EDIT_RECORD)


def _evaluations(run: Path) -> Iterator[Fault | None]:
    for record in directory.stage_records(run):
        try:
            told = read_record(record)
        except IntegrityError as error:
            yield Fault("damaged", record, str(error))
            continue
        if told.get("answers_id") != record.parent.name:
            yield Fault("foreign", record, f"is the record of {told.get('answers_id')!r}")
        for file in directory.verdict_files(record):
            yield None if _is_whole(file) else Fault("damaged", file, "is no whole Parquet file")


def _is_whole(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            first = stream.read(4)
            stream.seek(-4, 2)
            return first == PARQUET and stream.read() == PARQUET
    except OSError:  # shorter than four bytes
        return False
