"""Keep the state that a run resumes from, apart from the checkpoints that are measured, and put it back.

One file holds all: trained parameters, optimiser, scheduler, penalty, the size of the micro-batches. It appears whole
and counts only once resume.json names it with its sha256 (`runs/resume.py`), so a run killed while it is written
resumes from the one before. The random state is no part of it, because every step draws from its own stream of the run
seed (order.py). At step 0 the parameters are those that the spec builds, and are not stored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.files import atomic_path
from narrowly.runs.directory import RESUME_RECORD, TRAJECTORY
from narrowly.runs.resume import NamedState, name_state, named_state, state_path, way_out
from narrowly.train.disk import check_room, writing

if TYPE_CHECKING:
    from torch import nn

    from narrowly.train.state import TrainState

DEFAULT_MINUTES = 2.0
"""Between two states; ours: what a stop without warning may cost."""

LONGEST_SHARE = 0.1
"""Of the time that saving may take by default: a state of 100 GB is saved less often than every two minutes."""

Say = Callable[[str], None]


@dataclass
class Progress:
    """Say how far a run is; the count holds where an error ends the run, too.

    Attributes:
        step: optimiser steps done.
        micro_batches: rows that each process takes at once, the first process first; empty before the first step.
        pending: the row of `step` and its speed, where the checkpoint of this step is not measured yet.
    """

    step: int
    micro_batches: tuple[int, ...] = ()
    pending: Mapping[str, dict[str, Any]] | None = None

    @property
    def recorded(self) -> int:
        """Return the last step that has its row and, where it should have one, its checkpoint."""
        return self.step if self.pending is None else self.step - 1


def check_minutes(minutes: float | None) -> None:
    """Check the time between two states.

    Raises:
        SpecError: below 0, or no number.
    """
    if minutes is not None and not minutes >= 0:
        raise SpecError(f"save_every is {minutes}, accepted: minutes, 0 (after every step) or more")


class ResumeKeeper:
    """Save the state of a run from time to time; where that fails, say so and let the run go on.

    Args:
        directory: the run directory.
        state: what the run trains.
        minutes: between two states; None is `DEFAULT_MINUTES`, or longer where saving would take too much of the time.
        say: told in one line when a state cannot be saved.

    Attributes:
        newest: the state that is on disk, or None.
    """

    def __init__(self, directory: Path, state: TrainState, minutes: float | None, say: Say) -> None:
        self.newest = named_state(directory)
        self._directory, self._state, self._minutes, self._say = directory, state, minutes, say
        self._saved_at, self._took, self._failing = time.monotonic(), 0.0, False

    @property
    def falls_back_to(self) -> int:
        """Return the step that a stop now would fall back to."""
        return 0 if self.newest is None else self.newest.step

    def is_due(self) -> bool:
        """Return whether it is time for the next state."""
        seconds = 60 * (DEFAULT_MINUTES if self._minutes is None else self._minutes)
        if self._minutes is None:
            seconds = max(seconds, self._took / LONGEST_SHARE)
        return time.monotonic() - self._saved_at >= seconds

    def save(self, progress: Progress) -> None:
        """Save the state after a step, unless it is there; a disk that is full or too small does not end the run."""
        if self.newest is not None and self.newest.file == state_path(progress.step, progress.pending is None):
            return
        began = time.monotonic()
        try:
            self.newest = save_state(self._directory, self._state, progress)
            self._failing = False
        except RunDirectoryError as error:
            if not self._failing:
                self._say(
                    f"the state of step {progress.step} was not kept: {error}; training goes on, and a stop would fall "
                    f"back to step {self.falls_back_to}"
                )
            self._failing = True
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began


def save_state(run_directory: Path, state: TrainState, progress: Progress) -> NamedState:
    """Write the state after a step, then make it the one to resume from.

    Raises:
        RunDirectoryError: a disk that is full or too small, or a folder that cannot be written; the state before stays.
    """
    import torch

    content = {
        "run": run_directory.name,
        "step": progress.step,
        "micro_batches": list(progress.micro_batches),
        "pending": progress.pending,
        "parameters": None if progress.step == 0 else _trained(state.model),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "penalty": None if state.penalty is None else state.penalty.state_dict(),
    }
    path = state_path(progress.step, progress.pending is None)
    file = run_directory / path
    check_room(file, run_directory, _bytes(content))
    with atomic_path(file) as unfinished, writing(file, run_directory):
        with unfinished.open("wb") as stream:
            torch.save(content, stream)
        saved = NamedState(progress.step, {path: sha256_file(unfinished)})
    _sync(run_directory / TRAJECTORY)  # the rows up to this step must outlast what the state outlasts
    name_state(run_directory, saved)
    return saved


def _sync(file: Path) -> None:
    if not file.is_file():  # interrupted before the row of step 0
        return
    try:
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    except OSError as error:
        raise RunDirectoryError(f"cannot write {file}: {error.strerror or error}") from error


def _trained(model: nn.Module) -> dict[str, Any]:
    return {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}


def _bytes(value: Any) -> int:
    """Return the bytes of all tensors in nested mappings and sequences."""
    if isinstance(value, Mapping):
        return sum(_bytes(one) for one in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(one) for one in value)
    return int(getattr(value, "nbytes", 0))


def load_state(run_directory: Path, state: TrainState) -> Progress:
    """Put model, optimiser, scheduler and penalty into the state that resume.json names; return how far the run was.

    The file is hashed before it is read, and read with `weights_only=True`: nothing is unpickled.

    Raises:
        IntegrityError: the file is missing, or is not the one that resume.json describes.
    """
    import torch

    found = named_state(run_directory)
    if found is None:
        raise IntegrityError(f"cannot resume, {run_directory} names no state any more")
    for path, sha256 in found.sha256.items():
        _verify(run_directory, path, sha256)
    file = run_directory / found.file
    content = torch.load(file, weights_only=True, map_location="cpu")
    run, step = content.get("run", run_directory.name), content["step"]
    if (run, step) != (run_directory.name, found.step):
        raise IntegrityError(f"cannot resume, {file} is of step {step} of run {run}; {way_out(run_directory)}")
    if found.former:
        _put_former(content, state, file.parent)
    else:
        _put_parameters(_trained(state.model), content["parameters"])
        state.optimizer.load_state_dict(content["optimizer"])
    if state.penalty is not None:
        state.penalty.load_state_dict(content["penalty"])
    state.scheduler.load_state_dict(content["scheduler"])
    return Progress(found.step, tuple(content.get("micro_batches", ())), content.get("pending"))


def _verify(run_directory: Path, path: str, expected: str) -> None:
    file = run_directory / path
    try:
        found = sha256_file(file)
    except OSError as error:
        raise IntegrityError(f"cannot resume, {file}: {error.strerror or error}; {way_out(run_directory)}") from error
    if found != expected:
        raise IntegrityError(
            f"cannot resume, {file} has sha256 {found}, {RESUME_RECORD} says {expected}; {way_out(run_directory)}"
        )


def _put_former(content: Mapping[str, Any], state: TrainState, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the model, and the optimiser's state that lay beside them."""
    from narrowly.optim.modes import return_to_training

    file = state.weights.file(content["step"])
    if file is not None:
        state.weights.load(checkpoint)
    state.optimizer.load_state_dict(content["optimizer"])
    return_to_training(state.optimizer, content.get("training_point"))


def _put_parameters(trained: Mapping[str, Any], stored: Mapping[str, Any] | None) -> None:
    if stored is None:  # step 0
        return
    odd = sorted(set(stored) ^ set(trained))
    if odd:
        raise ValueError(f"the state to resume from and the model differ in {odd[0]}")
    for name, parameter in trained.items():
        parameter.copy_(stored[name])
