"""One training run: RunSpec in, run directory out.

Killed at any moment, a run resumes to the same adapter bit for bit: on the same machine, with the same versions and
number of threads, on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, TrainingError
from narrowly.records.files import read_json, write_json
from narrowly.records.run_spec import ResolvedInputs, RunSpec, run_id
from narrowly.runs import directory
from narrowly.runs.trajectory import OnStep
from narrowly.train import checkpoint
from narrowly.train.environment import check_versions, environment
from narrowly.train.heldout import heldout_observer, write_text_record
from narrowly.train.inputs import RunInputs, load_inputs, resolve_inputs
from narrowly.train.launch import check_processes, train_on_processes
from narrowly.train.observe import Observer, ObserverContext, same_random_state
from narrowly.train.parts import Parts, build_parts, pad_id
from narrowly.train.ranks import ALONE, Ranks
from narrowly.train.recorder import Recorder
from narrowly.train.steps import train_steps

if TYPE_CHECKING:
    from narrowly.integrations.reporting import Reporting

__all__ = ["Observer", "ObserverContext", "resolve_inputs", "run_directory", "train_run"]


class Job(NamedTuple):
    """A run to be done, as every process of it is told: the inputs are read once."""

    spec: RunSpec
    inputs: RunInputs
    folder: Path
    observers: tuple[Observer, ...]
    allow_version_change: bool


Followed = AbstractContextManager[OnStep | None]
OnBegin = Callable[[int], None]

_FRESH = -1
"""What the first process tells the others where there is no checkpoint to resume from."""


def run_directory(spec: RunSpec, runs_dir: Path, inputs: ResolvedInputs | None = None) -> Path:
    """Return the directory of a run: `runs_dir` / run-id, whether it exists or not.

    Args:
        spec: the run's spec.
        runs_dir: folder of all runs.
        inputs: what `resolve_inputs(spec)` returned, where the caller has it already.
    """
    return runs_dir / run_id(spec, inputs or resolve_inputs(spec))


def train_run(
    spec: RunSpec,
    runs_dir: Path,
    *,
    processes: int = 1,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
    reporting: Reporting | None = None,
    allow_version_change: bool = False,
) -> Path:
    """Train one run to its end, or finish one that was killed; a finished one is returned at once.

    Args:
        spec: everything that decides the run.
        runs_dir: folder of all runs; the run's own is made inside of it.
        processes: how many share the rows of every step, one GPU each where the spec says cuda; up to rounding (and
            the draws of dropout) the run is the same with any number. More than one are started by this function, which
            then needs a `if __name__ == "__main__":` around it in a script, and observers that can be pickled.
        observers: called at the spec's checkpoint steps, 0 included; they cannot disturb the run.
        on_step: called with (step, total, row) after each optimiser step.
        reporting: trackers that get every row, those of a finished run too where they lack them.
        allow_version_change: resume although library versions changed since the run began.

    Returns:
        The run directory, with its `done` marker.

    Raises:
        UnknownNameError, SpecError, IntegrityError, AdapterError, OptimiserError: bad input; nothing is written.
        RunDirectoryError: a foreign, claimed or unwritable directory; a full disk.
        ResumeError: a resume would mix library versions.
        TrainingError: the loss is not finite, or memory does not suffice; failed.json says in which step, and the last
            good checkpoint is kept.
    """
    check_processes(spec, processes)
    inputs = load_inputs(spec)
    folder = run_directory(spec, runs_dir, inputs.resolved)
    followed: Followed = (
        nullcontext(on_step)
        if reporting is None
        else reporting.follow(folder, spec, inputs.resolved, inputs.base.name, on_step)
    )
    if directory.is_done(folder):
        with followed:
            return _finished(folder)
    directory.check_directory(folder)  # before the lock, so that not even that is put into a foreign folder
    job = Job(spec, inputs, folder, tuple(observers), allow_version_change)
    if processes == 1:
        train_share(job, followed)
    else:
        train_on_processes(job, processes, followed)
    return folder


def train_share(job: Job, followed: Followed, ranks: Ranks = ALONE, on_begin: OnBegin | None = None) -> None:
    """Do what one process has to do for a run: all of it, or a share of every step; the first one alone writes.

    Args:
        job: the same in every process.
        followed: entered by the first process when the directory is its own; gives what to call after each step.
        ranks: the processes of the run.
        on_begin: called in the first process, before the first step, with the step that it begins after.
    """
    with _out_of_memory_in_one_line(), same_random_state(), _deterministic(job.spec.device):
        parts = build_parts(job.spec, job.inputs)
        if not ranks.first:
            _follow(job, parts, ranks)
            return
        with directory.claimed(job.folder):
            if directory.is_done(job.folder):  # another command finished it since we looked
                ranks.from_first(job.spec.steps)
                _finished(job.folder)
            else:
                with followed as on_step:
                    _lead(job, parts, ranks, on_begin, on_step)


def _finished(folder: Path) -> Path:
    directory.check_identity(folder)
    checkpoint.drop_resume_state(folder)  # a run killed right after its last mark still has it
    return folder


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Ask torch for deterministic kernels, which cost nothing on the CPU, and give the setting back.

    On a GPU, where attention has none for its backward pass, torch warns.
    """
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    # filling every new tensor is a debugging aid that would slow small models down
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def _out_of_memory_in_one_line() -> Iterator[None]:
    """Say what helps where memory is short elsewhere than in a micro-batch: loading, optimiser, spectra, observers."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        said = ". ".join(" ".join(str(error).split()).split(". ")[:2])  # what was asked for; the rest is about torch
        raise TrainingError(
            f"out of memory where a smaller micro-batch does not help ({said}); accepted: a smaller base or adapter, "
            "method lora, base_dtype bfloat16 or nf4, or a device that nobody else uses"
        ) from error


def _lead(job: Job, parts: Parts, ranks: Ranks, on_begin: OnBegin | None, on_step: OnStep | None) -> None:
    spec, inputs, folder, observers = job.spec, job.inputs, job.folder, job.observers
    began = time.perf_counter()
    directory.open_directory(folder, spec, inputs.resolved)
    directory.sweep(folder)
    if inputs.text is not None:
        write_text_record(folder, inputs)
        if inputs.text.heldout:
            padding = pad_id(parts.tokenizer)
            observers = (heldout_observer(inputs.text.heldout, spec.batch_size, padding), *observers)
    resumed = _resume(job, parts, ranks.size)
    recorder = Recorder(folder, spec, parts, observers, on_step)
    reached = [resumed or 0]
    if on_begin is not None:
        on_begin(reached[0])
    ranks.from_first(_FRESH if resumed is None else resumed)
    try:
        if resumed is None:
            recorder.begin()
        if reached[0] < spec.steps:
            train_steps(spec, inputs, parts, folder, recorder, reached, ranks)
    except Exception as error:
        if ranks.size == 1:  # where there are several, another one may know the cause
            directory.write_failed(folder, error, reached[0])
        raise
    _finish(folder, spec, parts, time.perf_counter() - began)


def _follow(job: Job, parts: Parts, ranks: Ranks) -> None:
    """Take a share of every step; what is on disk is the first process's business."""
    first_step = ranks.from_first(_FRESH)
    if first_step >= job.spec.steps:
        return
    if first_step != _FRESH:
        checkpoint.load_resume_state(job.folder, parts.weights, parts.optimizer, parts.scheduler, parts.penalty)
    train_steps(job.spec, job.inputs, parts, job.folder, None, [max(first_step, 0)], ranks)


def _resume(job: Job, parts: Parts, processes: int) -> int | None:
    """Bring parts and files back to the newest checkpoint and return its step, or None for a start from the base.

    Everything is checked before the first file is changed.
    """
    folder, now = job.folder, environment(job.spec, processes)
    step = checkpoint.resume_step(folder)
    if step is None:
        directory.truncate_trajectory(folder, None)
        checkpoint.discard_after(folder, -1)
        (folder / directory.FAILED).unlink(missing_ok=True)
        write_json(folder / directory.ENVIRONMENT, {**now, "resumed": []})
        return None
    recorded = read_json(folder / directory.ENVIRONMENT)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("versions"), dict):
        raise IntegrityError(f"{folder / directory.ENVIRONMENT} does not hold versions; it is corrupt or not ours")
    last = (recorded.get("resumed") or [recorded])[-1]
    if not job.allow_version_change:
        check_versions(last["versions"], now["versions"])
    loaded = checkpoint.load_resume_state(folder, parts.weights, parts.optimizer, parts.scheduler, parts.penalty)
    directory.truncate_trajectory(folder, loaded)
    checkpoint.discard_after(folder, loaded)
    (folder / directory.FAILED).unlink(missing_ok=True)
    # processes, threads and machine may differ without an error, but not without a trace
    resumed = [*recorded.get("resumed", []), {"step": loaded, **now}]
    write_json(folder / directory.ENVIRONMENT, {**recorded, "resumed": resumed})
    return loaded


def _finish(folder: Path, spec: RunSpec, parts: Parts, seconds: float) -> None:
    steps = directory.checkpoint_steps(folder)
    if steps != list(spec.checkpoint_steps()):
        raise IntegrityError(
            f"{folder} has checkpoints of steps {', '.join(map(str, steps))}, expected "
            f"{', '.join(map(str, spec.checkpoint_steps()))}; remove the directory to train the run anew"
        )
    files = {step: parts.weights.file(step) for step in steps}
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
    write_json(folder / directory.DONE, done)
    checkpoint.drop_resume_state(folder)
