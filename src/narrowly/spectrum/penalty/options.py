"""Check the options of a penalty: names, ranges of numbers, what goes together; find the factors it works on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import nn

from narrowly.records.errors import AdapterError, SpecError, unknown_name
from narrowly.records.penalty_names import FORMS, KINDS, MODES
from narrowly.spectrum.pairs import LoraPair, check_pairs, pairs_from_model
from narrowly.spectrum.placement import refuse_sharded


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


def check_together(kind: str, form: str, mode: str, max_grad_ratio: float | None) -> None:
    """Check that options go together.

    Raises:
        SpecError: they contradict each other.
    """
    if kind == "project" and mode == "loss":
        raise SpecError("penalty project: mode is 'loss', accepted: 'decoupled' (a projection has no gradient)")
    if kind == "project" and max_grad_ratio is not None:
        raise SpecError("penalty project: max_grad_ratio is set, accepted: none (a projection has no gradient)")
    plain = kind == "frobenius_nuclear" and mode == "loss" and max_grad_ratio is None
    if form == "cholesky_g1" and not plain:
        raise SpecError(
            f"penalty form cholesky_g1: found kind {kind}, mode {mode}, max_grad_ratio {max_grad_ratio}; accepted: "
            "frobenius_nuclear in mode loss without max_grad_ratio"
        )


def live_pairs(model_or_pairs: nn.Module | Sequence[LoraPair], kind: str) -> list[LoraPair]:
    """Return the pairs that a penalty of this kind works on.

    Raises:
        AdapterError: no usable pairs, factors that this process holds in part, or a rank beyond a side of its module
            where the kind needs every direction.
    """
    if isinstance(model_or_pairs, nn.Module):
        refuse_sharded(model_or_pairs)
        pairs = pairs_from_model(model_or_pairs)
    else:
        refuse_sharded(list(model_or_pairs))
        pairs = check_pairs(list(model_or_pairs))
    for name, A_R_I, B_O_R, _ in pairs:
        if kind == "condition_number" and A_R_I.shape[0] > min(A_R_I.shape[1], B_O_R.shape[0]):
            raise AdapterError(
                f"{name}: rank {A_R_I.shape[0]} exceeds a side of {B_O_R.shape[0]} x {A_R_I.shape[1]}, where the "
                "condition number is infinite; accepted: ranks up to both sides"
            )
    return pairs
