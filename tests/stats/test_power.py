"""Power, smallest detectable effects, and the designs that a plan names."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower

from narrowly.records.errors import SpecError
from narrowly.stats.eval_plan import plan_evaluation, sd_of_rate
from narrowly.stats.power import (
    Design,
    Variation,
    design_effect,
    detectable,
    effective_n,
    minimum_detectable_effect,
    power_of,
    questions_needed,
    satterthwaite_df,
    smallest_design,
    standard_error,
)
from narrowly.stats.random_effects import Layout


def test_power_and_detectable_effect_of_one_mean_are_those_of_statsmodels():
    for n in (5, 8, 30):
        expected = TTestPower().power(0.8, n, 0.05)
        assert power_of(0.8, n**-0.5, n - 1) == pytest.approx(expected, rel=1e-6)
        smallest = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
        assert minimum_detectable_effect(n**-0.5, n - 1) == pytest.approx(smallest, rel=1e-5)


@pytest.mark.parametrize("df", [1.2, 4.0, 30.0])
def test_power_rises_from_alpha_to_one_and_is_a_number_far_out(df):
    found = [power_of(effect, 1.0, df) for effect in (0, 0.5, 3, 8, 10, 40, 200, 1000)]
    assert found[0] == pytest.approx(0.05)
    assert all(low <= high + 1e-12 for low, high in pairwise(found))
    assert found[-1] == pytest.approx(1.0)


def test_error_and_df_of_a_plan_are_those_that_the_interval_has_at_the_true_components():
    design, variation = Design(8, 24, 3), Variation(0.4, 0.07, 0.2)
    parts = 0.4**2 * np.array([0.07, 0.2, 0.73 / 3])
    layout = Layout(np.ones((8, 24), dtype=bool))
    variance = parts @ layout.weights
    assert standard_error(design, variation) ** 2 == pytest.approx(2 * variance)
    assert satterthwaite_df(design, variation) == pytest.approx(variance**2 / (parts @ layout._spread @ parts))


def test_answers_of_few_questions_are_worth_what_the_literature_of_clusters_says():
    """One seed and questions of ICC .049 and .211: Kish's 1 + (m - 1) ICC."""
    for questions, samples, icc, worth in ((8, 50, 0.049, 118), (8, 100, 0.211, 37), (80, 10, 0.049, 555)):
        assert effective_n(Design(1, questions, samples), Variation(1.0, 0.0, icc)) == pytest.approx(worth, abs=0.5)
    assert design_effect(Design(5, 10, 2), Variation(1.0, 0.1, 0.2)) == pytest.approx(1 + 19 * 0.1 + 9 * 0.2)


@pytest.mark.parametrize(("icc_seed", "icc_question"), [(0.0, 0.05), (0.01, 0.2), (0.1, 0.0)])
def test_the_questions_needed_are_the_first_that_suffice(icc_seed, icc_question):
    variation = Variation(0.5, icc_seed, icc_question)

    def enough(seeds, questions):
        design = Design(seeds, questions, 2)
        found = power_of(0.25, standard_error(design, variation), satterthwaite_df(design, variation))
        return found >= 0.8

    for seeds in (5, 6, 12):
        first = next((count for count in range(2, 120) if enough(seeds, count)), None)
        assert questions_needed(0.25, seeds, 2, variation, most=119) == first
    smallest = smallest_design(0.25, 2, variation, most_questions=119)
    seeds, first = next((seeds, count) for seeds in range(5, 50) for count in range(2, 120) if enough(seeds, count))
    assert smallest == Design(seeds, first, 2)


def test_a_plan_names_designs_that_detect_the_effect_and_dashes_where_none_does():
    plan = plan_evaluation(0.05, sd_of_rate(0.05, 0.05), question_iccs=(0.049,), samples=(1, 4))
    variation = Variation(plan.sd, plan.icc_seed, 0.049)
    for row in plan.rows:
        for samples, questions in zip(plan.samples, row.questions, strict=True):
            assert (questions is None) == (detectable(Design(row.seeds, 400, samples), variation) > 0.05)
            if questions is not None:
                assert detectable(Design(row.seeds, questions, samples), variation) <= 0.05
    ((_, smallest),) = plan.smallest
    assert detectable(smallest, variation) <= 0.05
    assert any(row.questions == (None, None) for row in plan.rows)


def test_simulated_power_of_a_planned_design_is_the_power_that_was_asked_for():
    """The interval that the product gives finds the planned effect in about 80 % of 2,000 tables."""
    variation = Variation(1.0, 0.1, 0.1, arms=1)
    design = smallest_design(0.5, 1, variation, most_questions=60)
    generator = np.random.default_rng(0)
    shape = (2000, design.seeds, design.questions)
    values = 0.5 + np.sqrt(0.1) * (
        generator.standard_normal((*shape[:2], 1)) + generator.standard_normal((2000, 1, design.questions))
    )
    values = values + np.sqrt(0.8) * generator.standard_normal(shape)
    mean, _, variance, df = Layout(np.ones(shape[1:], dtype=bool)).fit(values)
    found = (np.abs(mean) > scipy_stats.t.ppf(0.975, df) * np.sqrt(variance)).mean()
    planned = power_of(0.5, standard_error(design, variation), satterthwaite_df(design, variation))
    assert abs(found - planned) < 0.04  # four standard errors of 2,000 tables


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"detect": 0.0}, "effect to detect"),
        ({"detect": float("nan")}, "effect to detect"),
        ({"sd": 0.0}, "standard deviation"),
        ({"icc_seed": 1.0}, "sum at most 1"),
        ({"icc_seed": float("nan")}, "sum at most 1"),
        ({"samples": (0,)}, "samples"),
        ({"most_questions": 1}, "at most 1 questions"),
        ({"power": 1.0}, "alpha < power < 1"),
        ({"alpha": 0.9}, "alpha < power < 1"),
    ],
)
def test_plans_of_impossible_values_are_refused(arguments, words):
    with pytest.raises(SpecError, match=words):
        plan_evaluation(**({"detect": 0.1, "sd": 0.3} | arguments))


def test_rates_outside_their_range_are_refused():
    with pytest.raises(SpecError, match=r"0\.9 and 1\.1"):
        sd_of_rate(0.9, 0.2)
