"""What a penalty can be told: kinds, forms, modes, and the ranges of its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from spectralign.records.errors import SpecError, unknown_name

PenaltyForm = Literal["gram", "cholesky_g1"]
PenaltyMode = Literal["loss", "decoupled"]

KINDS: dict[str, str] = {
    "frobenius_nuclear": "the paper's: Frobenius over nuclear norm, 0 for a flat spectrum",
    "norm_held": "the same, without the part of its gradient that changes the Frobenius norm of the update",
    "functional": "the same of dW C^(1/2), C a running covariance of the module's inputs",
    "project": "no gradient: every few steps the spectrum is flattened in part, at its Frobenius norm",
    "spectral_entropy": "ln r minus the entropy of the singular values over their sum",
    "condition_number": "logarithm of the largest over the smallest singular value",
    "stable_rank": "hinge: 1 - stable rank / target below the target, 0 above it",
    "spectral_norm": "largest singular value; shrinks the update",
    "nuclear_norm": "sum of singular values; shrinks the update and makes its spectrum more peaked",
    "norm_only": "placebo: Frobenius norm; shrinks the update and leaves its spectrum's shape",
}
"""Every kind of penalty, in one line."""

FORMS: tuple[PenaltyForm, ...] = ("gram", "cholesky_g1")
MODES: tuple[PenaltyMode, ...] = ("loss", "decoupled")


def check_names(kind: str, form: str, mode: str | None) -> None:
    """Check the names of a penalty's kind, form and mode.

    Raises:
        UnknownNameError: one that does not exist.
    """
    if kind not in KINDS:
        raise unknown_name("penalty", str(kind), KINDS)
    if form not in FORMS:
        raise unknown_name("form of the penalty", str(form), FORMS)
    if mode is not None and mode not in MODES:
        raise unknown_name("mode of the penalty", str(mode), MODES)


def number(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return a number of a penalty as a float.

    Raises:
        SpecError: it is no finite number in [low, high].
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and low <= value <= high)
    ):
        accepted = f"a finite number of at least {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        hint = " (0 switches it off)" if name == "lambda" else ""
        raise SpecError(f"penalty {name} is {value!r}, accepted: {accepted}{hint}")
    return float(value)


def whole(name: str, value: float) -> int:
    """Return a number of steps as an int.

    Raises:
        SpecError: it lies between two whole numbers.
    """
    if not value.is_integer():
        raise SpecError(f"penalty {name} is {value!r}, accepted: a whole number")
    return int(value)


def option(
    kind: str, name: str, value: float | None, defaults: Mapping[str, float | None], low: float, high: float = math.inf
) -> float:
    """Return an option that belongs to some kinds only; 1 where it does not apply."""
    if kind not in defaults:
        if value is not None:
            raise SpecError(f"penalty {kind}: {name} is set, accepted: only for {', '.join(defaults)}")
        return 1.0
    if value is None and defaults[kind] is None:
        raise SpecError(f"penalty {kind}: {name} is missing, accepted: a number of at least {low:g}")
    return number(name, defaults[kind] if value is None else value, low, high)
