"""Define what a study asks of an engine: to take tasks, to say what became of them, and to stop."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

WORKER_DIED = "WorkerDied"
"""Kind of a `Problem` of which no exception tells: the process of the task is gone."""


class Problem(NamedTuple):
    """Describe why a task failed.

    Attributes:
        error: one line.
        kind: name of the exception's class, or `WORKER_DIED`.
        traceback: the whole of it; empty where a worker died.
        user: whether it is an error that a user can mend (a NarrowlyError).
        fatal: whether every other task must fail for the same reason (a full or read-only disk).
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


class Executor(Protocol):
    """Declare what a study asks of an engine."""

    def submit(self, task: Task) -> None:
        """Take a task; it may wait until there is room."""

    def poll(self, timeout: float) -> list[Outcome]:
        """Return what has finished, waiting at most `timeout` seconds for the first."""

    def in_flight(self) -> list[str]:
        """Return the keys of the tasks that are running now."""

    def stop(self) -> None:
        """Let running tasks stop where they lose nothing, and wait for that, however long it takes."""

    def cancel(self) -> None:
        """Stop everything now; running tasks are lost. Safe to call twice."""
