"""Several processes for one run, on one machine: started, listened to and ended by the one that was asked for the run.

The parent trains nothing. It hands on the steps of the first process, and ends all processes when one fails or when it
is stopped itself; they die with it, however it ends. A run may be killed at any moment, so nobody is asked twice.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.engines.lifeline import die_with_parent, how_it_died
from narrowly.records.errors import NarrowlyError, RunDirectoryError, SpecError, TrainingError
from narrowly.records.run_spec import RunSpec
from narrowly.runs import directory
from narrowly.train.environment import check_hardware
from narrowly.train.ranks import LostPeerError, connect

if TYPE_CHECKING:
    from narrowly.runs.trajectory import OnStep
    from narrowly.train.run import Followed, Job

GRACE_SECONDS = 10.0
"""How long the process that caused a failure may take to say so, once another one has noticed that it is gone."""

PLACES = ("RANK", "LOCAL_RANK")
SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables by which launchers tell a process its place, and accelerate finds it."""


def check_processes(spec: RunSpec, processes: int) -> None:
    """Check that a run can be shared by so many processes on this machine.

    Raises:
        SpecError: it cannot, or this process was itself started as one of several (torchrun, mpirun).
    """
    if processes < 1:
        raise SpecError(f"processes is {processes}, accepted: 1 or more")
    for name in SIZES:
        if os.environ.get(name, "1") not in ("", "1"):
            raise SpecError(
                f"started by a launcher as one of {os.environ[name]} processes ({name}), accepted: one command that "
                "starts them itself (narrowly train SPEC --processes N)"
            )
    rows = spec.accumulation * spec.batch_size
    if processes > rows:
        raise SpecError(f"processes is {processes}, accepted: at most {rows}, the rows of a step")
    if processes > 1 and spec.penalty is not None and spec.penalty.kind == "functional":
        raise SpecError(
            f"penalty.kind is functional, whose covariance is of the inputs of one process, and processes is "
            f"{processes}, accepted: 1, or another kind"
        )
    check_hardware(spec)
    if spec.device == "cuda":
        import torch

        if processes > torch.cuda.device_count():
            raise SpecError(
                f"processes is {processes}, accepted: at most {torch.cuda.device_count()}, the GPUs that torch finds"
            )


def train_on_processes(job: Job, processes: int, followed: Followed) -> None:
    """Train a run on several processes to its end.

    Args:
        job: the run.
        processes: how many, at least 2.
        followed: entered in this process when the run begins; gives what to call after each step.

    Raises:
        NarrowlyError: what the failing process has raised.
        TrainingError: a process was killed.
    """
    with tempfile.TemporaryDirectory(prefix="narrowly-") as meeting, ExitStack() as following:
        team = _Team(job, processes, Path(meeting))
        try:
            team.start()
            team.listen(lambda: following.enter_context(followed))
        except Exception as error:
            team.end()
            team.write_failed(error)
            raise
        finally:
            team.end()


class _Team:
    """The processes of a run, as their parent sees them."""

    def __init__(self, job: Job, size: int, meeting: Path) -> None:
        self.job, self.size, self.meeting = job, size, meeting
        self.reached: int | None = None
        self._processes: list[SpawnProcess] = []
        self._lifelines: list[Connection] = []
        self._ears: dict[Connection, int] = {}

    def start(self) -> None:
        import torch

        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // self.size)
        try:
            ForkingPickler.dumps(self.job.observers)
        except Exception as error:  # which one it is depends on the version of Python
            raise SpecError(
                f"observers cannot be sent to another process ({error}), accepted: functions of a module"
            ) from error
        for rank in range(self.size):
            ear, mouth = context.Pipe(duplex=False)
            theirs, lifeline = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(self.job, rank, self.size, threads, self.meeting, mouth, theirs, os.getpid()),
                name=f"narrowly process {rank}",
                daemon=True,
            )
            with _without_ctrl_c(), _place(self.job.spec, rank):
                process.start()
            mouth.close()
            theirs.close()
            self._processes.append(process)
            self._lifelines.append(lifeline)
            self._ears[ear] = rank

    def listen(self, begin: Callable[[], OnStep | None]) -> None:
        """Hand on steps until the first process says that the run is done.

        Args:
            begin: called when the run begins; returns what to call after each step.

        Raises:
            NarrowlyError: what ended the run.
        """
        on_step: OnStep | None = None
        lost: Exception | None = None
        until = 0.0
        while self._ears:
            ready = wait(list(self._ears), None if lost is None else max(0.0, until - time.monotonic()))
            if not ready:
                break
            for ear, rank in [(ear, rank) for ear, rank in self._ears.items() if ear in ready]:
                try:
                    kind, content = ear.recv()
                except (EOFError, OSError):
                    raise self._death(rank) from None
                if kind == "begin":
                    self.reached, on_step = content, begin()
                elif kind == "step":
                    self.reached = content[0]
                    if on_step is not None:
                        on_step(*content)
                elif kind == "failed" and not isinstance(content, LostPeerError):
                    raise content
                else:
                    del self._ears[ear]
                    if kind == "failed":
                        lost, until = content, until or time.monotonic() + GRACE_SECONDS
                    elif rank == 0:
                        return
        raise TrainingError(f"the processes of the run have lost each other: {lost}") from lost

    def _death(self, rank: int) -> TrainingError:
        process = self._processes[rank]
        process.join(GRACE_SECONDS)
        said = ""
        with suppress(OSError):
            lines = _stderr_of(self.meeting, rank).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = f": {lines[-1]}" if lines else ""
        return TrainingError(
            f"process {rank} of {self.size} ended ({how_it_died(process.exitcode)}{said}); the run goes on from its "
            "last checkpoint with the same command"
        )

    def write_failed(self, error: Exception) -> None:
        """Write failed.json, where the run had begun and nobody else has taken it up since."""
        if self.reached is None or directory.is_done(self.job.folder):
            return
        with suppress(RunDirectoryError), directory.claimed(self.job.folder):
            directory.write_failed(self.job.folder, error, self.reached)

    def end(self) -> None:
        """End every process; those whose run is done have a moment to leave by themselves."""
        patience = time.monotonic() + (GRACE_SECONDS if directory.is_done(self.job.folder) else 0.0)
        for process in self._processes:
            process.join(max(0.0, patience - time.monotonic()))
            process.kill()
            process.join()
        for connection in (*self._ears, *self._lifelines):
            with suppress(OSError):
                connection.close()
        self._ears.clear()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start a process that never sees Ctrl-C, which a terminal sends to all: the parent alone decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # some versions of Python unblock the signal when they start it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _place(spec: RunSpec, rank: int) -> Iterator[None]:
    """Start a process that sees one GPU, and nothing by which accelerate would take it for one of a launcher's.

    It inherits this: in the process it would be too late where a script asks torch for GPUs when it is imported. A
    Trainer that sees several uses all of them.
    """
    before = dict(os.environ)
    for name in (*PLACES, *SIZES):
        os.environ.pop(name, None)
    if spec.device == "cuda":
        visible = before.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = str(rank) if visible is None else visible.split(",")[rank].strip()
    try:
        yield
    finally:
        for name in (*PLACES, *SIZES, "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


# ------------------------------------------------------------------------------------------- in one of the processes


def _stderr_of(meeting: Path, rank: int) -> Path:
    return meeting / f"stderr-{rank}"


def _work(
    job: Job, rank: int, size: int, threads: int, meeting: Path, mouth: Connection, lifeline: Connection, parent: int
) -> None:
    die_with_parent(parent, lifeline)
    with suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if rank > 0:  # one voice is enough: warnings would come once from each process
        os.dup2(os.open(_stderr_of(meeting, rank), os.O_WRONLY | os.O_CREAT, 0o600), 2)
    try:
        import torch

        torch.set_num_threads(threads)
        ranks = connect(rank, size, meeting / "meeting", job.spec.device)
        # transformers takes processes that it did not wrap for a mistake
        logging.getLogger("transformers.training_args").addFilter(
            lambda record: "process group is initialized" not in record.getMessage()
        )
        from narrowly.train.run import train_share

        train_share(
            job, nullcontext(lambda *step: mouth.send(("step", step))), ranks, lambda step: mouth.send(("begin", step))
        )
        if ranks.first:
            mouth.send(("done", None))
        ranks.wait()  # the others may not leave earlier
        if not ranks.first:
            mouth.send(("done", None))
    except Exception as error:
        with suppress(OSError):
            mouth.send(("failed", _portable(error)))
        os._exit(1)
    os._exit(0)  # everything is on disk; letting gloo and NCCL take each other down may hang


def _portable(error: Exception) -> Exception:
    """Return the error as it can be sent; where it is none of ours or Python's, or cannot travel, class and text."""
    sent = error
    with suppress(Exception):
        if isinstance(error, NarrowlyError | LostPeerError) or type(error).__module__ == "builtins":
            sent = ForkingPickler.loads(ForkingPickler.dumps(error))
    if sent is error:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("".join(traceback.format_exception(error)))
    return sent
