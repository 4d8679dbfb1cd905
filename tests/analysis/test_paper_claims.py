import math

import pytest

from narrowly.analysis import claim_rules as rules
from narrowly.analysis.contrasts import Contrast, missing_contrast
from narrowly.analysis.design import Design, LossRange
from narrowly.analysis.evidence import Evidence
from narrowly.analysis.paper_claims import verdicts_on
from narrowly.stats.regression import Fit, LossRegression


def interval(low, high, n=8):
    middle = None if low is None else (low + high) / 2
    return Contrast(middle if middle is not None else 0.3, low, high, n, "test", None if low is not None else "few")


ABOVE, BELOW, ACROSS, NONE = interval(0.5, 1.5), interval(-1.5, -0.5), interval(-0.5, 0.5), interval(None, None, 3)
NAMES = ("sgd", "adam", "adamw", "lion", "muon")


def regression(pooled=0.74, rest=0.77, alone=0.8, width=0.05):
    def made(value):
        return Fit(value, value, 40, 2, None, (value - width, value + width), (value - width, value + width))

    edge = alone - pooled
    return LossRegression(
        made(pooled), made(0.94), made(alone), -1.0, 0.0, rest, None if rest is None else (rest - width, rest + width),
        within=made(pooled), edge_interval=(edge - width, edge + width),
    )  # fmt: skip


VARIED = LossRange(within=0.4, way=1.5, settings=5, n_bases=8)
"""Losses of a design that varied the learning rates."""


def evidence(**changes):
    """Evidence of a design that can test every claim, and agrees with the paper on most."""
    pairs = {(a, b): ABOVE for a in NAMES for b in NAMES if a != b}
    odds = pairs | {pair: around(rules.odds_ratio(rates)) for pair, rates in rules.PAPER_ODDS.items()}
    gains = {name: BELOW for name in ("adam", "lion", "muon")} | {"sgd": ABOVE}
    found = Evidence(
        joint={"sgd": 0.138, "adam": 0.138, "adamw": 0.139, "lion": 0.37, "muon": 0.053},
        literature={name: 0.2 for name in NAMES},
        n_bases=8,
        odds=odds,
        bounds=(),
        flatness=pairs,
        incoherence=pairs,
        regression=regression(),
        gains=gains,
        norm_ratios={name: interval(-0.1, 0.1) for name in gains},
        costs={"adam": interval(0, 0.01)},
        onset=ABOVE,
        design=Design(loss=VARIED),
        planned=frozenset(NAMES),
    )._replace(**changes)
    return found if "bounds" in changes else found._replace(bounds=(found.odds, found.odds))


def around(ratio):
    return interval(math.log(ratio) - 0.3, math.log(ratio) + 0.3)


def verdict(key, **changes):
    return {row.id: row.verdict for row in verdicts_on(evidence(**changes))}[key]


@pytest.mark.parametrize(
    ("contrasts", "expected"),
    [
        ([ABOVE, ABOVE], "agrees"),
        ([ABOVE, BELOW], "disagrees"),
        ([ABOVE, ACROSS], "cannot tell"),
        ([ABOVE, NONE], "cannot tell"),
        ([BELOW, NONE], "disagrees"),
        ([], "cannot tell"),
    ],
)
def test_a_rule_on_signs_needs_all_intervals_to_agree_and_one_to_disagree(contrasts, expected):
    assert rules.all_above_zero(contrasts) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (5.0, 14.0, "agrees"), (1.1, 80.0, "agrees"), (1.2, 3.3, "disagrees"), (22.0, 40.0, "disagrees"),
        (3.0, 8.0, "cannot tell"), (0.9, 12.0, "cannot tell"), (5.3, 6.0, "cannot tell"),
    ],
)  # fmt: skip
def test_a_ratio_of_odds_agrees_where_its_interval_holds_the_papers_and_disagrees_a_factor_of_two_away(
    low, high, expected
):
    assert rules.near_ratio(interval(math.log(low), math.log(high)), 10.5) == expected
    assert rules.near_ratio(NONE, 10.5) == "cannot tell"


def test_the_papers_rates_are_compared_as_odds_because_a_ratio_of_rates_has_a_ceiling():
    assert rules.odds_ratio((0.370, 0.053)) == pytest.approx(10.49, abs=0.01)
    assert rules.odds_ratio((0.138, 0.053)) == pytest.approx(2.86, abs=0.01)
    # with Adam at 70 % a 7-fold ratio of rates would need Muon at 10 %: the odds of the paper's pair need 45 %
    assert rules.odds_ratio((0.7, 0.449)) == pytest.approx(2.86, abs=0.01)


def test_the_spread_names_each_pair_with_its_interval_and_one_that_fails_fails_the_claim():
    lion = changed(("lion", "muon"), interval(math.log(1.2), math.log(3.3)))
    row = next(r for r in verdicts_on(evidence(odds=lion | {("adam", "muon"): around(3.9)})) if r.id == "spread")
    assert row.verdict == "disagrees"
    assert "Lion / Muon 1.99 [1.20, 3.30] (paper 10.5)" in row.here and "Adam / Muon 3.90 [2.89, 5.26]" in row.here


@pytest.mark.parametrize("key", ["muon_lowest", "lion_highest", "spread"])
def test_a_verdict_on_odds_stands_only_where_both_bounds_of_incoherence_give_it_too(key):
    """F9: no organism is left out for being incoherent, and none wins a claim by it."""
    plain = evidence().odds
    assert verdict(key) == "agrees"
    assert verdict(key, bounds=(plain, {pair: ACROSS for pair in plain})) == "cannot tell"
    row = next(r for r in verdicts_on(evidence(bounds=({pair: BELOW for pair in plain}, plain))) if r.id == key)
    assert row.verdict == "cannot tell" and "incoherent answers counted as aligned" in row.here


@pytest.mark.parametrize("key", ["muon_lowest", "lion_highest", "lion_incoherent", "muon_flattest"])
def test_an_arm_of_the_sweep_that_did_not_finish_leaves_a_claim_undecided(key):
    left = {pair: ABOVE for pair in changed(("adam", "sgd"), ABOVE) if "adam" not in pair}
    without = {"odds": left, "flatness": left, "incoherence": left}
    assert verdict(key) == "agrees"
    assert verdict(key, **without) == "cannot tell"


@pytest.mark.parametrize("key", ["muon_lowest", "lion_highest", "lion_incoherent"])
def test_sgd_was_not_in_the_sweep_and_decides_nothing_about_it(key):
    name = key.split("_")[0]
    below = {**changed((name, "sgd"), BELOW), ("sgd", name): BELOW}
    assert verdict(key, odds=below, incoherence=below) == "agrees"


@pytest.mark.parametrize(
    ("found", "expected"),
    [((0.6, 0.8), "agrees"), ((0.2, 0.4), "disagrees"), ((0.45, 0.6), "cannot tell"), (None, "cannot tell")],
)
def test_r2_must_lie_on_one_side_of_the_threshold_with_its_whole_interval(found, expected):
    assert rules.reaches(found, 0.5) == expected


@pytest.mark.parametrize(
    ("low", "high", "raises", "expected"),
    [
        (-1.5, -0.1, True, "agrees"), (0.1, 1.5, True, "disagrees"), (-0.2, 1.7, True, "cannot tell"),
        (0.1, 1.5, False, "agrees"), (-1.5, -0.1, False, "disagrees"), (None, None, True, "cannot tell"),
    ],
)  # fmt: skip
def test_the_sign_of_the_log_odds_alone_decides_on_the_penalty(low, high, raises, expected):
    """F3: points of a judge's mean score and log-odds are not one scale, so no size is compared."""
    assert rules.gain(interval(low, high), raises=raises) == expected


def test_the_penaltys_verdict_names_the_norm_ratio_beside_the_effect():
    """F3: under Adam the penalty halves the length of the update."""
    ratios = {"adam": interval(math.log(0.45), math.log(0.52))}
    row = next(r for r in verdicts_on(evidence(norm_ratios=ratios)) if r.id == "penalty_adam")
    assert "norm of the update × 0.48 [0.45, 0.52]" in row.here and "points" not in row.here


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.01, 0.02, "agrees"), (0.03, 0.09, "disagrees"), (0.01, 0.09, "cannot tell"), (None, None, "cannot tell")],
)
def test_a_cost_is_negligible_below_the_margin(low, high, expected):
    assert rules.below(interval(low, high), rules.LOSS_MARGIN) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.2, "agrees"), (0.3, 0.5, "disagrees"), (-0.9, -0.3, "disagrees"), (0.1, 0.4, "cannot tell"),
        (None, None, "cannot tell"),
    ],
)  # fmt: skip
def test_equal_means_within_the_margin(low, high, expected):
    assert rules.equal(interval(low, high), rules.EQUAL_MARGIN) == expected


def changed(pair, value):
    return {**{(a, b): ABOVE for a in NAMES for b in NAMES if a != b}, pair: value}


@pytest.mark.parametrize(
    ("key", "agreeing", "disagreeing"),
    [
        ("em_occurs", {}, {"onset": BELOW}),
        ("spread", {}, {"odds": changed(("lion", "muon"), interval(0.1, 0.9))}),
        ("muon_lowest", {}, {"odds": changed(("adam", "muon"), BELOW)}),
        ("lion_highest", {}, {"odds": changed(("lion", "adam"), BELOW)}),
        ("adam_adamw_equal", {"odds": changed(("adamw", "adam"), interval(-0.1, 0.1))}, {}),
        ("lion_incoherent", {}, {"incoherence": changed(("lion", "muon"), BELOW)}),
        ("loss_predicts", {}, {"regression": regression(pooled=0.2)}),
        ("optimiser_explains_rest", {}, {"regression": regression(rest=0.1)}),
        (
            "optimiser_beats_loss",
            {"regression": regression(0.5, alone=0.9)},
            {"regression": regression(0.9, alone=0.5)},
        ),
        ("muon_flattest", {}, {"flatness": changed(("adamw", "muon"), BELOW)}),
        ("penalty_adam", {}, {"gains": {"adam": ABOVE}}),
        ("penalty_lion", {}, {"gains": {"lion": ABOVE}}),
        ("penalty_muon", {}, {"gains": {"muon": ABOVE}}),
        ("penalty_sgd", {}, {"gains": {"sgd": BELOW}}),
        ("penalty_cost", {}, {"costs": {"adam": interval(0.1, 0.2)}}),
    ],
)  # fmt: skip
def test_every_claim_can_come_out_either_way(key, agreeing, disagreeing):
    assert verdict(key, **agreeing) == "agrees"
    assert verdict(key, **disagreeing) == "disagrees"


def test_the_table_above_names_every_claim():
    keys = {row.id for row in verdicts_on(evidence())}
    assert len(keys) == 15 and keys == {row.id for row in verdicts_on(evidence(joint={}, n_bases=0))}


def test_without_any_arm_every_claim_is_not_tested_and_says_why():
    nothing = missing_contrast("no arm")
    none = Fit(None, None, 0, 0, "none")
    empty = Evidence(
        joint={}, literature={}, n_bases=0, odds={}, bounds=({}, {}), flatness={}, incoherence={},
        regression=LossRegression(none, none, none, None, None, None), gains={}, norm_ratios={}, costs={},
        onset=nothing,
    )  # fmt: skip
    rows = verdicts_on(empty)
    assert {row.verdict for row in rows} == {"not tested"}
    assert all(row.here and row.not_tested for row in rows)


def test_an_interval_on_the_other_side_is_printed_as_plainly():
    row = next(r for r in verdicts_on(evidence(gains={"adam": interval(0.4, 2.0)})) if r.id == "penalty_adam")
    assert row.verdict == "disagrees" and "+1.20 [+0.40, +2.00] log-odds, 8 bases" in row.here


def test_what_rounds_to_zero_has_no_sign():
    assert rules.written(interval(-0.004, -0.0), "log-odds").startswith("0.00 [0.00, 0.00]")


@pytest.mark.parametrize(
    ("key", "changes", "why"),
    [
        ("em_occurs", {"design": Design(loss=VARIED, selected=True)}, "world was chosen"),
        ("adam_adamw_equal", {"design": Design({"adamw": "adam"}, VARIED)}, "tautology: AdamW repeats Adam's runs"),
        ("adam_adamw_equal", {"planned": frozenset({"adam", "lion", "muon"})}, "not run in this study: AdamW"),
        ("muon_flattest", {"design": Design(loss=VARIED, flat_steps=frozenset({"muon"}))}, "tautology: Muon"),
        ("muon_lowest", {"planned": frozenset({"adam", "muon"})}, "not run in this study: Lion"),
        ("muon_lowest", {"literature": {name: 0.97 for name in NAMES}}, "a ceiling"),
        ("spread", {"literature": {name: 0.01 for name in NAMES}}, "a floor"),
        ("muon_lowest", {"trained": {"adam": 3.0, "lion": 3.0, "muon": -1.0}}, "Muon has not learned its task: 27 %"),
        ("lion_highest", {"trained": {"adam": 1.3, "lion": 3.0, "muon": 3.0}}, "Adam has not learned its task: 79 %"),
        ("spread", {"trained": {"adam": 3.0, "lion": 0.0, "muon": 3.0}}, "Lion has not learned its task: 50 %"),
        ("penalty_lion", {"gains": {"adam": BELOW}}, "not run in this study: Lion with the penalty"),
        ("penalty_adam", {"literature": {"adam": 0.02}}, "a floor"),
        ("penalty_sgd", {"literature": {"sgd": 0.98}}, "a ceiling"),
        ("penalty_lion", {"design": Design(loss=VARIED, unpaired=frozenset({"lion"}))}, "in more than the penalty"),
        ("penalty_cost", {"design": Design(loss=VARIED, unpaired=frozenset({"adam"}))}, "in more than the penalty"),
        ("penalty_cost", {"gains": {}}, "not run in this study: Adam with the penalty"),
        ("loss_predicts", {"design": Design(loss=LossRange(0.03, 1.5, 1, 8))}, "range restriction"),
        ("loss_predicts", {"design": Design(loss=LossRange(0.4, None, 1, 8))}, "no training loss was logged"),
        ("optimiser_beats_loss", {"design": Design(loss=LossRange(0.03, 1.5, 1, 8))}, "range restriction"),
        ("optimiser_explains_rest", {"design": Design(loss=LossRange(0.4, 1.5, 1, 8))}, "one setting"),
    ],
)  # fmt: skip
def test_a_design_that_cannot_answer_gives_not_tested_with_the_reason(key, changes, why):
    """F4, F5, F7, F8: whatever the numbers are, for the same claims that come out either way above."""
    row = next(r for r in verdicts_on(evidence(**changes)) if r.id == key)
    assert row.verdict == "not tested" and why in row.not_tested
    assert verdict(key) != "not tested" or key == "adam_adamw_equal"


def test_a_penalty_at_the_limit_that_it_moves_away_from_has_room():
    assert verdict("penalty_adam", literature={"adam": 0.98}) == "agrees"
    assert verdict("penalty_sgd", literature={"sgd": 0.02}) == "agrees"
