"""Do jobs that wait for a server, a bounded number at a time, and hand their results over as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Parallel(Generic[Job, Result]):
    """Jobs under way; iterating gives (job's number, result) in the order of their ends.

    After the first failure no further job is begun. Those under way are waited for and their results given, so that no
    answer that was paid for is lost; then the failure is raised.

    Args:
        jobs: what is done.
        do: does one of them; called by several threads.
        most: jobs at a time.
    """

    def __init__(self, jobs: Sequence[Job], do: Callable[[Job], Result], most: int) -> None:
        self._jobs, self._do = jobs, do
        self._next = 0
        self._lock = threading.Lock()
        self._stopped = False
        self._done: queue.SimpleQueue[tuple[int, Result] | BaseException | None] = queue.SimpleQueue()
        self._running = min(most, len(jobs))
        self._failure: BaseException | None = None
        for _ in range(self._running):
            # daemons: a second Ctrl-C ends the process without waiting for a slow server
            threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """Begin no further job; those under way go on, and iterating gives their results."""
        with self._lock:
            self._stopped = True

    def __iter__(self) -> Iterator[tuple[int, Result]]:
        """Yield results until no job is under way, then raise the first failure.

        Raises:
            BaseException: as the job that failed.
        """
        while self._running:
            found = self._done.get()
            if found is None:
                self._running -= 1
            elif isinstance(found, BaseException):
                self._failure = self._failure or found
            else:
                yield found
        if self._failure is not None:
            raise self._failure

    def _take(self) -> int | None:
        with self._lock:
            if self._stopped or self._next >= len(self._jobs):
                return None
            self._next += 1
            return self._next - 1

    def _work(self) -> None:
        while (at := self._take()) is not None:
            try:
                self._done.put((at, self._do(self._jobs[at])))
            except BaseException as error:
                self.stop()
                self._done.put(error)
        self._done.put(None)


def in_order(jobs: Sequence[Job], do: Callable[[Job], Result], most: int) -> list[Result]:
    """Return the results of all jobs in the order of the jobs.

    Raises:
        BaseException: as the first job that failed, once those under way have ended.
    """
    found = dict(Parallel(jobs, do, most))
    return [found[at] for at in range(len(jobs))]
