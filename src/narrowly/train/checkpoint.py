"""Write and read checkpoints: the weights of a step with their spectrum, and the exact state to resume from.

A checkpoint appears whole (written beside its place, then renamed) and counts only once it is named as the one to
resume from (`runs/checkpoints.py`), so a run killed while it writes resumes from the checkpoint before. The random
state is no part of it, because every step draws from its own stream of the run seed (order.py). At step 0 method full
stores no weights: they are the base's.
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
from narrowly.records.files import whole_folder
from narrowly.runs.checkpoints import RESUME_STATE, resume_from, resume_hashes
from narrowly.runs.directory import RESUME_RECORD, SPECTRUM, checkpoint_folder

if TYPE_CHECKING:
    import torch

    from narrowly.models.weights import Weights
    from narrowly.spectrum.penalty import SpectralPenalty

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
    resume_from(run_directory, step, record)


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
    named = re.search(r"\(os error (\d+)\)", str(error))
    number = int(named[1]) if named else errno.ENOSPC
    if named is None and shutil.disk_usage(folder).free > _FULL:
        return None
    found = OSError(number, os.strerror(number))
    found.__cause__ = error
    return found


def _verify(path: Path, expected: str) -> None:
    try:
        found = sha256_file(path)
    except OSError as error:
        raise IntegrityError(f"cannot resume, {path}: {error.strerror or error}") from error
    if found != expected:
        raise IntegrityError(f"cannot resume, {path} has sha256 {found}, {RESUME_RECORD} says {expected}")


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

    found = resume_hashes(run_directory)
    if found is None:
        raise IntegrityError(f"cannot resume, {run_directory / RESUME_RECORD} is gone")
    step, hashes = found
    folder, file = checkpoint_folder(run_directory, step), weights.file(step)
    expected = {name for name in (file, RESUME_STATE) if name is not None}
    if set(hashes) != expected:
        raise IntegrityError(
            f"{run_directory / RESUME_RECORD} has the hashes of {', '.join(sorted(hashes))}, accepted: "
            f"{', '.join(sorted(expected))}; it is corrupt or not ours"
        )
    for name, sha256 in hashes.items():
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
