"""Train one run: RunSpec in, run directory out.

Killed at any moment, a run resumes to the same adapter bit for bit: on the same machine, with the same versions and
number of threads, on the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.records.errors import RunDirectoryError, SpecError
from narrowly.records.run_spec import ResolvedInputs, RunSpec, run_id, typed_run_spec
from narrowly.runs import directory
from narrowly.runs.claims import hold_run, holds_run
from narrowly.runs.trajectory import OnStep
from narrowly.train.environment import check_processes
from narrowly.train.inputs import load_inputs, resolve_inputs
from narrowly.train.launch import Send, run_processes
from narrowly.train.observe import Observer, ObserverContext
from narrowly.train.process_group import ProcessGroup
from narrowly.train.share import Following, Job, finish_again, train_share

if TYPE_CHECKING:
    from narrowly.integrations.reporting import Reporting

__all__ = ["Observer", "ObserverContext", "resolve_inputs", "run_directory", "train_run"]


def run_directory(spec: RunSpec, runs_dir: Path, inputs: ResolvedInputs | None = None) -> Path:
    """Return the directory of a run: `runs_dir` / run-id, whether it exists or not.

    Args:
        spec: the run's spec.
        runs_dir: folder of all runs.
        inputs: what `resolve_inputs(spec)` returned, where the caller has it already and the spec is the run's own
            (`RunInputs.spec`, or read from a run directory).
    """
    if inputs is not None:
        return runs_dir / run_id(spec, inputs)
    found = load_inputs(spec)
    return runs_dir / run_id(found.spec, found.resolved)


def train_run(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    runs_dir: str | Path,
    *,
    processes: int = 1,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
    reporting: Reporting | None = None,
    allow_version_change: bool = False,
) -> Path:
    """Train one run to its end, or finish one that was killed; a finished one is returned at once.

    Args:
        spec: everything that decides the run: a spec, a mapping of the same fields, or a spec file.
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
    spec, runs_dir = typed_run_spec(spec), Path(runs_dir)
    check_processes(spec, processes)
    inputs = load_inputs(spec)
    spec = inputs.spec
    folder = run_directory(spec, runs_dir, inputs.resolved)
    following: Following = (
        nullcontext(on_step)
        if reporting is None
        else reporting.follow(folder, spec, inputs.resolved, inputs.base.name, on_step)
    )
    if directory.is_done(folder):
        with following:
            return finish_again(folder)
    directory.check_directory(folder)  # before the claim, so that a foreign folder is refused without one
    job = Job(spec, inputs, folder, tuple(observers), allow_version_change, claimed=holds_run(folder))
    if processes == 1:
        train_share(job, following)
    else:
        _train_on_processes(job, processes, following)
    return folder


class _Begun(NamedTuple):
    """Tell the parent that the directory is ours and that a run goes on after this step."""

    step: int


class _StepDone(NamedTuple):
    """Tell the parent of an optimiser step: what `OnStep` is called with."""

    step: int
    total: int
    row: dict[str, Any]


def _train_on_processes(job: Job, processes: int, following: Following) -> None:
    """Train a run on several processes; this one follows it, and records the failure if there is one.

    Raises:
        NarrowlyError: what the failing process has raised.
        TrainingError: a process was killed.
    """
    try:
        ForkingPickler.dumps(job.observers)
    except Exception as error:  # which one it is depends on the version of Python
        raise SpecError(
            f"observers cannot be sent to another process ({error}), accepted: functions of a module"
        ) from error
    last_step: int | None = None
    on_step: OnStep | None = None
    with ExitStack() as stack:

        def receive(message: _Begun | _StepDone) -> None:
            nonlocal last_step, on_step
            last_step = message.step
            if isinstance(message, _Begun):
                on_step = stack.enter_context(following)
            elif on_step is not None:
                on_step(*message)

        try:
            run_processes(partial(_train_in_process, job), processes, job.spec.device, receive)
        except BaseException as error:
            if last_step is not None:
                _release(job, error, last_step)
            raise


def _train_in_process(job: Job, group: ProcessGroup, send: Send) -> None:
    """Train the share of one process, and send what the parent reports."""
    # transformers takes processes that it did not wrap for a mistake
    logging.getLogger("transformers.training_args").addFilter(
        lambda record: "process group is initialized" not in record.getMessage()
    )
    following = nullcontext(lambda step, total, row: send(_StepDone(step, total, row)))
    train_share(job, following, group, lambda step: send(_Begun(step)))


def _release(job: Job, error: BaseException, step: int) -> None:
    """Drop the claim that a killed process has left, and write failed.json for an error; a stop is no failure.

    All processes have ended by now. Where another command has taken the run up since, nothing is touched.
    """
    with suppress(RunDirectoryError), hold_run(job.folder):
        if isinstance(error, Exception) and not directory.is_done(job.folder):
            directory.write_failed(job.folder, error, step)
