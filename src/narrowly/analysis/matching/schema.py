"""Declare what a matched comparison found, as types."""

from __future__ import annotations

from typing import Literal

from narrowly.records.spec import Spec
from narrowly.stats.intervals import Interval
from narrowly.stats.split_halves import Attenuation

NOT_TESTED = "not tested"
Branch = Literal["rising", "falling"]


class SetOfRuns(Spec):
    """One of the two sets.

    Attributes:
        name: how it was asked for.
        study: that it is of; None where the rows were given.
        arms: its arms.
        runs: how many.
        bases: names.
        dial: what varies along its curves, and the values that it takes.
    """

    name: str
    study: str | None
    arms: tuple[str, ...]
    runs: int
    bases: tuple[str, ...]
    dial: str
    settings: tuple[float, ...]


class Point(Spec):
    """One organism: where it stands on the curve of its set.

    Attributes:
        side: 1 for the first set, 2 for the second.
        x: what is matched on, in its own unit.
        y: the outcome.
        rising, falling: the branches that it belongs to; the turn belongs to both.
    """

    side: Literal[1, 2]
    base: str
    domain: str | None
    seed: int | None
    setting: float
    x: float
    y: float
    rising: bool
    falling: bool


class Line(Spec):
    """One base, domain and seed.

    Attributes:
        first_range, second_range: of what is matched on, along the branch; None where the set has no such branch.
        support: levels that both pass; None where there is none.
        difference: mean over these levels of the first set's outcome minus the second's.
        reason: why there is no difference.
    """

    base: str
    domain: str | None
    seed: int | None
    first_range: tuple[float, float] | None
    second_range: tuple[float, float] | None
    support: tuple[float, float] | None
    difference: float | None
    reason: str | None = None


class Contrast(Spec):
    """The first set minus the second on one pair of branches.

    Attributes:
        first_branch, second_branch: rising is from the smallest setting of the dial to the turn, falling after it.
        bases: how many both sets have runs on.
        compared: how many of these have a common support; the estimate is the mean over them.
        per_base: difference of each of them.
        interval: Student's t over bases; without ends where `reason` says why.
        bootstrap: percentiles, bases and questions drawn anew; None where there is no primary interval.
        inner: the interval of the two one-sided tests.
        p_effect: two-sided p value of no difference.
        p_equivalence: the larger p value of the two one-sided tests against the margin.
        verdict: EFFECT, TRIVIAL, EQUIVALENT, INDETERMINATE, or not tested.
        reason: why there is no verdict, or none of the first three.
        lines: one per base, domain and seed.
    """

    first_branch: Branch
    second_branch: Branch
    bases: int
    compared: int
    per_base: dict[str, float]
    interval: Interval
    bootstrap: Interval | None
    inner: tuple[float, float] | None
    p_effect: float | None
    p_equivalence: float | None
    verdict: str
    reason: str | None
    lines: tuple[Line, ...]

    @property
    def without_support(self) -> tuple[Line, ...]:
        """Return the lines that have no difference."""
        return tuple(line for line in self.lines if line.difference is None)


class Matched(Spec):
    """Two sets of runs compared at equal values of a matching variable.

    Attributes:
        first, second: the sets; every difference is the first minus the second.
        at: what is matched on, and `at_words`, `at_unit`: in words, and its unit.
        of: the rung that is compared.
        scale: of the outcome, and `unit`.
        margin: largest difference that does not matter, stated beforehand.
        between: levels of it that count; None where all do.
        over: what a unit of the interval is: a base, or a seed of the only base.
        primary: both rising branches.
        others: the pairs with a falling branch; secondary.
        attenuation: noise of what is matched on, from split halves of its questions; None with `no_attenuation`.
        noise_shift: by how much that noise alone would move the primary difference, were both sets on one line; None
            where there is no attenuation, or too little reliability to tell.
        points: of both sets.
        left_out: what was not used, and why.
    """

    first: SetOfRuns
    second: SetOfRuns
    at: str
    at_words: str
    at_unit: str
    of: str
    scale: str
    unit: str
    margin: float
    between: tuple[float, float] | None
    over: Literal["base", "seed"]
    primary: Contrast
    others: tuple[Contrast, ...]
    attenuation: Attenuation | None
    no_attenuation: str | None
    noise_shift: float | None
    points: tuple[Point, ...]
    left_out: tuple[str, ...]
