"""Arms at equal held-out difference: selectivity against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from narrowly.analysis.matched_paths import LEVELS, Path, bootstrap_range, selectivity


def path(held: list[float], broad: list[float], questions: int = 3) -> Path:
    """Make a path whose questions all have the same difference at a step; it begins at zero."""
    return Path(*(np.repeat(np.array([0.0, *values])[:, None], questions, axis=1) for values in (held, broad)))


def test_selectivity_is_the_mean_vertical_distance_up_to_what_both_reach() -> None:
    """Broad is half of held-out on one path and all of it on the other: at level h they differ by h / 2."""
    found = selectivity(path([1, 4], [0.5, 2]), path([2, 3], [2, 3]))
    levels = 3 * np.arange(1, LEVELS + 1) / LEVELS
    assert found is not None and found.reached == 3
    assert found.per_question_Q == pytest.approx(np.full(3, -levels.mean() / 2))


def test_the_same_path_taken_faster_has_no_selectivity() -> None:
    found = selectivity(path([1, 2, 4], [0.5, 1, 2]), path([4], [2]))
    assert found is not None and found.per_question_Q == pytest.approx(np.zeros(3), abs=1e-12)


def test_paths_that_never_get_above_zero_are_not_comparable() -> None:
    assert selectivity(path([-1, -2], [1, 1]), path([2], [1])) is None


def test_the_range_over_questions_covers_the_value_and_is_narrow_where_questions_agree() -> None:
    first, second = path([1, 4], [0.5, 2], 6), path([2, 3], [2, 3], 6)
    found = selectivity(first, second)
    ends = bootstrap_range([[(first, second)]], ["a", "a", "a", "b", "b", "b"])
    assert found is not None and ends == pytest.approx((found.per_question_Q[0],) * 2)
    random = np.random.default_rng(1)
    noisy = Path(first.held_T_H, first.broad_T_Q + np.vstack([np.zeros(6), random.normal(size=(2, 6))]))
    wide = bootstrap_range([[(noisy, second)]], ["a", "a", "a", "b", "b", "b"])
    value = selectivity(noisy, second)
    assert wide is not None and value is not None
    assert wide[0] < float(value.per_question_Q.mean()) < wide[1] and wide[1] - wide[0] > 0.1
