"""The primary interval over crossed seeds and questions: components, variance, degrees of freedom, what it refuses."""

import warnings

import numpy as np
import pandas
import pytest
import statsmodels.formula.api
from scipy import stats as scipy_stats

from narrowly.records.errors import SpecError
from narrowly.stats.power import power_of
from narrowly.stats.random_effects import Layout, crossed_mean


def table(seeds, questions, missing=0.0, seed=0):
    generator = np.random.default_rng(seed)
    values = (
        0.6 * generator.standard_normal((seeds, 1))
        + 0.5 * generator.standard_normal((1, questions))
        + 0.7 * generator.standard_normal((seeds, questions))
        + 1.5
    )
    values[generator.random(values.shape) < missing] = np.nan
    return values


def dense(present):
    """The slow twin: every matrix of the model written out, one row per cell."""
    rows, columns = np.nonzero(present)
    n = len(rows)
    by_seed = (rows[:, None] == np.arange(present.shape[0])).astype(float)
    by_question = (columns[:, None] == np.arange(present.shape[1])).astype(float)
    parts = [by_seed @ by_seed.T, by_question @ by_question.T, np.eye(n)]
    averages = [
        by_seed @ np.diag(1 / by_seed.sum(axis=0)) @ by_seed.T,
        by_question @ np.diag(1 / by_question.sum(axis=0)) @ by_question.T,
        np.eye(n),
    ]
    forms = [average - np.full((n, n), 1 / n) for average in averages]
    expected = np.array([[np.trace(form @ part) for part in parts] for form in forms])
    weights = np.array([part.sum() / n**2 for part in parts])
    return forms, parts, expected, weights


@pytest.mark.parametrize("missing", [0.0, 0.35])
def test_components_variance_and_df_equal_those_of_dense_matrices(missing):
    values = table(6, 9, missing)
    present = ~np.isnan(values)
    forms, parts, expected, weights = dense(present)
    y = values[present]
    theta = np.linalg.solve(expected, [y @ form @ y for form in forms])
    assert theta.min() > 0, "no component is cut at 0 in this table"
    whole = sum(share * form for share, form in zip(np.linalg.solve(expected.T, weights), forms, strict=True))
    covariance = sum(share * part for share, part in zip(theta, parts, strict=True))
    variance = weights @ theta
    df = variance**2 / np.trace(whole @ covariance @ whole @ covariance)
    found = crossed_mean(values)
    components = found.components
    np.testing.assert_allclose([components.seed, components.question, components.residual], theta, rtol=1e-9)
    assert found.standard_error**2 == pytest.approx(variance, rel=1e-9)
    assert found.df == pytest.approx(df, rel=1e-9)
    half = scipy_stats.t.ppf(0.975, df) * np.sqrt(variance)
    assert found.interval.estimate == pytest.approx(y.mean())
    assert found.interval.high - found.interval.estimate == pytest.approx(half, rel=1e-9)
    assert found.effective_n == pytest.approx(sum(theta) / variance, rel=1e-9)


def test_a_full_table_gives_the_mean_squares_of_a_textbook():
    values = table(7, 11)
    seeds, questions = values.shape
    by_seed, by_question, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    ms_seed = questions * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    ms_question = seeds * ((by_question - mean) ** 2).sum() / (questions - 1)
    rest = values - by_seed[:, None] - by_question + mean
    free = (seeds - 1) * (questions - 1)
    ms_rest = (rest**2).sum() / free
    combined = ms_seed + ms_question - ms_rest
    found = crossed_mean(values)
    assert found.components.seed == pytest.approx((ms_seed - ms_rest) / questions)
    assert found.components.question == pytest.approx((ms_question - ms_rest) / seeds)
    assert found.components.residual == pytest.approx(ms_rest)
    assert found.standard_error**2 == pytest.approx(combined / (seeds * questions))
    spread = ms_seed**2 / (seeds - 1) + ms_question**2 / (questions - 1) + ms_rest**2 / free
    assert found.df == pytest.approx(combined**2 / spread)


def test_components_of_a_full_table_are_those_of_restricted_likelihood_in_statsmodels():
    values = table(8, 12, seed=3)
    seeds, questions = np.indices(values.shape)
    frame = pandas.DataFrame({"y": values.ravel(), "s": seeds.ravel(), "q": questions.ravel(), "one": 1})
    parts = {"s": "0 + C(s)", "q": "0 + C(q)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = statsmodels.formula.api.mixedlm("y ~ 1", frame, groups="one", vc_formula=parts).fit(reml=True)
    found = crossed_mean(values).components
    named = dict(zip(fitted.model.exog_vc.names, fitted.vcomp, strict=True))
    assert found.seed == pytest.approx(named["s"], rel=1e-3)
    assert found.question == pytest.approx(named["q"], rel=1e-3)
    assert found.residual == pytest.approx(fitted.scale, rel=1e-3)


def test_the_design_effect_of_a_full_table_is_one_plus_the_shared_values_times_their_icc():
    values = table(6, 20)
    found = crossed_mean(values)
    components = found.components
    assert found.design_effect == pytest.approx(1 + 19 * components.icc_seed + 5 * components.icc_question)
    assert found.effective_n == pytest.approx(120 / found.design_effect)
    assert power_of(found.smallest_detectable, found.standard_error, found.df) == pytest.approx(0.8)


def test_order_of_seeds_and_questions_and_a_shift_change_nothing_but_the_mean():
    values = table(6, 10, missing=0.2)
    generator = np.random.default_rng(5)
    other = crossed_mean(100 + values[generator.permutation(6)][:, generator.permutation(10)])
    first = crossed_mean(values)
    assert other.interval.estimate == pytest.approx(first.interval.estimate + 100)
    assert other.standard_error == pytest.approx(first.standard_error)
    assert other.df == pytest.approx(first.df)


def test_below_five_seeds_there_are_points_per_seed_and_an_interval_of_these_seeds_only():
    values = table(4, 12)
    values[2, 7] = np.nan
    found = crossed_mean(values)
    assert (found.interval.low, found.interval.high) == (None, None)
    assert "4 seeds" in found.interval.reason and "5" in found.interval.reason
    assert (found.design_effect, found.effective_n, found.smallest_detectable) == (None, None, None)
    assert found.per_seed == pytest.approx(np.nanmean(values, axis=1))
    whole = np.delete(values, 7, axis=1).mean(axis=0)
    low, high = scipy_stats.t.interval(0.95, 10, loc=whole.mean(), scale=scipy_stats.sem(whole))
    assert (found.seeds_only.low, found.seeds_only.high) == pytest.approx((low, high))
    assert found.seeds_only.method.startswith("these seeds only")
    assert "without 1 question " in found.seeds_only.method
    assert crossed_mean(table(5, 12)).interval.low is not None


def test_one_seed_has_an_interval_over_questions_and_no_components():
    found = crossed_mean(table(1, 12))
    assert found.components is None and found.interval.low is None
    assert "cannot be told apart" in found.interval.reason
    assert found.seeds_only.low is not None


def test_a_seed_without_any_value_is_no_seed_and_its_point_is_none():
    values = table(6, 8)
    values[3] = np.nan
    found = crossed_mean(values)
    assert found.n_seeds == 5 and found.per_seed[3] is None
    assert found.df == pytest.approx(crossed_mean(np.delete(values, 3, axis=0)).df)


def test_seeds_that_share_no_question_are_refused_an_interval():
    values = np.full((5, 10), np.nan)
    for seed in range(5):
        values[seed, 2 * seed : 2 * seed + 2] = [seed, seed + 1.0]
    assert "cannot be told apart" in crossed_mean(values).interval.reason


def test_values_that_do_not_differ_give_no_interval_of_width_zero():
    found = crossed_mean(np.zeros((6, 10)))
    assert found.interval.estimate == 0 and found.interval.low is None
    assert "exact bound" in found.interval.reason


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1.0, 2.0], [3.0]], "rectangular"),
        ([[1.0, "x"]], "of numbers"),
        ([1.0, 2.0], "1 dimension"),
        ([[None, None]], "no value at all"),
        ([[1.0, float("inf")]], "seed 0, question 1"),
    ],
)
def test_tables_that_cannot_be_read_are_refused_with_what_is_wrong(values, words):
    with pytest.raises(SpecError, match=words):
        crossed_mean(values)


def test_many_tables_of_one_layout_are_fitted_as_each_alone():
    tables = np.stack([table(5, 8, seed=seed) for seed in range(3)])
    mean, _, variance, df = Layout(np.ones((5, 8), dtype=bool)).fit(tables)
    for index, values in enumerate(tables):
        found = crossed_mean(values)
        assert found.interval.estimate == pytest.approx(mean[index])
        assert found.standard_error == pytest.approx(np.sqrt(variance[index]))
        assert found.df == pytest.approx(df[index])
