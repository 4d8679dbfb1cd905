import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from narrowly.records.errors import SpecError
from narrowly.stats.intervals import share_interval, sum_interval, t_interval, wilson_interval


def test_t_interval_of_one_to_five_equals_the_value_worked_out_by_hand():
    # mean 3, s = sqrt(2.5), t(.975; 4) = 2.776445: half width 2.776445 * 1.581139 / sqrt(5) = 1.963243
    found = t_interval([1, 2, 3, 4, 5])
    assert found.estimate == 3
    assert found.low == pytest.approx(3 - 1.963243, abs=1e-6)
    assert found.high == pytest.approx(3 + 1.963243, abs=1e-6)
    assert (found.n, found.reason) == (5, None)


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=20))
def test_t_interval_equals_scipy(values):
    found = t_interval(values, level=0.9)
    scale = scipy_stats.sem(values)
    if scale > 1e-9:
        low, high = scipy_stats.t.interval(0.9, len(values) - 1, loc=np.mean(values), scale=scale)
        assert found.low == pytest.approx(low, rel=1e-9, abs=1e-9)
        assert found.high == pytest.approx(high, rel=1e-9, abs=1e-9)


def test_fewer_than_five_bases_give_the_mean_but_no_interval_and_the_reason():
    found = t_interval([1.0, 2.0, 3.0, 6.0])
    assert found.estimate == 3
    assert found.low is None and found.high is None
    assert "4 bases;" in found.reason and "5" in found.reason


def test_missing_and_not_finite_values_are_left_out_and_not_counted():
    assert t_interval([1, None, float("nan"), 3, float("inf")], min_n=2).n == 2


def test_no_value_at_all_is_null_with_a_reason():
    found = t_interval([])
    assert found.estimate is None and found.reason


def test_one_value_never_has_an_interval_however_small_the_minimum():
    assert t_interval([1.0], min_n=0).low is None


@pytest.mark.parametrize("level", [0, 1, -0.1, 95])
def test_a_level_outside_zero_to_one_is_refused_with_the_value_found(level):
    with pytest.raises(SpecError, match=str(level)):
        t_interval([1, 2, 3, 4, 5], level=level)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_equals_statsmodels_and_stays_in_the_unit_interval(n, share):
    successes = round(share * n)
    found = wilson_interval(successes, n)
    low, high = proportion_confint(successes, n, method="wilson")
    assert found.low == pytest.approx(low, abs=1e-9) and found.high == pytest.approx(high, abs=1e-9)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_wilson_of_ten_in_a_hundred_equals_the_published_value():
    found = wilson_interval(10, 100)
    assert found.low == pytest.approx(0.0552, abs=1e-4) and found.high == pytest.approx(0.1744, abs=1e-4)


def test_wilson_without_answers_is_null_with_a_reason_and_impossible_counts_are_refused():
    assert wilson_interval(0, 0).estimate is None
    with pytest.raises(SpecError, match="3 events out of 2"):
        wilson_interval(3, 2)


def test_t_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    trials = 2000
    draws = rng.normal(0.4, 1.3, (trials, 8))
    found = [t_interval(row) for row in draws]
    covered = sum(i.low <= 0.4 <= i.high for i in found) / trials
    # Binomial standard error at 2000 trials is 0.5 %: four of them on each side.
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_sum_interval_of_two_samples_is_welchs_and_of_one_is_students():
    generator = np.random.default_rng(1)
    a, b = generator.normal(1, 1, 8), generator.normal(0, 5, 30)
    found = sum_interval([a.tolist(), (-b).tolist()])
    welch = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high))
    assert found.n == 8
    alone, student = sum_interval([a.tolist(), [0.0] * 5]), t_interval(a.tolist())
    assert (alone.estimate, alone.low, alone.high) == pytest.approx((student.estimate, student.low, student.high))


def test_sum_interval_needs_five_values_of_every_sample_and_has_no_width_where_nothing_varies():
    found = sum_interval([[1.0] * 4, [2.0] * 9])
    assert (found.estimate, found.low, found.high) == (3.0, None, None)
    found = sum_interval([[1.0] * 5, [2.0] * 9])
    assert (found.estimate, found.low, found.high) == (3.0, 3.0, 3.0)
    assert sum_interval([[1.0] * 5, []]).estimate is None
    assert sum_interval([]).reason is not None


@given(st.lists(st.floats(0, 1), min_size=5, max_size=20))
def test_the_interval_of_a_mean_share_stays_within_0_and_1_and_holds_the_mean(shares):
    found = share_interval(shares)
    assert 0 <= found.low <= found.estimate + 1e-12 and found.estimate <= found.high + 1e-12 and found.high <= 1


def test_far_from_the_limits_the_interval_of_a_mean_share_is_the_plain_one_and_near_them_it_is_not():
    middle = [0.49, 0.5, 0.51, 0.5, 0.49, 0.51, 0.5, 0.5]
    plain, logit = t_interval(middle), share_interval(middle)
    assert (logit.low, logit.high) == pytest.approx((plain.low, plain.high), abs=1e-5)
    # F16: the rates of eight bases whose plain interval began below 0
    near = [0.002, 0.004, 0.15, 0.06, 0.003, 0.02, 0.01, 0.03]
    plain, logit = t_interval(near), share_interval(near)
    assert plain.low < 0 < logit.low < logit.estimate == plain.estimate < logit.high


def test_the_logit_interval_equals_the_delta_method_written_out():
    shares = np.array([0.1, 0.3, 0.2, 0.15, 0.4])
    mean, error = shares.mean(), scipy_stats.sem(shares)
    reach = scipy_stats.t.ppf(0.975, 4) * error / (mean * (1 - mean))
    ends = [1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + side * reach))) for side in (-1, 1)]
    found = share_interval(shares)
    assert (found.low, found.high) == pytest.approx(ends) and "logit" in found.method


def test_shares_that_are_all_alike_have_an_interval_of_one_point_and_few_have_none():
    assert (share_interval([0.0] * 6).low, share_interval([0.0] * 6).high) == (0.0, 0.0)
    assert share_interval([0.2, 0.4]).low is None and share_interval([0.2, 0.4]).reason


def test_what_is_no_share_is_refused():
    with pytest.raises(SpecError, match=r"a share is 55\.0; accepted: 0 to 1"):
        share_interval([0.5, 55.0])
