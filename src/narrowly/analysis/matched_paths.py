"""Compare two arms at an equal difference on held-out questions: paths of evaluated steps, interpolated between them.

A path begins before training, where every difference to the control is 0, and goes through the evaluated steps. At a
level of the held-out difference it stands where it first reaches that level, on the straight line between two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from narrowly.stats.first_passage import mean_weights

Floats = NDArray[np.float64]

LEVELS = 20
"""Levels between 0 and the largest held-out difference that both paths reach, over which a comparison is averaged."""

DRAWS = 2000
"""Draws of the bootstrap over questions."""


class Path(NamedTuple):
    """Hold the differences of one run to its control, before training (zeros) and at its evaluated steps.

    Attributes:
        held_T_H: of the held-out questions, nats per answer.
        broad_T_Q: of the broad questions.
    """

    held_T_H: Floats
    broad_T_Q: Floats


class Selectivity(NamedTuple):
    """Hold what a run does on broad questions beyond another one at equal held-out differences.

    Attributes:
        reached: largest mean held-out difference that both reach.
        per_question_Q: mean over levels of the broad difference of the first run minus that of the second.
    """

    reached: float
    per_question_Q: Floats


def selectivity(first: Path, second: Path) -> Selectivity | None:
    """Return the broad difference of one path minus that of another at equal held-out differences.

    Returns:
        None where they share no held-out difference above 0.
    """
    means = [path.held_T_H.mean(axis=1) for path in (first, second)]
    reached = float(min(held_T.max() for held_T in means))
    if not reached > 0:
        return None
    levels_L = reached * np.arange(1, LEVELS + 1) / LEVELS
    levels_L[-1] = reached  # which rounding must not put above the end of a path
    at = [
        (mean_weights(np.tile(held_T, (LEVELS, 1)), levels_L, levels_L) @ path.broad_T_Q).mean(axis=0)
        for held_T, path in zip(means, (first, second), strict=True)
    ]
    return Selectivity(reached, at[0] - at[1])


def bootstrap_range(
    groups: Sequence[Sequence[tuple[Path, Path]]], domains_Q: Sequence[str], seed: int = 0
) -> tuple[float, float] | None:
    """Return the middle 95 % of the mean selectivity when held-out and broad questions are drawn anew.

    Broad questions are drawn within their domains, whose means count alike; runs stay as they are.

    Args:
        groups: pairs of runs, by trained domain: the runs of a group have the same held-out questions, and all the same
            broad ones.
        domains_Q: domain of each broad question.
        seed: of the draws.

    Returns:
        None where more than one draw in twenty has no held-out difference in common.
    """
    random = np.random.default_rng(seed)
    of_Q = np.array(domains_Q)
    places = [np.flatnonzero(of_Q == name) for name in dict.fromkeys(domains_Q)]
    means = []
    for _ in range(DRAWS):
        drawn = [random.choice(own, size=len(own)) for own in places]
        share_Q = np.concatenate([np.full(len(own), 1 / len(own) / len(places)) for own in drawn])
        chosen_Q = np.concatenate(drawn)
        found = [_drawn(pairs, chosen_Q, share_Q, random) for pairs in groups]
        if None not in found:
            means.append(float(np.mean([one for one in found if one is not None])))
    if len(means) < 0.95 * DRAWS:
        return None
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _drawn(
    pairs: Sequence[tuple[Path, Path]], chosen_Q: NDArray[np.intp], share_Q: Floats, random: np.random.Generator
) -> float | None:
    """Return the mean selectivity of the runs of one trained domain under one draw of questions."""
    held = pairs[0][0].held_T_H.shape[1]
    chosen_H = random.integers(held, size=held)
    values = []
    for pair in pairs:
        first, second = (Path(path.held_T_H[:, chosen_H], path.broad_T_Q[:, chosen_Q]) for path in pair)
        found = selectivity(first, second)
        if found is None:
            return None
        values.append(float(found.per_question_Q @ share_Q))
    return float(np.mean(values))
