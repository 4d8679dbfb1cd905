"""Train one run: RunSpec in, run directory out.

Killed at any moment, a run resumes to the same adapter bit for bit: on the same machine, with the same versions and
number of threads, on the CPU.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.engines import stopping
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
from narrowly.train.resume import Say, check_minutes
from narrowly.train.share import Following, Job, finish_again, train_share

if TYPE_CHECKING:
    from narrowly.integrations.reporting import Reporting

__all__ = ["Observer", "ObserverContext", "resolve_inputs", "run_directory", "train_run"]


BEFORE_TRAINING = "stopped before training began; the same command goes on from what is saved"


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
    save_every: float | None = None,
    say: Say | None = None,
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
        save_every: minutes between two states to resume from, at least 0; by default 2, or longer where saving would
            take more than a tenth of the time. It is no part of the run-id.
        say: called with one line where there is something to say: from where a run goes on, a state that could not be
            saved; standard error by default.

    Returns:
        The run directory, with its `done` marker.

    Raises:
        UnknownNameError, SpecError, IntegrityError, AdapterError, OptimiserError: bad input; nothing is written.
        RunDirectoryError: a foreign, claimed or unwritable directory; a full disk.
        ResumeError: a resume would mix library versions.
        TrainingError: the loss is not finite, or memory does not suffice; failed.json says in which step, and the last
            state is kept.
        Stopped: Ctrl-C (then also a KeyboardInterrupt), SIGTERM or SIGHUP (also a SystemExit); the step was finished
            and saved. Signals are heard in the main thread only, and where the program has no handler of its own.
    """
    check_minutes(save_every)
    tell = say or _tell
    with stopping.hear_signals(text=BEFORE_TRAINING) as mine:
        try:
            typed = typed_run_spec(spec)
            check_processes(typed, processes)
            inputs = load_inputs(typed)
            typed = inputs.spec
            folder = run_directory(typed, Path(runs_dir), inputs.resolved)
            following: Following = (
                nullcontext(on_step)
                if reporting is None
                else reporting.follow(folder, typed, inputs.resolved, inputs.base.name, on_step)
            )
            if directory.is_done(folder):
                with following:
                    return finish_again(folder)
            directory.check_directory(folder)  # before the claim, so that a foreign folder is refused without one
            claimed = holds_run(folder)
            job = Job(typed, inputs, folder, tuple(observers), allow_version_change, claimed, save_every)
            if processes == 1:
                train_share(job, following, tell)
            else:
                _train_on_processes(job, processes, following, tell)
            return folder
        except stopping.Stopped as stop:
            if mine:  # a command that hears signals itself has its own way to say so
                tell(str(stop))
            raise


def _tell(line: str) -> None:
    print(f"narrowly: {line}", file=sys.stderr, flush=True)


class _Begun(NamedTuple):
    """Tell the parent that the directory is ours and that a run goes on after this step."""

    step: int


class _Line(NamedTuple):
    """Give the parent a line to say."""

    text: str


class _StepDone(NamedTuple):
    """Tell the parent of an optimiser step: what `OnStep` is called with."""

    step: int
    total: int
    row: dict[str, Any]


def _train_on_processes(job: Job, processes: int, following: Following, say: Say) -> None:
    """Train a run on several processes; this one follows it, and records the failure if there is one.

    Raises:
        NarrowlyError: what the failing process has raised.
        TrainingError: a process was killed.
        Stopped: a signal asked for it.
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

        def receive(message: _Begun | _StepDone | _Line) -> None:
            nonlocal last_step, on_step
            if isinstance(message, _Line):
                say(message.text)
                return
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
    train_share(job, following, lambda text: send(_Line(text)), group, lambda step: send(_Begun(step)))


def _release(job: Job, error: BaseException, step: int) -> None:
    """Drop the claim that a killed process has left, and write failed.json for an error; a stop is no failure.

    All processes have ended by now. Where another command has taken the run up since, nothing is touched.
    """
    with suppress(RunDirectoryError), hold_run(job.folder):
        if isinstance(error, Exception) and not directory.is_done(job.folder):
            directory.write_failed(job.folder, error, step)
