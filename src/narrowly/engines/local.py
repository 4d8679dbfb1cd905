"""Run tasks in a pool of local processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from narrowly.engines.lifeline import how_it_died
from narrowly.engines.protocol import WORKER_DIED, Outcome, Place, Problem, Task
from narrowly.engines.worker import WORKER_ENVIRONMENT, error_of, serve
from narrowly.records.errors import TrainingError

GPUS = "CUDA_VISIBLE_DEVICES"

GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL when workers are cancelled: time to remove half-written files."""

LARGEST_STARTS = 3
"""Workers that may die one after the other before any task has run, until the pool gives up."""


class _Worker:
    """Hold one process with its pipes, the GPU that it alone sees, and the task that it runs."""

    def __init__(self, context: SpawnContext, warm_up: str | None, gpu: str | None) -> None:
        self.gpu = gpu
        self.connection, theirs = context.Pipe()
        their_lifeline, self.lifeline = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(
            target=serve, args=(theirs, their_lifeline, os.getpid(), warm_up), daemon=True
        )
        environment = WORKER_ENVIRONMENT if gpu is None else {**WORKER_ENVIRONMENT, GPUS: gpu}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)  # before the child's first import: libraries read it once
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()
        their_lifeline.close()
        self.ready = False
        self.task: Task | None = None

    def close(self) -> None:
        for connection in (self.connection, self.lifeline):
            with suppress(OSError):
                connection.close()


class LocalExecutor:
    """Run tasks in local processes, one at a time each; a process that dies fails its task, not the pool.

    Args:
        workers: number of processes; 0 means one per core that this process may use.
        warm_up: `package.module:function` that each process calls once before its first task.
        gpus: shared out, so that each process sees one of them alone; empty for processes that see what this one does.

    Use it from one thread that lives as long as the pool (see `engines.lifeline`), as a context manager.
    """

    name = "local"

    def __init__(self, workers: int = 0, warm_up: str | None = None, gpus: Sequence[str] = ()) -> None:
        self.workers = self.slots = workers or len(gpus) or usable_cores()
        self._gpus = tuple(gpus)
        self._warm_up = warm_up
        self._context = multiprocessing.get_context("spawn")
        self._waiting: deque[Task] = deque()
        self._pool: list[_Worker] = []
        self._outcomes: list[Outcome] = []
        self._deaths = 0

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def start(self, tasks: int) -> None:
        """Start the processes for so many tasks now, so that they warm up while the first task runs."""
        while len(self._pool) < min(self.workers, tasks):
            self._begin()

    def _begin(self) -> None:
        """Start a process, on the GPU that the fewest others have."""
        taken = Counter(worker.gpu for worker in self._pool)
        gpu = min(self._gpus, key=lambda one: taken[one]) if self._gpus else None
        self._pool.append(_Worker(self._context, self._warm_up, gpu))

    def adopt(self) -> list[Task]:
        """Return nothing: tasks end with the command that started them."""
        return []

    def places(self) -> dict[str, Place]:
        """Return nothing: tasks run in this command's own processes, as their claims say."""
        return {}

    def notes(self) -> list[str]:
        """Return nothing: problems of processes are outcomes."""
        return []

    def submit(self, task: Task) -> None:
        """Queue a task; tasks start in the order in which they were submitted."""
        self._waiting.append(task)
        self._fill()

    def in_flight(self) -> list[str]:
        """Return the keys of the tasks that a process works on now."""
        return [worker.task.key for worker in self._pool if worker.task is not None]

    def poll(self, timeout: float) -> list[Outcome]:
        """Return finished tasks, waiting at most `timeout` seconds for the first.

        Raises:
            NarrowlyError: where no worker can start (a missing extra, a process that dies at once).
        """
        self._fill()
        ends: dict[Any, _Worker] = {}
        for worker in self._pool:
            ends[worker.connection] = worker
            ends[worker.process.sentinel] = worker
        if ends and not self._outcomes:
            ready = wait(list(ends), timeout)
            for worker in {id(ends[end]): ends[end] for end in ready}.values():
                self._hear(worker)
        elif not ends:
            time.sleep(min(timeout, 0.05))
        self._fill()
        found, self._outcomes = self._outcomes, []
        return found

    def _fill(self) -> None:
        while len(self._pool) < min(self.workers, len(self._waiting) + len(self.in_flight())):
            self._begin()
        for worker in self._pool:
            if worker.ready and worker.task is None and self._waiting:
                worker.task = self._waiting.popleft()
                try:
                    worker.connection.send(worker.task)
                except (BrokenPipeError, ConnectionError):
                    self._waiting.appendleft(worker.task)  # it died idle: its sentinel says so at the next poll
                    worker.task = None
                    worker.ready = False

    def _hear(self, worker: _Worker) -> None:
        """Receive all messages of a worker, then check whether it is still alive."""
        try:
            while worker.connection.poll():
                kind, key, body = worker.connection.recv()
                if kind == "cannot start":
                    self.cancel()
                    raise _cannot_start(body)
                if kind == "ready":
                    worker.ready = True
                    self._deaths = 0
                else:
                    worker.task = None
                    done = kind == "done"
                    self._outcomes.append(Outcome(key, body if done else None, None if done else body))
        except (EOFError, OSError):
            worker.process.join(GRACE_SECONDS)
        if worker.process.is_alive():
            return
        worker.process.join()
        self._pool.remove(worker)
        worker.close()
        code = worker.process.exitcode or 0
        if worker.task is not None:
            self._outcomes.append(Outcome(worker.task.key, None, _death(code)))
        elif not worker.ready:
            self._deaths += 1
            if self._deaths >= LARGEST_STARTS:
                self.cancel()
                raise TrainingError(
                    f"{self._deaths} worker processes died before their first task: {_death(code).error}"
                )

    def stop(self) -> str:
        """Ask every process to stop (SIGTERM), and wait until all have: those that train finish and save their step."""
        self._waiting.clear()
        for worker in self._pool:
            with suppress(OSError, ValueError):
                worker.process.terminate()
        for worker in self._pool:
            with suppress(EOFError, OSError):
                while worker.process.is_alive():  # a process that sends waits until its pipe is read
                    if worker.connection.poll(0.1):
                        worker.connection.recv()
            worker.process.join()
            worker.close()
        self._pool.clear()
        return ""

    def cancel(self) -> None:
        """Stop every process: SIGTERM, then SIGKILL after `GRACE_SECONDS`."""
        self._waiting.clear()
        for worker in self._pool:
            with suppress(OSError, ValueError):
                worker.process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        for worker in self._pool:
            with suppress(OSError, ValueError, AssertionError):
                worker.process.join(max(0.0, end - time.monotonic()))
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()
            worker.close()
        self._pool.clear()


def _death(code: int) -> Problem:
    why = f"the worker process died ({how_it_died(code)})"
    return Problem(error=why, kind=WORKER_DIED, traceback="", user=False, fatal=False)


def _cannot_start(problem: Problem) -> Exception:
    error = error_of(problem)
    if isinstance(error, TrainingError) and not problem.user:
        return TrainingError(f"a worker process cannot start: {problem.error}")
    return error


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where no driver answers."""
    given = os.environ.get(GPUS)
    if given is not None:
        return [one.strip() for one in given.split(",") if one.strip() and one.strip() != "-1"]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.split()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
