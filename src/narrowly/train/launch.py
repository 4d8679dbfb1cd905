"""Start the processes of one task on this machine, receive what they send, and end all of them when one fails.

The parent does no work. It ends all processes when one fails; they die with it, however it ends. A signal that asks it
to stop is handed on to the first process, which stops where nothing is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal

from narrowly.engines import stopping
from narrowly.engines.lifeline import die_with_parent, how_it_died
from narrowly.records.errors import NarrowlyError, TrainingError
from narrowly.train.process_group import PeerLostError, ProcessGroup, join_group

GRACE_SECONDS = 10.0
"""How long the process that caused a failure may take to report it, once another one has noticed that it is gone."""

RANK_VARIABLES = ("RANK", "LOCAL_RANK")
SIZE_VARIABLES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables by which launchers tell a process its rank and the size of its group; accelerate reads them."""

Device = Literal["cpu", "cuda"]
Send = Callable[[Any], None]
Work = Callable[[ProcessGroup, Send], None]


def run_processes(work: Work, size: int, device: Device, on_message: Callable[[Any], None]) -> None:
    """Run `work` in several processes at once, until the first of them is done.

    Args:
        work: called in every process with its group and with a function that sends a message to this process; it must
            be picklable, and returns in every process.
        size: number of processes, at least 2.
        device: with cuda, each process sees one GPU of its own.
        on_message: called in this process with every message; what it raises ends the processes. From the first
            message on, a signal is left to the first process; before, it ends all at once.

    Raises:
        NarrowlyError: what the failing process has raised; an error that cannot be pickled comes as a RuntimeError.
        TrainingError: a process was killed, or all lost contact and none says why.
        Stopped: a signal asked for it.
    """
    with tempfile.TemporaryDirectory(prefix="narrowly-") as folder:
        children = _ChildProcesses(size, Path(folder))
        try:
            children.start(work, device)
            children.receive(on_message)
        except BaseException:
            children.end(0.0)
            raise
        children.end(GRACE_SECONDS)


class _ChildProcesses:
    """Hold the processes of a task, as their parent sees them.

    Args:
        size: their number.
        folder: an empty one of this user alone, for the rendezvous and for their standard errors.
    """

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self.folder = size, folder
        self._processes: list[SpawnProcess] = []
        self._lifelines: list[Connection] = []
        self._rank_of_receiver: dict[Connection, int] = {}

    def start(self, work: Work, device: Device) -> None:
        """Start all processes."""
        import torch

        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // self.size)
        for rank in range(self.size):
            receiver, sender = context.Pipe(duplex=False)
            child_lifeline, lifeline = context.Pipe(duplex=False)
            process = context.Process(
                target=_run_child,
                args=(work, rank, self.size, device, threads, self.folder, sender, child_lifeline, os.getpid()),
                name=f"narrowly process {rank}",
                daemon=True,
            )
            with _sigint_blocked(), _environment_of_child(device, rank):
                process.start()
            sender.close()
            child_lifeline.close()
            self._processes.append(process)
            self._lifelines.append(lifeline)
            self._rank_of_receiver[receiver] = rank

    def receive(self, on_message: Callable[[Any], None]) -> None:
        """Pass messages on until the first process is done.

        Raises:
            NarrowlyError: what ended a process.
            Stopped: a signal asked for it.
        """
        with ExitStack() as stack:
            for content in self._messages():
                if not stopping.is_patient():
                    stack.enter_context(self._signals_handed_on())
                on_message(content)

    @contextmanager
    def _signals_handed_on(self) -> Iterator[None]:
        """Leave it to the first process to stop; one that was told already, as one of a group, goes on doing so."""
        first = self._processes[0]
        with stopping.telling(lambda number: first.terminate()), stopping.patient("stopped when all was done"):
            if stopping.requested() is not None:
                first.terminate()
            yield

    def _messages(self) -> Iterator[Any]:
        receivers = self._rank_of_receiver
        lost: Exception | None = None
        deadline = 0.0
        while receivers:
            if not stopping.is_patient():  # Python drops what is raised in a finaliser
                stopping.check()
            ready = wait(list(receivers), None if lost is None else max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for receiver, rank in [(one, rank) for one, rank in receivers.items() if one in ready]:
                try:
                    kind, content = receiver.recv()
                except (EOFError, OSError):
                    raise self._death_of(rank) from None
                if kind == "message":
                    yield content
                elif kind == "stopped":
                    raise stopping.stopped(stopping.requested() or content[0], content[1])
                elif kind == "failed" and not isinstance(content, PeerLostError):
                    raise content
                else:
                    del receivers[receiver]
                    if kind == "failed":  # a consequence: the process that caused it reports within the grace
                        lost, deadline = content, deadline or time.monotonic() + GRACE_SECONDS
                    elif rank == 0:
                        return
        raise TrainingError(f"the processes of the run have lost each other: {lost}") from lost

    def _death_of(self, rank: int) -> TrainingError:
        process = self._processes[rank]
        process.join(GRACE_SECONDS)
        last_line = ""
        with suppress(OSError):
            lines = _stderr_of(self.folder, rank).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last_line = f": {lines[-1]}" if lines else ""
        return TrainingError(
            f"process {rank} of {self.size} ended ({how_it_died(process.exitcode)}{last_line}); the run goes on from "
            "its last saved state with the same command"
        )

    def end(self, grace: float) -> None:
        """End every process; all together have `grace` seconds to leave by themselves."""
        deadline = time.monotonic() + grace
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        for connection in (*self._rank_of_receiver, *self._lifelines):
            with suppress(OSError):
                connection.close()
        self._rank_of_receiver.clear()


@contextmanager
def _sigint_blocked() -> Iterator[None]:
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
def _environment_of_child(device: Device, rank: int) -> Iterator[None]:
    """Start a process that sees one GPU, and no variable by which accelerate would take it for one of a launcher's.

    It inherits this: in the process it would be too late where a script asks torch for GPUs when it is imported. A
    Trainer that sees several GPUs uses all of them.
    """
    before = dict(os.environ)
    for name in (*RANK_VARIABLES, *SIZE_VARIABLES):
        os.environ.pop(name, None)
    if device == "cuda":
        devices = before.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = str(rank) if devices is None else devices.split(",")[rank].strip()
    try:
        yield
    finally:
        for name in (*RANK_VARIABLES, *SIZE_VARIABLES, "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


# ------------------------------------------------------------------------------------------- in one of the processes


def _stderr_of(folder: Path, rank: int) -> Path:
    return folder / f"stderr-{rank}"


def _run_child(
    work: Work,
    rank: int,
    size: int,
    device: Device,
    threads: int,
    folder: Path,
    sender: Connection,
    lifeline: Connection,
    parent: int,
) -> None:
    """Do the work of one process, and report to the parent how it ended."""
    die_with_parent(parent, lifeline)
    stopping.leave_to_parent(sigterm=rank > 0)
    if rank > 0:  # otherwise each warning would come once from every process
        os.dup2(os.open(_stderr_of(folder, rank), os.O_WRONLY | os.O_CREAT, 0o600), 2)
    try:
        import torch

        torch.set_num_threads(threads)
        group = join_group(rank, size, folder / "rendezvous", device)
        with stopping.hear_signals():
            work(group, lambda message: sender.send(("message", message)))
        if group.is_first:
            sender.send(("done", None))
        group.barrier()  # the others may not leave earlier
        if not group.is_first:
            sender.send(("done", None))
    except stopping.Stopped as stop:
        with suppress(OSError):
            sender.send(("stopped", (stop.number, str(stop))))
        os._exit(stop.exit_code)
    except Exception as error:
        with suppress(OSError):
            sender.send(("failed", _picklable(error)))
        os._exit(1)
    os._exit(0)  # everything is on disk; letting gloo and NCCL take each other down may hang


def _picklable(error: Exception) -> Exception:
    """Return the error as it can be sent: one that is not ours or Python's, or cannot be pickled, as class and text."""
    sent = error
    with suppress(Exception):
        if isinstance(error, NarrowlyError | PeerLostError) or type(error).__module__ == "builtins":
            sent = ForkingPickler.loads(ForkingPickler.dumps(error))
    if sent is error:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("".join(traceback.format_exception(error)))
    return sent
