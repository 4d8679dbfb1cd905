"""Checkpoints: a folder of weights per step, and beside the newest one the exact state to resume from.

    checkpoints/step-N/spectrum.json  and, of method lora, adapter_config.json, adapter_model.safetensors
                                      of method full, a model folder (config.json, model.safetensors, tokenizer);
                                      step 0 is the base and is not stored again
    checkpoints/step-N/resume.pt      optimiser, scheduler, penalty; newest checkpoint only, gone when the run is done
    resume.json                       step and sha256 of what a resume reads

A checkpoint appears whole (written beside its place, then renamed) and counts only once resume.json names it,
so a run killed while it writes resumes from the checkpoint before. The random state is no part of it, because
every step draws from its own stream of the run seed (order.py).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import UNFINISHED, read_json, whole_folder, write_json
from narrowly.runs.directory import SPECTRUM, checkpoint_folder, checkpoint_steps

if TYPE_CHECKING:
    import torch

    from narrowly.models.weights import Weights
    from narrowly.spectrum.penalty import SpectralPenalty

RESUME_STATE = "resume.pt"
RESUME_RECORD = "resume.json"
_FULL = 1 << 20
"""Bytes; a disk with less left after a write that failed is a full one."""


def save_checkpoint(
    run_directory: Path,
    step: int,
    weights: Weights,
    spectrum: Sequence[Mapping[str, Any]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    training_point: list[torch.Tensor] | None = None,
    penalty: SpectralPenalty | None = None,
) -> None:
    """Write the checkpoint of a step, then make it the one to resume from.

    `training_point` is what `optim.evaluation_mode` yielded: the parameters to go on from, where an optimiser trains
    at others than those of the model that is saved.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written; nothing half written is left.
    """
    import torch
    from safetensors import SafetensorError

    state = {
        "step": step,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "training_point": training_point,
        "penalty": None if penalty is None else penalty.state_dict(),
    }
    target = checkpoint_folder(run_directory, step)
    with whole_folder(target) as unfinished:
        try:
            weights.write(unfinished, step)
            (unfinished / SPECTRUM).write_bytes((json.dumps(spectrum, allow_nan=False) + "\n").encode())
            with (unfinished / RESUME_STATE).open("wb") as stream:
                torch.save(state, stream)
        except (SafetensorError, RuntimeError) as error:  # how their writers in Rust and C++ report a full disk
            full = _full_disk(error, unfinished)
            raise RunDirectoryError(f"cannot write {target}: {' '.join(str(full or error).split())}") from full or error
        names = [name for name in (weights.file(step), RESUME_STATE) if name is not None]
        record = {name: sha256_file(unfinished / name) for name in names}
        if target.exists():  # left by a run that was killed before resume.json named it
            shutil.rmtree(target)
    write_json(run_directory / RESUME_RECORD, {"step": step, "sha256": record})
    for older in checkpoint_steps(run_directory):
        if older < step:
            (checkpoint_folder(run_directory, older) / RESUME_STATE).unlink(missing_ok=True)


def _full_disk(error: BaseException, folder: Path) -> OSError | None:
    """Return the error of the system behind one of a writer in Rust or C++, None where there is no sign of it.

    They hide it in their text or in what was raised before, or say nothing of it; what is left of the disk tells then.
    A study stops at it, where it would otherwise train every cell up to its first checkpoint.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = int(told[1]) if told else errno.ENOSPC
    if told is None and shutil.disk_usage(folder).free > _FULL:
        return None
    found = OSError(number, os.strerror(number))
    found.__cause__ = error
    return found


def resume_step(run_directory: Path) -> int | None:
    """Return the step of the checkpoint to resume from, or None where there is none.

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
    return step


def _verify(path: Path, expected: str) -> None:
    try:
        found = sha256_file(path)
    except OSError as error:
        raise IntegrityError(f"cannot resume, {path}: {error.strerror or error}") from error
    if found != expected:
        raise IntegrityError(f"cannot resume, {path} has sha256 {found}, resume.json says {expected}")


def load_resume_state(
    run_directory: Path,
    weights: Weights,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    penalty: SpectralPenalty | None = None,
) -> int:
    """Put model, optimiser, scheduler and penalty into the state of the newest checkpoint; return its step.

    Both files are hashed before they are read, and the state is read with `weights_only=True`: nothing is unpickled.

    Raises:
        IntegrityError: a file is missing, or is not the one that resume.json describes.
    """
    import torch

    from narrowly.optim.modes import return_to_training

    record = read_json(run_directory / RESUME_RECORD)
    step: int = record["step"]
    folder, file = checkpoint_folder(run_directory, step), weights.file(record["step"])
    expected = {name for name in (file, RESUME_STATE) if name is not None}
    if set(record["sha256"]) != expected:
        raise IntegrityError(
            f"{run_directory / RESUME_RECORD} has the hashes of {', '.join(sorted(record['sha256']))}, accepted: "
            f"{', '.join(sorted(expected))}; it is corrupt or not ours"
        )
    for name, sha256 in record["sha256"].items():
        _verify(folder / name, sha256)
    state = torch.load(folder / RESUME_STATE, weights_only=True, map_location="cpu")
    if state["step"] != step:
        raise IntegrityError(
            f"cannot resume, {folder / RESUME_STATE} is of step {state['step']}, its folder of step {step}"
        )
    if file is not None:
        weights.load(folder)
    optimizer.load_state_dict(state["optimizer"])
    return_to_training(optimizer, state.get("training_point"))
    if penalty is not None:
        penalty.load_state_dict(state["penalty"])
    scheduler.load_state_dict(state["scheduler"])
    return step


def discard_after(run_directory: Path, step: int) -> None:
    """Remove what a killed run left beyond the step that is resumed: later checkpoints, unfinished folders."""
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
