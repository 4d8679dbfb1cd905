"""Define the error tree: one base class, and each error is also the standard-library error that it replaces.

All of them are mistakes a user can mend, so the command line prints the message as one line and exits with code 2.
Every class stays picklable, because process pools send them home.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NarrowlyError(Exception):
    """Base of every error that Narrowly raises on purpose; the message is one clear line."""


class SpecError(NarrowlyError, ValueError):
    """A spec (run, study, world, edit) holds a value that is not accepted."""


class UnknownNameError(NarrowlyError, LookupError):
    """A name that is not known; the message names what is accepted and the nearest match."""


class AdapterError(NarrowlyError, ValueError):
    """An adapter or its factors cannot be used: no pairs, a missing factor, NaN, a refused file format."""


class OptimiserError(NarrowlyError, ValueError):
    """Parameters and optimiser do not fit: an incomplete partition, a parameter nobody updates."""


class IntegrityError(NarrowlyError, ValueError):
    """A file is not the one its record describes (sha256 or schema differ)."""


class RunDirectoryError(NarrowlyError, OSError):
    """A run or study directory is foreign, corrupt, claimed by another process or cannot be written."""


class ResumeError(NarrowlyError, RuntimeError):
    """A resume would mix versions or inputs that differ from those of the first part."""


class TrainingError(NarrowlyError, RuntimeError):
    """Training cannot go on: the loss is not finite, or there is nothing to train."""


class TripwireError(TrainingError):
    """A tripwire has ended a training, as it was told to: the difference to the control is above the margin."""


class EndpointError(NarrowlyError, ConnectionError):
    """A server cannot be reached, refuses a request, or answers something that cannot be used.

    Args:
        message: one clear line.
        status: the HTTP status of its last answer; None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[EndpointError], tuple[str, int | None]]:
        """Return what it is made of: an OSError would lose the status on its way out of a process."""
        return type(self), (str(self), self.status)


class ClaimLostError(NarrowlyError, OSError):
    """The claim of a run was taken over by another process: what this one still computes of it is refused."""


class EngineError(NarrowlyError, RuntimeError):
    """An engine cannot be used: no cluster is reached, it refuses the jobs, or they can never start."""


class MissingExtraError(NarrowlyError, ImportError):
    """An optional part of the install is needed; the message names the command that adds it."""


class NarrowlyWarning(UserWarning):
    """Something that a user should know and that stops nothing; the message is one clear line."""


def nearest(value: str, accepted: Iterable[str]) -> str:
    """Return a clause that names the nearest accepted name, or an empty string where none is near.

    Args:
        value: the name that was found.
        accepted: the names that would have been accepted.
    """
    close = difflib.get_close_matches(value, list(accepted), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, value: str, accepted: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name: what it is, the value found, the nearest match, all that is accepted."""
    names = sorted(accepted)
    return UnknownNameError(
        f"unknown {what} {value!r}{nearest(value, names)} (accepted: {', '.join(names) or 'none is there yet'})"
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: `1 base`, `4 bases`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
