"""Write numbers as a page shows them: a true minus sign, a dash for what was not measured, an interval below."""

from __future__ import annotations

from typing import Protocol

from narrowly.report.kit.parts import Cell

MINUS = "\u2212"
DASH = "–"

NEAR_LIMIT = 0.01
"""A share this close to 0 or 1 is shown with one digit more, so that 99.96 % is not read as all."""


class Measured(Protocol):
    """A value with its interval; None where there is none."""

    @property
    def estimate(self) -> float | None:
        """Return the value."""

    @property
    def low(self) -> float | None:
        """Return the lower end."""

    @property
    def high(self) -> float | None:
        """Return the upper end."""


def number(value: float | None, digits: int = 2, *, signed: bool = False, factor: float = 1.0) -> str:
    """Return a number with a true minus sign, or an en dash where there is none; what rounds to 0 has no sign.

    A share in percent (factor 100, no sign) within 1 point of 0 or 100 gets one digit more.
    """
    if value is None:
        return DASH
    if factor == 100.0 and not signed and (0 < value < NEAR_LIMIT or 1 - NEAR_LIMIT < value < 1):
        digits += 1
    text = f"{factor * value:+.{digits}f}" if signed else f"{factor * value:.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return DASH if value is None else f"{number(value, digits, factor=100.0)}\u00a0%"


def span(found: Measured, digits: int = 2, factor: float = 1.0, *, signed: bool = False) -> str:
    """Return "[low, high]" of a value with interval, or "no interval"."""
    if found.low is None or found.high is None:
        return "no interval"
    low, high = (number(value, digits, signed=signed, factor=factor) for value in (found.low, found.high))
    return f"[{low}, {high}]"


def measured(found: Measured, digits: int = 2, factor: float = 1.0, *, signed: bool = False) -> Cell:
    """Return a table cell with a value, its interval below, sorted by the value."""
    below = () if found.estimate is None else (span(found, digits, factor, signed=signed),)
    return Cell(number(found.estimate, digits, signed=signed, factor=factor), below=below, sort=found.estimate)


def plain(value: float | None, digits: int = 2, factor: float = 1.0, *, signed: bool = False) -> Cell:
    """Return a table cell with a number alone, for values whose interval stands elsewhere."""
    return Cell(number(value, digits, signed=signed, factor=factor), sort=value)
