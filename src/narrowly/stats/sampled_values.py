"""Hold the values of a curve's points together with the questions that they are means over, so that these can be drawn.

A value is a weighted mean over questions, or the logarithm of the ratio of two such means (the pooled log-odds). A
value that rests on no questions, such as a norm, is the same in every draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Asked(NamedTuple):
    """What the questions behind the values of T points gave.

    Attributes:
        names: of the questions; the same name is the same question in every curve.
        weights_Q: how much each counts.
        values_T_Q: of each point and question: the value, or the numerator of the ratio.
        below_T_Q: denominator of the ratio; None where the value is a plain mean.
    """

    names: tuple[str, ...]
    weights_Q: Floats
    values_T_Q: Floats
    below_T_Q: Floats | None = None

    def means(self, counts_D_Q: Floats) -> Floats:
        """Return the values (D, T) when each question counts as often as drawn; NaN where none was drawn."""
        weights_D_Q = counts_D_Q * self.weights_Q
        above_D_T: Floats = weights_D_Q @ self.values_T_Q.T
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.below_T_Q is None:
                return np.asarray(above_D_T / weights_D_Q.sum(axis=1, keepdims=True))
            return np.asarray(np.log(above_D_T / (weights_D_Q @ self.below_T_Q.T)))


class Values(NamedTuple):
    """The values of T points, and the questions behind them; None where there are none."""

    plain_T: Floats
    asked: Asked | None = None

    def at(self, points: NDArray[np.intp]) -> Values:
        """Return the values of some of the points, in the order given."""
        asked = self.asked
        if asked is not None:
            below = None if asked.below_T_Q is None else asked.below_T_Q[points]
            asked = asked._replace(values_T_Q=asked.values_T_Q[points], below_T_Q=below)
        return Values(self.plain_T[points], asked)

    def drawn(self, counts: Mapping[str, Floats], draws: int) -> Floats:
        """Return the values (D, T) under drawn questions: counts of each question by draw."""
        if self.asked is None:
            return np.broadcast_to(self.plain_T, (draws, len(self.plain_T)))
        return self.asked.means(np.stack([counts[name] for name in self.asked.names], axis=1))


def draw_questions(values: Sequence[Values], draws: int, generator: np.random.Generator) -> dict[str, Floats]:
    """Draw questions with replacement, as many as there are: how often each name comes in each draw.

    All curves see the same draws, so that a question that two of them share cancels as it does in the data.
    """
    names = sorted({name for one in values if one.asked is not None for name in one.asked.names})
    if not names:
        return {}
    counts_D_Q = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    return dict(zip(names, counts_D_Q.T, strict=True))
