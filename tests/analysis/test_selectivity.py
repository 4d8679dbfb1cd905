"""Selectivity is broad beyond Adam at equal held-out log-odds: planted differences come back, no path is said."""

from __future__ import annotations

import polars as pl
import pytest

from narrowly.analysis.selectivity import in_words, selectivity_of

BASES = 8


def organism(arm, base, lr, step, held, broad, final):
    return {
        "cell_id": f"{arm}-{base}-{lr}", "arm": arm, "role": "optimiser", "base": f"b{base}", "domain": base, "seed": 0,
        "lr": lr, "step": step, "edit": "none", "final": final, "held_out_pooled": held, "broad_pooled": broad,
        "final_loss": 0.5, "update_norm": 1.0, "excess_trained": 0.1,
    }  # fmt: skip


def steps(arm, shift, reach=3.0, bases=BASES):
    """Return runs evaluated at steps: broad = held-out - 1 + shift + what the base adds to both arms."""
    rows = []
    for base in range(bases):
        for step, far in ((10, 0.3), (40, 0.7), (80, 1.0)):
            held = -4 + far * (4 + reach) + 0.1 * base
            rows.append(organism(arm, base, 1.0, step, held, held - 1 + shift * far + 0.05 * base * shift, step == 80))
    return rows


def start(arm="adam", bases=BASES):
    return [organism(arm, base, 1.0, 0, -4.0, -5.0, False) for base in range(bases)]


def rates(arm, shift, low, high):
    return [
        organism(arm, base, lr, 80, held, held - 1 + shift + 0.01 * base, True)
        for base in range(BASES)
        for lr, held in ((1.0, low), (2.0, (low + high) / 2), (4.0, high))
    ]


def table(*parts):
    return pl.DataFrame([row for part in parts for row in part])


def test_a_planted_difference_comes_back_from_evaluated_steps_with_the_base_as_their_start():
    found = selectivity_of(table(start(), steps("adam", 0.0), steps("muon", -1.0)), "muon", "adam")
    assert found.dial == "step" and found.n_bases == found.bases == BASES
    assert -1.3 < found.high < -0.3 and found.verdict == "EFFECT"
    assert len(found.per_base) == BASES


def test_equal_arms_have_none_and_an_arm_that_learns_less_is_not_thereby_selective():
    """F1: an arm that reaches less far on held-out topics and broad alike is no more selective than Adam."""
    found = selectivity_of(table(start(), steps("adam", 0.0), steps("muon", 1e-3, reach=0.5)), "muon", "adam")
    assert found.estimate == pytest.approx(0.0, abs=0.01)
    ends = {"adam": 3.0 - 1, "muon": 0.5 - 1}
    assert ends["adam"] - ends["muon"] == 2.5, "the arms differ by 2.5 log-odds at their ends"


def test_learning_rates_make_the_path_where_both_arms_have_several():
    found = selectivity_of(table(rates("adam", 0.0, -2.0, 2.0), rates("muon", -0.6, -1.0, 3.0)), "muon", "adam")
    assert found.dial == "lr" and found.estimate == pytest.approx(-0.6, abs=1e-9)


def test_without_levels_in_common_it_is_not_tested_and_both_ranges_are_listed():
    found = selectivity_of(table(rates("adam", 0.0, 1.0, 2.0), rates("muon", -0.6, -2.0, -1.0)), "muon", "adam")
    assert found.verdict == "not tested" and found.estimate is None and "not comparable" in found.reason
    assert found.ranges["b0"] == "-2.00 to -1.00 and 1.00 to 2.00" and len(found.ranges) == BASES


@pytest.mark.parametrize(
    ("reference", "why"),
    [("adam", "no path: it ran at one rate and was evaluated at its end only"), (None, "no arm of adam")],
)
def test_an_arm_without_a_path_or_a_reference_is_not_tested_with_the_reason(reference, why):
    lion = [row for row in steps("lion", 0.0) if row["final"]]
    found = selectivity_of(table(start(), steps("adam", 0.0), lion), "lion", reference)
    assert found.verdict == "not tested" and why in found.reason and why in in_words(found)


def test_adam_itself_and_a_twin_on_another_base_are_not_tested():
    twin = [
        {**row, "arm": "twin", "cell_id": f"t{row['base']}", "base": "other"} for row in steps("adam", 0.0, bases=1)
    ]
    ladder = table(start(), steps("adam", 0.0), twin)
    assert "others are compared with" in selectivity_of(ladder, "adam", "adam").reason
    assert "no base in common" in selectivity_of(ladder, "twin", "adam").reason
