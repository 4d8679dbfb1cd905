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


def test_ranges_come_from_leaving_one_base_out(data):
    loss, y, optimiser, base = (np.asarray(part) for part in data)
    found = alignment_on_loss(loss, y, optimiser, base)
    without = [
        alignment_on_loss(loss[base != b], y[base != b], optimiser[base != b], base[base != b]).pooled.r2
        for b in sorted(set(base))
    ]
    assert found.pooled.r2_range == pytest.approx((min(without), max(without)))


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
