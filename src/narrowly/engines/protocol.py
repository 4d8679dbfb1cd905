"""Define what a study asks of an engine: to take tasks, to say what became of them, and to stop."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

WORKER_DIED = "WorkerDied"
"""Kind of a `Problem` of which no exception tells: the process of the task is gone."""

CANCELLED = "Cancelled"
"""Kind of a `Problem`: somebody ended the task on purpose, so that nobody tries it again by itself."""


class Problem(NamedTuple):
    """Describe why a task failed.

    Attributes:
        error: one line.
        kind: name of the exception's class, `WORKER_DIED` or `CANCELLED`.
        traceback: the whole of it; empty where there was no exception.
        user: whether it is an error that a user can mend (a NarrowlyError).
        fatal: whether every other task must fail for the same reason (a full disk, storage that is not shared).
    """

    error: str
    kind: str
    traceback: str
    user: bool
    fatal: bool


class Task(NamedTuple):
    """Name a function and its JSON-able payload; `key` names the task in outcomes."""

    key: str
    function: str
    payload: Any


class Outcome(NamedTuple):
    """Hold what became of a task: its result, or the problem."""

    key: str
    result: Any
    problem: Problem | None


class Place(NamedTuple):
    """Say where a task runs or waits.

    Attributes:
        where: in words, as `Slurm job 45_3 on node7`.
        log: the file that has what it prints; None where that goes to the terminal.
    """

    where: str
    log: str | None


class Executor(Protocol):
    """Declare what a study asks of an engine."""

    name: str
    """`local`, `slurm` or `ray`."""

    slots: int
    """Tasks that run at once, as far as it is known; 0 where it is not."""

    def adopt(self) -> list[Task]:
        """Return tasks of earlier commands that still wait or run; their outcomes come as those of submitted ones."""

    def submit(self, task: Task) -> None:
        """Take a task; it may wait until there is room."""

    def poll(self, timeout: float) -> list[Outcome]:
        """Return what has finished, waiting at most `timeout` seconds for the first."""

    def in_flight(self) -> list[str]:
        """Return the keys of the tasks that are running now."""

    def places(self) -> dict[str, Place]:
        """Return where tasks are, by key; of those alone that are not in processes of this command."""

    def notes(self) -> list[str]:
        """Return what the user should know since the last call, one line each: nodes that are down, long waits."""

    def stop(self) -> str:
        """Let running tasks stop where they lose nothing, and wait for that, however long it takes.

        An engine whose tasks live without the command may leave them instead. Returns what goes on, in one line.
        """

    def cancel(self) -> None:
        """Stop everything now; running tasks are lost. Safe to call twice."""
