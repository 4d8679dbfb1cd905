"""Do what one process does for a run: all of it, or its share of every step. The first process alone writes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from narrowly.engines import stopping
from narrowly.models.undisturbed import same_random_state
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import ClaimLostError, IntegrityError, ResumeError, TrainingError
from narrowly.records.files import read_json, write_json
from narrowly.records.imports import collector_off
from narrowly.records.run_spec import RunSpec
from narrowly.runs import directory
from narrowly.runs.claims import check_run, hold_run
from narrowly.runs.resume import discard_after, drop_state, named_state, way_out
from narrowly.runs.trajectory import OnStep, read_trajectory
from narrowly.train.environment import check_versions, environment
from narrowly.train.heldout import heldout_observer, write_text_record
from narrowly.train.inputs import RunInputs
from narrowly.train.observe import Observer
from narrowly.train.process_group import SINGLE, ProcessGroup
from narrowly.train.recorder import Recorder
from narrowly.train.resume import Progress, ResumeKeeper, Say, load_state
from narrowly.train.state import TrainState, build_state, pad_id
from narrowly.train.steps import train_steps


class Job(NamedTuple):
    """Describe a run to every process of it; the inputs are read once.

    Attributes:
        spec: everything that decides the run.
        inputs: what its names stand for.
        folder: the run directory.
        observers: called at checkpoint steps.
        allow_version_change: resume although library versions changed.
        claimed: the parent of the processes holds the run's claim already.
        save_every: minutes between two resume states, or None for the default.
    """

    spec: RunSpec
    inputs: RunInputs
    folder: Path
    observers: tuple[Observer, ...]
    allow_version_change: bool
    claimed: bool = False
    save_every: float | None = None


Following = AbstractContextManager[OnStep | None]
"""Entered once the run directory is ours: opens the trackers and gives what to call after each step."""

OnBegin = Callable[[int], None]

LIBRARIES = ("narrowly.train.trainer", "narrowly.optim.build", "peft", "transformers.models.auto.modeling_auto")
"""What every run needs and what takes long to import, with all that it imports."""

UNCOLLECTED = 64 << 20
"""Bytes of models that earlier runs of a process may leave in cycles before the next one has them collected."""

_FRESH = -1
"""Broadcast by the first process where there is no state to resume from."""


def train_share(
    job: Job, following: Following, say: Say, group: ProcessGroup = SINGLE, on_begin: OnBegin | None = None
) -> None:
    """Train a run, or this process's share of it; in the first process hold its claim and write its directory.

    Args:
        job: the same in every process.
        following: entered by the first process.
        say: called in the first process with one line: where a resumed run goes on, a state that could not be saved.
        group: the processes of the run.
        on_begin: called in the first process, before the first step, with the number of steps done.

    Raises:
        NarrowlyError: as `train_run`.
        Stopped: a signal asked for it; once the run has begun, its state is saved.
        PeerLostError: another process of the group has ended.
    """
    with (
        _libraries_imported(),
        _out_of_memory_in_one_line(),
        same_random_state(),
        _deterministic(job.spec.device),
    ):
        state = build_state(job.spec, job.inputs)
        _leaves(state)
        if not group.is_first:
            _follow(job, state, group)
            return
        with nullcontext() if job.claimed else hold_run(job.folder):
            if directory.is_done(job.folder):  # another command finished it since we looked
                group.broadcast(job.spec.steps)
                finish_again(job.folder)
            else:
                end = f"stopped at step {job.spec.steps}, the last one; the run is finished"
                with following as on_step, stopping.patient(end):
                    _lead(job, state, group, say, on_begin, on_step)


def finish_again(folder: Path) -> Path:
    """Check and return the directory of a finished run, and tidy it where its process was killed after `done`.

    Raises:
        RunDirectoryError: it is not that of the run it is named after.
        IntegrityError: its records are broken or cut off, or a checkpoint is missing.
    """
    directory.check_identity(folder)
    done, spec = directory.read_done(folder), directory.read_spec(folder)
    if (done.get("run_id"), done.get("steps")) != (folder.name, spec.steps):
        raise IntegrityError(
            f"{folder / directory.DONE} does not say that {spec.steps} steps of run {folder.name} are done; move "
            f"{folder} away and give the same command again"
        )
    read_trajectory(folder, spec.steps)
    _check_checkpoints(folder, spec)
    drop_state(folder)
    return folder


def _check_checkpoints(folder: Path, spec: RunSpec) -> None:
    steps = directory.checkpoint_steps(folder)
    if steps != list(spec.checkpoint_steps()):
        raise IntegrityError(
            f"{folder} has checkpoints of steps {', '.join(map(str, steps))}, expected "
            f"{', '.join(map(str, spec.checkpoint_steps()))}; remove the directory to train the run anew"
        )


@contextmanager
def _libraries_imported() -> Iterator[None]:
    """Import at once what a run needs, and keep all of it from the garbage collector until the run ends.

    The first collections, and the one that the Trainer forces, would walk every class of torch and transformers. What
    earlier runs of this process have left in cycles, their models for one, is collected before, once it is worth a walk
    through all objects (a tenth of the CPU time of a small run). A process that has frozen its objects itself, as a
    worker does, keeps its way.
    """
    global _left
    with collector_off():
        for name in LIBRARIES:
            import_module(name)
    if _left > UNCOLLECTED:
        gc.collect()
        _left = 0
    mine = gc.get_freeze_count() == 0
    if mine:
        gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()


_left = 0
"""Bytes of the models of runs since the last collection."""


def _leaves(state: TrainState) -> None:
    """Count what a run may leave behind: weights, gradients and the optimiser's state are a few times the model."""
    global _left
    _left += sum(parameter.nbytes for parameter in state.model.parameters())


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Ask torch for deterministic kernels, which cost nothing on the CPU, and restore the setting.

    On a GPU, where attention has none for its backward pass, torch warns.

    `use_deterministic_algorithms` would set the same flags and import the compiler, which nothing here uses (torch
    2.13: a quarter of the CPU time of a short run).
    """
    import torch

    before = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("warn" if device == "cuda" else "error")
    # filling every new tensor is a debugging aid that would slow small models down
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def _out_of_memory_in_one_line() -> Iterator[None]:
    """Say what helps where memory is short elsewhere than in a micro-batch: loading, optimiser, spectra, observers."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        request = ". ".join(" ".join(str(error).split()).split(". ")[:2])  # the rest is about torch
        raise TrainingError(
            f"out of memory where a smaller micro-batch does not help ({request}); accepted: a smaller base or "
            "adapter, method lora, base_dtype bfloat16 or nf4, or a device that nobody else uses"
        ) from error


def _lead(
    job: Job, state: TrainState, group: ProcessGroup, say: Say, on_begin: OnBegin | None, on_step: OnStep | None
) -> None:
    """Begin or resume the run in its directory, train it as the first process, and mark it as done."""
    spec, inputs, folder, observers = job.spec, job.inputs, job.folder, job.observers
    began = time.perf_counter()
    directory.open_directory(folder, spec, inputs.resolved)
    directory.sweep(folder)
    if inputs.data.template is not None:
        write_text_record(folder, inputs)
        if inputs.data.heldout:
            padding = pad_id(state.tokenizer)
            observers = (
                heldout_observer(inputs.data.heldout, spec.batch_size, padding, spec.start is None),
                *observers,
            )
    resumed = _resume(job, state, group.size)
    progress = resumed or Progress(0)
    if resumed is not None:
        say(f"goes on from step {progress.step} of {spec.steps}")
    recorder = Recorder(folder, spec, state, ResumeKeeper(folder, state, job.save_every, say), observers, on_step)
    if on_begin is not None:
        on_begin(progress.step)
    group.broadcast(_FRESH if resumed is None else progress.step)
    if progress.step < spec.steps:
        group.barrier()  # until all have read the state, which the next one replaces
    try:
        if resumed is None:
            recorder.begin()
        elif progress.pending is not None:
            recorder.finish_pending(progress)
        if progress.step < spec.steps:
            train_steps(spec, inputs, state, folder, progress, recorder, group)
    except ClaimLostError:
        raise
    except Exception as error:
        if group.size == 1:  # where there are several, another one may know the cause
            directory.write_failed(folder, error, progress.step)
        raise
    _finish(folder, spec, state, time.perf_counter() - began)


def _follow(job: Job, state: TrainState, group: ProcessGroup) -> None:
    """Train this process's share of every step, and write nothing."""
    first_step = group.broadcast(_FRESH)
    if first_step >= job.spec.steps:
        return
    progress = Progress(0) if first_step == _FRESH else load_state(job.folder, state)
    group.barrier()
    train_steps(job.spec, job.inputs, state, job.folder, progress, None, group)


def _resume(job: Job, state: TrainState, processes: int) -> Progress | None:
    """Bring state and files back to the newest state; return how far it is, or None for a start from the base.

    Everything is checked before the first file is changed.
    """
    folder, now = job.folder, environment(job.spec, job.inputs.base, processes)
    if named_state(folder) is None:
        directory.truncate_trajectory(folder, None)
        directory.truncate_speed(folder, 0)
        discard_after(folder, -1)
        (folder / directory.FAILED).unlink(missing_ok=True)
        write_json(folder / directory.ENVIRONMENT, {**now, "resumed": []})
        return None
    recorded = read_json(folder / directory.ENVIRONMENT)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("versions"), dict):
        raise IntegrityError(f"{folder / directory.ENVIRONMENT} does not hold versions; it is corrupt or not ours")
    last = (recorded.get("resumed") or [recorded])[-1]
    if not job.allow_version_change:
        check_versions(last["versions"], now["versions"])
    loaded = _loaded(folder, state, mixed=last["versions"] != now["versions"])
    directory.truncate_trajectory(folder, loaded.recorded)
    directory.truncate_speed(folder, loaded.step)
    discard_after(folder, loaded.recorded)
    (folder / directory.FAILED).unlink(missing_ok=True)
    # processes, threads and machine may differ without an error, but not without a trace
    resumed = [*recorded.get("resumed", []), {"step": loaded.step, **now}]
    write_json(folder / directory.ENVIRONMENT, {**recorded, "resumed": resumed})
    return loaded


def _loaded(folder: Path, state: TrainState, *, mixed: bool) -> Progress:
    try:
        return load_state(folder, state)
    except (IntegrityError, OSError):
        raise
    except Exception as error:
        if not mixed:  # a bug of ours
            raise
        raise ResumeError(
            f"the libraries of today cannot use the state that those of the run's first part have written "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); accepted: the versions in "
            f"{directory.ENVIRONMENT}; or {way_out(folder)}"
        ) from error


def _finish(folder: Path, spec: RunSpec, state: TrainState, seconds: float) -> None:
    """Check that all checkpoints are there, write the `done` marker, and drop what only a resume needs."""
    _check_checkpoints(folder, spec)
    files = {step: state.weights.file(step) for step in spec.checkpoint_steps()}
    done = {
        "run_id": folder.name,
        "steps": spec.steps,
        "seconds": round(seconds, 3),
        directory.WEIGHTS_SHA256[spec.method]: {
            str(step): sha256_file(directory.checkpoint_folder(folder, step) / file)
            for step, file in files.items()
            if file is not None
        },
    }
    check_run(folder)
    write_json(folder / directory.DONE, done)
    drop_state(folder)
