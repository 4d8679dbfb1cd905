"""Lay out the run directory: identity, markers, trajectory.

What has no `done` is not done; what is foreign is not touched.

spec.json  inputs.json  environment.json  trajectory.jsonl  checkpoints/  done | failed.json
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from narrowly.records.errors import AdapterError, IntegrityError, RunDirectoryError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_json, read_jsonl, write_json, write_text
from narrowly.records.run_spec import ResolvedInputs, RunSpec, run_id

SPEC, INPUTS, ENVIRONMENT = "spec.json", "inputs.json", "environment.json"
TRAJECTORY, DONE, FAILED = "trajectory.jsonl", "done", "failed.json"
CHECKPOINTS, EDITS, EVALS, STAGE_RECORD = "checkpoints", "edits", "evals", "stage.json"
SPEED, TRACKED, RESUME_RECORD = "speed.jsonl", "tracked.jsonl", "resume.json"
WEIGHTS_SHA256 = {"lora": "adapter_sha256", "full": "model_sha256"}
"""Field of `done` with the sha256 of every checkpoint's weights by step; step 0 of method full is the base."""
SPECTRUM = "spectrum.json"
TRIPWIRE = "tripwire.json"
"""What a tripwire has read; also in the output folder of a Trainer."""
DATA_RECORD, TEMPLATE = "data.json", "chat_template.jinja"  # of runs on text only


def read_spec(directory: Path) -> RunSpec:
    """Read the spec that a run directory was made from.

    Raises:
        RunDirectoryError: there is no spec.json.
        IntegrityError: spec.json is broken or no RunSpec.
    """
    file = directory / SPEC
    if not file.is_file():
        raise RunDirectoryError(f"{directory} is no run directory: it has no {SPEC}")
    try:
        return RunSpec.model_validate(read_json(file))
    except ValidationError as error:
        raise IntegrityError(f"{file} is not a run spec of ours ({first_fault(error)})") from error


def read_inputs(directory: Path) -> ResolvedInputs:
    """Read the names and hashes that the spec was resolved to when the run was made.

    Raises:
        IntegrityError: inputs.json is missing, broken or not ours.
    """
    file = directory / INPUTS
    if not file.is_file():
        raise IntegrityError(f"{directory} has no {INPUTS}; the run directory is corrupt or not ours")
    try:
        return ResolvedInputs.model_validate(read_json(file))
    except ValidationError as error:
        raise IntegrityError(f"{file} does not hold the inputs of a run ({first_fault(error)})") from error


def is_run(directory: Path) -> bool:
    """Return whether a run was begun in this directory."""
    return (directory / SPEC).is_file()


def is_done(directory: Path) -> bool:
    """Return whether the run in this directory is finished."""
    return (directory / DONE).is_file()


def read_done(directory: Path) -> dict[str, Any]:
    """Read the `done` marker: run_id, steps, seconds and the sha256 of every checkpoint's weights by step.

    Raises:
        RunDirectoryError: the run is not done.
        IntegrityError: the marker is broken.
    """
    if not is_done(directory):
        raise RunDirectoryError(f"{directory} holds no finished run (no {DONE!r} marker)")
    value = read_json(directory / DONE)
    if not isinstance(value, dict):
        raise IntegrityError(f"{directory / DONE} does not hold a JSON object; it is corrupt or not ours")
    return value


def weights_sha256(directory: Path, method: Literal["lora", "full"] = "lora") -> dict[str, str]:
    """Read from the `done` marker the sha256 of the weights of every checkpoint, by step as text.

    Raises:
        RunDirectoryError: the run is not done.
        IntegrityError: the marker is broken, or has no such record.
    """
    field = WEIGHTS_SHA256[method]
    found = read_done(directory).get(field)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise IntegrityError(f"{directory / DONE}: {field} does not hold one sha256 by step; it is corrupt or not ours")
    return found


def check_identity(directory: Path) -> None:
    """Check that spec.json and inputs.json are those of the run that the directory is named after.

    Raises:
        RunDirectoryError: they are of another run.
        IntegrityError: one of them is broken.
    """
    found = run_id(read_spec(directory), read_inputs(directory))
    if found != directory.name:
        raise RunDirectoryError(
            f"{directory} holds run {found}, not run {directory.name}: a foreign directory; nothing was changed in it"
        )


def check_directory(directory: Path) -> bool:
    """Check that a directory may be used for the run it is named after; return whether the run was begun in it.

    Raises:
        RunDirectoryError: it has files of something else, or of another run; nothing is changed.
        IntegrityError: its records are broken; nothing is changed.
    """
    if directory.exists() and not directory.is_dir():
        raise RunDirectoryError(f"{directory} is a file where a run directory belongs")
    # hidden files are ours or a killed writer's: the .lock of runs made until November 2026, a half-written spec
    found = (
        {path.name for path in directory.iterdir() if not path.name.startswith(".")} if directory.is_dir() else set()
    )
    if {SPEC, INPUTS} <= found:
        check_identity(directory)
        return True
    if found - {SPEC, INPUTS}:
        raise RunDirectoryError(
            f"{directory} has files ({', '.join(sorted(found)[:4])}) but not both {SPEC} and {INPUTS}: corrupt or not "
            "ours; nothing was changed in it; move it away and run again"
        )
    return False


def open_directory(directory: Path, spec: RunSpec, inputs: ResolvedInputs) -> None:
    """Begin a run in its directory, or check that the one begun there is this run.

    Raises:
        RunDirectoryError, IntegrityError: as `check_directory`.
    """
    if not check_directory(directory):
        write_json(directory / SPEC, spec.model_dump(mode="json"))
        write_json(directory / INPUTS, inputs.model_dump(mode="json"))


def truncate_trajectory(directory: Path, step: int | None) -> None:
    """Cut trajectory.jsonl back to the rows of steps 0 ... `step`; None empties it.

    Raises:
        IntegrityError: a row up to `step` is missing, double or broken.
    """
    file = directory / TRAJECTORY
    if step is None:
        with suppress(FileNotFoundError):
            file.unlink()
        return
    rows = read_jsonl(file) if file.is_file() else []
    kept = [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= step]
    if [row["step"] for row in kept] != list(range(step + 1)):
        raise IntegrityError(f"{file} does not hold one row for each of the steps 0 ... {step}; it is corrupt")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    # the lines themselves are kept, so that a resumed run's file equals an uninterrupted one's byte by byte
    write_text(file, "".join(lines[: len(kept)]))


def truncate_speed(directory: Path, step: int) -> None:
    """Cut speed.jsonl back to the rows of steps 1 ... `step`; torn rows are left out, as readers do."""
    file = directory / SPEED
    if not file.is_file():
        return
    kept = []
    for line in file.read_bytes().split(b"\n"):
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] <= step:
                kept.append(line.decode() + "\n")
    write_text(file, "".join(kept))


def sweep(directory: Path) -> None:
    """Remove the half-written temporary files (`.<name>.<random>`) that a killed writer left behind."""
    for name in (
        SPEC,
        INPUTS,
        ENVIRONMENT,
        TRAJECTORY,
        SPEED,
        DONE,
        FAILED,
        DATA_RECORD,
        TEMPLATE,
        RESUME_RECORD,
        TRIPWIRE,
    ):
        for path in directory.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def write_failed(directory: Path, error: BaseException, step: int) -> None:
    """Write failed.json where the disk still allows it."""
    # the error itself is on its way to the caller; a full disk must not hide it behind another one
    with suppress(RunDirectoryError):
        write_json(directory / FAILED, {"error": type(error).__name__, "message": str(error), "step": step})


def runs_folder(out: Path) -> Path:
    """Return the folder of all runs, which studies share."""
    return out / "runs"


def claim_file(runs: Path, run_id: str) -> Path:
    """Return the claim of a run."""
    return runs / ".claims" / f"{run_id}.json"


def base_verdicts_file(run_directory: Path, asked: str) -> Path:
    """Return where the verdicts on a base are kept for all runs beside this one; `asked` says by content of what."""
    return run_directory.parent / ".bases" / f"{asked}.parquet"


def checkpoint_folder(run_directory: Path, step: int) -> Path:
    """Return the folder of a checkpoint, whether it exists or not."""
    return run_directory / CHECKPOINTS / f"step-{step}"


def edit_folder(run_directory: Path, name: str) -> Path:
    """Return the folder of an edited adapter, whether it exists or not; an edit of the final one is named by its id."""
    return run_directory / EDITS / name


def checkpoint_steps(run_directory: Path) -> list[int]:
    """Return the steps that have a checkpoint, ascending."""
    names = (path.name for path in (run_directory / CHECKPOINTS).glob("step-*"))
    return sorted(int(name[5:]) for name in names if name[5:].isdecimal())


def organism_step(run_directory: Path, step: int | Literal["final"]) -> int:
    """Return the step as a number; "final" is the last step of the spec.

    Raises:
        RunDirectoryError: the run has no such checkpoint; the message names those it has.
    """
    number = read_spec(run_directory).steps if step == "final" else step
    available = checkpoint_steps(run_directory)
    if number not in available:
        unfinished = "" if is_done(run_directory) else ", the run is not finished"
        names = ", ".join(str(one) for one in available) or "none"
        raise RunDirectoryError(f"{run_directory} has no checkpoint of step {number} (accepted: {names}{unfinished})")
    return number


def adapter_folder(run_directory: Path, step: int | Literal["final"], edit_id: str | None = None) -> Path:
    """Return the adapter folder of an organism: its checkpoint, or the place of an edited adapter.

    Edits of the final adapter are in edits/<edit-id>/, those of an earlier step in
    edits/<edit-id>-step-<step>/. The edited folder is not asked to exist, so that whoever makes the edit can
    ask where it belongs.

    Raises:
        RunDirectoryError: the run has no checkpoint of this step.
        AdapterError: the run trained the whole model and has no adapter.
    """
    number = organism_step(run_directory, step)
    if read_spec(run_directory).method == "full":
        raise AdapterError(
            f"run {run_directory.resolve().name} trained the whole model (method full) and has no adapter; accepted: a "
            f"run of method lora (`narrowly spectrum` and `ask` take this one; the model itself is in "
            f"{checkpoint_folder(run_directory, number)})"
        )
    if edit_id is None:
        return checkpoint_folder(run_directory, number)
    if Path(edit_id).name != edit_id:
        raise RunDirectoryError(f"edit {edit_id!r} is no plain name")
    final = number == read_spec(run_directory).steps
    return edit_folder(run_directory, edit_id if final else f"{edit_id}-step-{number}")


def made_edits(run_directory: Path) -> list[str]:
    """Return the names of the edited adapters of a run, sorted."""
    return sorted(path.name for path in (run_directory / EDITS).glob("*"))


def answers_folder(run_directory: Path, answers_id: str) -> Path:
    """Return the folder of the answers of one organism to one bank."""
    return run_directory / EVALS / answers_id


def verdicts_file(run_directory: Path, answers_id: str, verdict_id: str) -> Path:
    """Return the file of the verdicts on those answers; it exists when they are done."""
    return answers_folder(run_directory, answers_id) / "verdicts" / f"{verdict_id}.parquet"


def stage_records(run_directory: Path) -> list[Path]:
    """Return the records of every evaluation of a run, sorted."""
    return sorted((run_directory / EVALS).glob(f"*/{STAGE_RECORD}"))


def verdict_files(stage_record: Path) -> list[Path]:
    """Return the verdict files beside the record of an evaluation, sorted."""
    return sorted(stage_record.parent.glob("verdicts/*.parquet"))


def run_directories(runs: Path) -> list[Path]:
    """Return the directories of all runs of a folder, begun or done, by run-id."""
    return sorted(path.parent for path in runs.glob(f"*/{SPEC}"))


def run_of_adapter(folder: Path) -> Path | None:
    """Return the run directory that a checkpoint or an edit lies in; None for a folder from elsewhere."""
    above = folder.resolve().parent
    return above.parent if above.name in (CHECKPOINTS, EDITS) and is_run(above.parent) else None
