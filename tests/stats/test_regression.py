import numpy as np
import pytest
import statsmodels.api as sm

from narrowly.records.errors import SpecError
from narrowly.stats.regression import alignment_on_loss


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    optimiser = np.repeat(["adam", "lion", "muon"], 8)
    base = np.tile([f"b{i}" for i in range(8)], 3)
    loss = rng.uniform(0.4, 0.6, 24)
    level = {"adam": 50, "lion": 30, "muon": 80}
    slope = {"adam": 60, "lion": 20, "muon": -30}
    y = np.array([level[o] + slope[o] * np.log(x) for o, x in zip(optimiser, loss, strict=True)])
    return loss, y + rng.normal(0, 2, 24), optimiser, base


def test_both_fits_equal_statsmodels(data):
    loss, y, optimiser, base = data
    found = alignment_on_loss(loss.tolist(), y.tolist(), optimiser.tolist(), base.tolist())
    x = np.log(loss)
    pooled = sm.OLS(y, sm.add_constant(x)).fit()
    member = np.stack([optimiser == name for name in ("adam", "lion", "muon")], axis=1).astype(float)
    design = np.concatenate([np.ones((24, 1)), member[:, 1:], member * x[:, None]], axis=1)
    strata = sm.OLS(y, design).fit()
    assert found.pooled.r2 == pytest.approx(pooled.rsquared)
    assert found.pooled.adjusted_r2 == pytest.approx(pooled.rsquared_adj)
    assert found.stratified.r2 == pytest.approx(strata.rsquared)
    assert found.stratified.adjusted_r2 == pytest.approx(strata.rsquared_adj)
    assert found.slope == pytest.approx(pooled.params[1]) and found.intercept == pytest.approx(pooled.params[0])
    assert found.pooled.n == found.stratified.n == 24 and found.stratified.parameters == 6


def test_stratifying_can_only_raise_r2(data):
    loss, y, optimiser, base = data
    found = alignment_on_loss(loss, y, optimiser, base)
    assert found.stratified.r2 >= max(found.pooled.r2, found.optimiser_only.r2)


def test_intervals_come_from_drawing_whole_bases_and_hold_the_estimate(data):
    found = alignment_on_loss(*data)
    for one in (found.pooled, found.stratified, found.optimiser_only, found.within):
        assert one.r2_interval[0] <= one.r2 <= one.r2_interval[1]
    assert found.pooled.r2_interval[1] - found.pooled.r2_interval[0] > 0.05, "eight bases leave R^2 uncertain"
    again = alignment_on_loss(*data)
    assert again == found, "the draws are seeded"


def test_copies_of_every_base_change_no_estimate_and_a_base_counts_once_however_many_runs_it_has():
    """Were organisms drawn instead of bases, tripling the runs of each base would shrink the interval by 1.7."""
    rng = np.random.default_rng(3)
    base = np.repeat([f"b{i}" for i in range(8)], 2)
    loss = np.exp(np.repeat(rng.normal(0, 0.3, 8), 2) + rng.normal(0, 0.01, 16))
    y = np.repeat(rng.normal(50, 10, 8), 2) + 20 * np.log(loss)
    names = ["a", "b"] * 8
    once = alignment_on_loss(loss, y, names, base)
    thrice = alignment_on_loss(np.tile(loss, 3), np.tile(y, 3), names * 3, np.tile(base, 3))
    assert thrice.pooled.r2 == pytest.approx(once.pooled.r2)
    width = [one.pooled.r2_interval[1] - one.pooled.r2_interval[0] for one in (once, thrice)]
    assert width[1] == pytest.approx(width[0], rel=0.02)


def test_fewer_than_five_bases_have_no_interval(data):
    loss, y, optimiser, base = (np.asarray(part) for part in data)
    few = np.isin(base, ["b0", "b1", "b2", "b3"])
    found = alignment_on_loss(loss[few], y[few], optimiser[few], base[few])
    assert found.pooled.r2 is not None and found.pooled.r2_interval is None and found.remaining_interval is None


def test_within_bases_what_bases_share_explains_nothing():
    """Bases differ in loss and alignment together, organisms of one base do not: pooled R^2 is large, within 0."""
    rng = np.random.default_rng(2)
    level = np.repeat(np.linspace(-1, 1, 8), 6)
    noise = np.tile([1.0, 1.0, -1.0, -1.0, 1.0, -1.0], 8), np.tile([1.0, -1.0, 1.0, -1.0, 0.0, 0.0], 8)
    loss, y = np.exp(level + 0.05 * noise[0]), 30 * level + 2 * noise[1] + 50
    found = alignment_on_loss(loss, y, rng.permutation(["a", "b"] * 24), np.repeat([f"b{i}" for i in range(8)], 6))
    assert found.pooled.r2 > 0.95 and found.within.r2 == pytest.approx(0.0, abs=1e-9)


def test_missing_values_and_losses_that_have_no_logarithm_are_left_out():
    found = alignment_on_loss([1, 2, 3, None, 0, -1, 4], [1, 2, 4, 5, 6, 7, None], ["a"] * 7, list("uvwxyzq"))
    assert found.pooled.n == 3


def test_too_few_organisms_or_constant_alignment_are_null_with_reason():
    few = alignment_on_loss([1, 2], [1, 2], ["a", "b"], ["u", "v"])
    flat = alignment_on_loss([1, 2, 3], [5, 5, 5], ["a"] * 3, list("uvw"))
    assert few.pooled.r2 is None and "at least 3" in few.pooled.reason
    assert flat.pooled.r2 is None and "does not vary" in flat.pooled.reason


def test_adjusted_r2_is_null_where_there_are_no_degrees_of_freedom():
    found = alignment_on_loss([1, 2, 3, 4], [1, 2, 3, 5], ["a", "a", "b", "b"], list("uvwx"))
    assert found.stratified.adjusted_r2 is None and "not defined" in found.stratified.reason


def test_sequences_of_unequal_length_are_refused():
    with pytest.raises(SpecError, match="lengths"):
        alignment_on_loss([1.0], [1.0, 2.0], ["a"], ["u"])
