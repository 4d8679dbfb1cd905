"""Compare two curves at equal values of a variable that each passes through: where a curve first reaches a level.

A curve is a sequence of points (x, y). It stands at a level of x where it first reaches it, on the straight line
between two points; a curve that turns back keeps to its first passage. The mean of y over the levels from `low` to
`high` is then a weighted sum of the points, with weights that are integrals of straight lines and so exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_weights(x_D_T: Floats, low_D: Floats, high_D: Floats) -> Floats:
    """Return the weights (D, T) of a curve's points in its mean over the levels from low to high.

    Args:
        x_D_T: the variable at each point, one row per curve.
        low_D: at least the first point of each curve.
        high_D: at least `low_D`, at most the largest point; equal to it for a single level.

    Returns:
        Weights of sum 1; NaN where `low_D` is above `high_D`.
    """
    start_D_S, step_D_S = x_D_T[:, :-1], np.diff(x_D_T, axis=1)
    reached_D_S = np.maximum.accumulate(start_D_S, axis=1)
    width_D_1 = (high_D - low_D)[:, None]
    from_D_S, to_D_S = np.maximum(reached_D_S, low_D[:, None]), np.minimum(x_D_T[:, 1:], high_D[:, None])
    one_level_D_S = (reached_D_S < low_D[:, None]) & (low_D[:, None] <= x_D_T[:, 1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        share_D_S = np.where(width_D_1 > 0, np.maximum(to_D_S - from_D_S, 0) / width_D_1, one_level_D_S)
        along_D_S = ((from_D_S + to_D_S) / 2 - start_D_S) / step_D_S
        later_D_S = np.where(share_D_S > 0, share_D_S * along_D_S, 0.0)
    weights_D_T = np.zeros(x_D_T.shape)
    weights_D_T[:, 1:] += later_D_S
    weights_D_T[:, :-1] += share_D_S - later_D_S
    weights_D_T[:, 0] += np.where(share_D_S.any(axis=1), 0.0, 1.0)  # a single level, at the first point itself
    return np.where(width_D_1 >= 0, weights_D_T, np.nan)


EVERYWHERE = (-np.inf, np.inf)


def common_support(
    first_D_T: Floats, second_D_T: Floats, between: tuple[float, float] = EVERYWHERE
) -> tuple[Floats, Floats]:
    """Return the lowest and highest level that two curves both pass; the lowest is the higher where there is none.

    Args:
        first_D_T: points of the first curves, in the order in which they are passed.
        second_D_T: of the second.
        between: levels outside of it do not count.
    """
    low_D = np.maximum(np.maximum(first_D_T[:, 0], second_D_T[:, 0]), between[0])
    return low_D, np.minimum(np.minimum(first_D_T.max(axis=1), second_D_T.max(axis=1)), between[1])


def rising(x_T: Floats) -> NDArray[np.intp]:
    """Return the points of a curve up to its largest one, in their order."""
    return np.arange(int(np.argmax(x_T)) + 1)


def falling(x_T: Floats) -> NDArray[np.intp]:
    """Return the points after the turn from the last one back to the largest; empty where the last is the largest."""
    turn = int(np.argmax(x_T))
    return np.arange(len(x_T) - 1, turn - 1, -1) if turn < len(x_T) - 1 else np.arange(0)
