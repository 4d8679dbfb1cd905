"""Say how long to wait before a request is tried again. Values in, values out."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the second try, and before the last ones; each wait in between is twice the one before."""

PATIENCE = 600.0
"""Seconds that a server may ask to be left alone; a longer Retry-After ends the run, which goes on later."""


def back_off(failures: int, drawn: float) -> float:
    """Return the seconds to wait after a number of failures in a row.

    Args:
        failures: from 1.
        drawn: random number from 0 up to 1. It takes off up to half, so that requests that failed together do not come
            back together.
    """
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (failures - 1))
    return longest * (1 - drawn / 2)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, section 10.2.3); None where it has none.

    Args:
        header: a number of seconds, or a date.
        now: the time; None is this moment.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = parsedate_to_datetime(header)
        except ValueError:
            return None
        until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
        seconds = (until - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
