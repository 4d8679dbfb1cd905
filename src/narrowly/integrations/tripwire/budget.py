"""Keep what readings cost below a share of the training time, by the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]


class Budget:
    """Say whether another reading can be paid for.

    A reading is affordable where all readings, this one included, would take at most the share of all time until its
    end. The next one is expected to cost what the last one did.

    Args:
        share: of the time that readings may take, above 0 and at most 1; 1 sets no limit.
        clock: in seconds.

    Attributes:
        own: seconds of readings so far.
        cost: seconds of the last reading; 0 before the first.
    """

    def __init__(self, share: float, clock: Clock = time.perf_counter) -> None:
        self.share, self._clock = share, clock
        self.own = self.cost = self._earlier = 0.0
        self._began: float | None = None

    def begin(self, seconds: float = 0.0, own: float = 0.0, cost: float = 0.0) -> None:
        """Start the clock; of a training that is resumed, behind the time that it has taken already.

        Args:
            seconds: of the training so far, readings included.
            own: of its readings.
            cost: of the last of them.
        """
        self._began, self._earlier, self.own, self.cost = self._clock(), seconds, own, cost

    @property
    def elapsed(self) -> float:
        """Return the seconds of the training so far, readings included."""
        return self._earlier + (0.0 if self._began is None else self._clock() - self._began)

    @property
    def spent(self) -> float:
        """Return the share of the time that readings have taken."""
        return self.own / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def affords(self) -> bool:
        """Return whether a reading can be paid for now."""
        return self.own + self.cost <= self.share * (self.elapsed + self.cost)

    @contextmanager
    def paying(self) -> Iterator[None]:
        """Count the time of the block as that of one reading."""
        before = self._clock()
        try:
            yield
        finally:
            self.cost = self._clock() - before
            self.own += self.cost
