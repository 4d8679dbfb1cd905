"""Curves compared at equal values: against a dense numerical integral, and what must change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.stats.first_passage import falling, mean_weights, rising
from narrowly.stats.matched_curves import Curve, Pair, bootstrap_distance, distance
from narrowly.stats.sampled_values import Asked, Values


def weights(x: list[float], low: float, high: float) -> np.ndarray:
    return mean_weights(np.array([x]), np.array([low]), np.array([high]))[0]


def by_levels(x: np.ndarray, y: np.ndarray, low: float, high: float, levels: int = 20_000) -> float:
    """Return the mean of y over levels by looking each of them up: the slow twin."""
    found = []
    for level in low + (high - low) * (np.arange(levels) + 0.5) / levels:
        after = int(np.argmax(x >= level))
        share = 0.0 if after == 0 else (level - x[after - 1]) / (x[after] - x[after - 1])
        found.append(y[0] if after == 0 else (1 - share) * y[after - 1] + share * y[after])
    return float(np.mean(found))


def curve(x: list[float], y: list[float]) -> Curve:
    return Curve(Values(np.array(x, dtype=float)), Values(np.array(y, dtype=float)))


@pytest.mark.parametrize("x", [[0, 1, 4], [0, 3, 1, 2, 5], [2, 1, 4, 4, 6], [-3, 0.5, 0.25, 0.75]])
def test_the_mean_over_levels_is_the_integral_of_the_first_passage(x: list[float]) -> None:
    random = np.random.default_rng(3)
    y = random.normal(size=len(x))
    low, high = sorted(random.uniform(x[0], max(x), size=2))
    assert weights(x, low, high) @ y == pytest.approx(by_levels(np.array(x), y, low, high), abs=2e-3)
    assert weights(x, low, high).sum() == pytest.approx(1)


def test_a_single_level_is_looked_up_on_its_line() -> None:
    assert weights([0, 2, 6], 3, 3) == pytest.approx([0, 0.75, 0.25])
    assert weights([0, 2, 6], 0, 0) == pytest.approx([1, 0, 0])
    assert weights([5], 5, 5) == pytest.approx([1])
    assert weights([0, 4, 1, 5], 4.5, 4.5) == pytest.approx([0, 0, 0.125, 0.875])


def test_a_hair_of_support_gives_what_a_single_level_gives() -> None:
    assert weights([0, 2, 6], 3, 3 + 1e-12) == pytest.approx([0, 0.75, 0.25], abs=1e-9)


def test_branches_meet_at_the_largest_point_and_the_second_is_passed_from_its_end() -> None:
    x = np.array([1.0, 3.0, 2.0, 0.5])
    assert rising(x).tolist() == [0, 1]
    assert falling(x).tolist() == [3, 2, 1]
    assert falling(x[:2]).tolist() == []


def test_two_lines_with_other_ranges_differ_by_what_lies_between_them() -> None:
    found = distance(Pair(curve([0, 2, 3], [1, 3, 4]), curve([1, 5], [1.5, 5.5])))
    assert found is not None
    assert (found.low, found.high) == (1, 3)
    assert found.value == pytest.approx(0.5)


def test_curves_without_a_common_level_have_no_distance() -> None:
    assert distance(Pair(curve([0, 1], [0, 1]), curve([2, 3], [2, 3]))) is None


def test_levels_outside_of_a_window_do_not_count() -> None:
    pair = Pair(curve([0, 4], [0, 8]), curve([0, 4], [0, 0]))
    found = distance(pair._replace(between=(1, 2)))
    assert found is not None
    assert (found.low, found.high, found.value) == (1, 2, pytest.approx(3))
    assert distance(pair._replace(between=(5, 9))) is None
    drawn = bootstrap_distance([[pair._replace(between=(1, 2))]] * 6)
    assert (drawn.low, drawn.high) == pytest.approx((3, 3))


points = st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(points, points)
def test_exchanging_two_curves_negates_their_distance(one, other) -> None:
    first, second = (curve(*map(list, zip(*found, strict=True))) for found in (one, other))
    there, back = distance(Pair(first, second)), distance(Pair(second, first))
    assert (there is None) == (back is None)
    if there is not None and back is not None:
        assert there.value == pytest.approx(-back.value)
        assert there[:2] == back[:2]


@settings(max_examples=100, deadline=None)
@given(points, points, st.integers(0, 5))
def test_a_point_that_stands_twice_changes_no_distance(one, other, place) -> None:
    first, second = (curve(*map(list, zip(*found, strict=True))) for found in (one, other))
    place %= len(one)
    again = curve(*map(list, zip(*one[: place + 1], *one[place:], strict=True)))
    there, back = distance(Pair(first, second)), distance(Pair(again, second))
    assert (there and there.value) == pytest.approx(back and back.value)


def asked(shift: float, random: np.random.Generator, spread: float) -> Curve:
    """Return a curve of pooled log-odds whose questions scatter; y lies `shift` above x."""
    x_T = np.array([-1.0, 0.0, 1.0])
    odds_T_Q = np.exp(x_T[:, None] + spread * random.normal(size=(1, 30)))
    misaligned_T_Q = odds_T_Q / (1 + odds_T_Q)
    held = Asked(tuple(f"h{n}" for n in range(30)), np.ones(30), misaligned_T_Q, 1 - misaligned_T_Q)
    broad = Asked(tuple(f"b{n}" for n in range(30)), np.ones(30), misaligned_T_Q * np.exp(shift), 1 - misaligned_T_Q)
    one = np.ones((1, 30))
    return Curve(Values(held.means(one)[0], held), Values(broad.means(one)[0], broad))


def test_the_bootstrap_over_questions_keeps_what_two_curves_share() -> None:
    """Questions of both curves scatter alike, so that drawing them moves both and hardly the distance."""
    units = [
        [Pair(asked(0.5, np.random.default_rng(unit), 1.0), asked(0.0, np.random.default_rng(unit), 1.0))]
        for unit in range(8)
    ]
    found = bootstrap_distance(units)
    assert found.low == pytest.approx(0.5, abs=1e-6)
    assert found.high == pytest.approx(0.5, abs=1e-6)
    apart = bootstrap_distance(
        [[Pair(asked(0.5, np.random.default_rng(unit), 1.0), asked(0.0, np.random.default_rng(50 + unit), 1.0))]
         for unit in range(8)]
    )  # fmt: skip
    assert apart.high - apart.low > 0.1


def test_the_bootstrap_of_plain_values_draws_units_alone_and_is_mirrored_by_an_exchange() -> None:
    random = np.random.default_rng(5)
    units = [[Pair(curve([0, 1], [random.normal(), 1]), curve([0.5, 2], [0.5, 2]))] for _ in range(9)]
    there = bootstrap_distance(units)
    back = bootstrap_distance([[Pair(pair.second, pair.first) for pair in unit] for unit in units])
    assert "questions" not in there.method
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low < there.estimate < there.high


def test_fewer_than_five_units_have_no_interval() -> None:
    found = bootstrap_distance([[Pair(curve([0, 1], [1, 2]), curve([0, 1], [0, 1]))]] * 4)
    assert found.low is None
    assert found.estimate == 1
    assert "at least 5" in str(found.reason)


def test_draws_without_a_common_level_are_said() -> None:
    far = [[Pair(curve([0, 1], [0, 1]), curve([2, 3], [2, 3]))]] * 8
    near = [[Pair(curve([0, 1], [0, 1]), curve([0, 1], [0, 1]))]] * 5
    assert bootstrap_distance([*far, *near]).low == 0
    tiny = Asked(("a", "b"), np.ones(2), np.array([[0.0, 1.0]]))
    at_times = Curve(Values(np.array([0.5]), tiny), Values(np.array([0.0])))
    found = bootstrap_distance([[Pair(at_times, curve([0.4, 0.6], [0, 1]))]] * 5)
    assert found.low is None
    assert "have no level in common" in str(found.reason)
