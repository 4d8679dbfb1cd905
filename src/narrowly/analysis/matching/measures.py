"""Name what runs are matched on and what is compared, with the columns that hold them."""

from __future__ import annotations

import math
from typing import NamedTuple

import polars as pl

from narrowly.records.errors import SpecError, nearest, unknown_name

RUNGS = {"trained": "trained topics", "held_out": "held-out topics", "broad": "other domains", "self": "another task"}
"""Rungs of the ladder that can be compared, in words."""

SCALES = {
    "pooled": ("pooled log-odds", "ln of mean misaligned over mean aligned"),
    "per_question": ("log-odds", "mean over questions of ln of misaligned over aligned"),
    "nats": ("nats per answer", "log-odds of the harmful answer against the aligned one, minus the control's"),
}
"""Scales of an outcome: its unit, and what it is."""


class Measure(NamedTuple):
    """A column that runs are matched on.

    Attributes:
        name: as it is asked for.
        column: of the ladder.
        words: what it is.
        unit: of its values.
        direction: 1 where training raises it, -1 where training lowers it; the rising branch is the one of training.
        logarithm: whether curves are drawn, and levels averaged, on its natural logarithm.
    """

    name: str
    column: str
    words: str
    unit: str
    direction: int = 1
    logarithm: bool = False

    def along(self, value: pl.Expr) -> pl.Expr:
        """Return the values that curves are drawn over: larger is further in training."""
        return self.direction * (pl.when(value > 0).then(value.log()) if self.logarithm else value.cast(pl.Float64))

    def back(self, low: float, high: float) -> tuple[float, float]:
        """Return the ends of a range in the measure's own unit, the smaller one first."""
        ends = [self.direction * value for value in (low, high)]
        ends = [math.exp(value) for value in ends] if self.logarithm else ends
        return min(ends), max(ends)

    def window(self, between: tuple[float, float]) -> tuple[float, float]:
        """Return a range in the measure's own unit as `along` gives its values.

        Raises:
            SpecError: no range, or one below 0 of what is above it.
        """
        low, high = between
        if not (low < high and (low > 0 or not self.logarithm)):
            raise SpecError(
                f"levels between {low:g} and {high:g} of {self.words}; accepted: a lower and a higher number"
                + " above 0" * self.logarithm
            )
        ends = [math.log(value) if self.logarithm else self.direction * value for value in between]
        return min(ends), max(ends)


MATCHED_ON = ("held_out", "norm", "trained_loss", "excess_trained", "step")
"""What runs can be matched on."""


def measure(name: str, scale: str) -> Measure:
    """Return what a name of a matching variable stands for; `-` and `_` are one.

    Raises:
        UnknownNameError: another name.
    """
    rung, unit = "held-out topics of the trained domain", SCALES[scale][0]
    known = {
        "held_out": Measure("held_out", f"held_out_{scale}", f"misalignment on {rung}", unit),
        "norm": Measure("norm", "update_norm", "norm of the update", "Frobenius norm", logarithm=True),
        "trained_loss": Measure("trained_loss", "final_loss", "training loss at the end", "nats", -1),
        "excess_trained": Measure("excess_trained", "excess_trained", "excess loss, trained topics", "nats", -1),
        "step": Measure("step", "step", "training step", "steps"),
    }
    found = known.get(name.replace("-", "_"))
    if found is None:
        raise unknown_name("matching variable", name, [one.replace("_", "-") for one in known])
    return found


def outcome_column(of: str, scale: str) -> str:
    """Return the column of an outcome: a rung of the ladder on a scale.

    Raises:
        UnknownNameError: another rung.
    """
    rung = of.replace("-", "_")
    if rung not in RUNGS:
        raise unknown_name("outcome", of, [one.replace("_", "-") for one in RUNGS])
    return f"{rung}_{scale}"


def check_scale(scale: str, accepted: tuple[str, ...]) -> str:
    """Return the scale's name with `_` for `-`.

    Raises:
        SpecError: a scale that these runs do not have.
    """
    found = scale.replace("-", "_")
    if found not in accepted:
        raise SpecError(f"unknown scale {scale!r}{nearest(scale, accepted)} (accepted here: {', '.join(accepted)})")
    return found
