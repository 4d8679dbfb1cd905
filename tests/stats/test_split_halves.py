"""The reliability of a matching variable, from split halves, against one that was planted."""

from __future__ import annotations

import numpy as np
import pytest

from narrowly.stats.sampled_values import Asked, Values
from narrowly.stats.split_halves import attenuation


def values(random: np.random.Generator, questions: int, noise: float, shared: float = 0.0, points: int = 6) -> Values:
    """Return a curve of true spread 1: each question adds noise at each point, and some noise at all points alike."""
    true_T = random.normal(size=points)
    rows = true_T[:, None] + noise * random.normal(size=(points, questions)) + shared * random.normal(size=questions)
    return Values(rows.mean(axis=1), Asked(tuple(map(str, range(questions))), np.ones(questions), rows))


@pytest.mark.parametrize("questions", [3, 24, 25])
@pytest.mark.parametrize("reliability", [0.5, 0.8, 0.95])
def test_a_planted_reliability_is_found(reliability: float, questions: int) -> None:
    random = np.random.default_rng(7)
    noise = (questions * (1 / reliability - 1)) ** 0.5
    found = attenuation([values(random, questions, noise) for _ in range(400)])
    assert found is not None
    assert found.reliability == pytest.approx(reliability, abs=0.03)
    assert found.noise_sd == pytest.approx((1 / reliability - 1) ** 0.5, rel=0.05)


def test_what_all_points_of_a_curve_share_is_no_noise() -> None:
    random = np.random.default_rng(8)
    found = attenuation([values(random, 20, 0.0, shared=5.0) for _ in range(20)])
    assert found is not None
    assert found.reliability == pytest.approx(1)


def test_a_plain_value_and_a_curve_of_one_point_have_none() -> None:
    assert attenuation([Values(np.array([1.0, 2.0]))]) is None
    assert attenuation([values(np.random.default_rng(1), 9, 1.0, points=1)]) is None
