"""Control the false discoveries among a declared family of tests (Benjamini & Hochberg 1995, JRSS B 57, 289-300)."""

from __future__ import annotations

from collections.abc import Mapping

from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError


def benjamini_hochberg(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the adjusted p value of every test of a family; what is at most q keeps the false discovery rate at q.

    It holds for independent and for positively dependent tests.

    Args:
        p_values: p value by name of the test, the whole family as it was declared. None is a test that could not be
            made: it stays None and does not count into the family's size.

    Raises:
        SpecError: where a p value is not in [0, 1].
    """
    made = {name: value for name, value in p_values.items() if value is not None}
    for name, value in made.items():
        if not 0 <= value <= 1:
            raise SpecError(f"p value of {name!r} is {value}; accepted: 0 to 1, or None for a test that was not made")
    adjusted = _scipy_stats.false_discovery_control(list(made.values()), method="bh") if made else []
    found = dict(zip(made, map(float, adjusted), strict=True))
    return {name: found.get(name) for name in p_values}
