import polars as pl
import pytest

from narrowly.analysis import claim_rules as rules
from narrowly.analysis.contrasts import Contrast, missing_contrast
from narrowly.analysis.evidence import Evidence, Spread, literature_spread
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

    return LossRegression(
        made(pooled), made(0.94), made(alone), -1.0, 0.0, rest, None if rest is None else (rest - width, rest + width)
    )


def evidence(**changes):
    pairs = {(a, b): ABOVE for a in NAMES for b in NAMES if a != b}
    base = Evidence(
        joint={"sgd": 0.138, "adam": 0.138, "adamw": 0.139, "lion": 0.37, "muon": 0.053},
        literature={name: 0.2 for name in NAMES},
        spread=Spread(7.0, (6.0, 9.0), 8),
        n_bases=8,
        odds=pairs,
        flatness=pairs,
        incoherence=pairs,
        regression=regression(),
        gains={},
        costs={},
        onset=ABOVE,
    )
    return base._replace(**changes)


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
    ("ratio", "span", "n", "expected"),
    [
        (7.0, (6, 8), 8, "agrees"), (4.0, (3.5, 14.0), 5, "agrees"), (3.0, (2.9, 3.4), 8, "disagrees"),
        (16.0, (15, 19), 8, "disagrees"), (3.6, (3.0, 4.0), 8, "cannot tell"), (14.0, (3.0, 15), 8, "cannot tell"),
        (7.0, (6, 8), 4, "cannot tell"), (7.0, None, 8, "cannot tell"), (None, None, 8, "cannot tell"),
    ],
)  # fmt: skip
def test_the_spread_agrees_within_a_factor_of_two_whichever_base_is_left_out(ratio, span, n, expected):
    assert rules.near_spread(Spread(ratio, span, n)) == expected


def by_base(rates):
    rows = [
        {"arm": arm, "base": f"b{i}", "literature": rate, "joint": rate / 2}
        for arm, values in rates.items()
        for i, rate in enumerate(values)
        if rate is not None
    ]
    return pl.DataFrame(rows)


def test_the_spread_is_of_the_literature_rate_of_the_four_over_the_bases_that_have_them_all():
    rates = {
        "adam": [0.2, 0.2, 0.9],
        "adamw": [0.2] * 3,
        "lion": [0.4, 0.6, None],
        "muon": [0.1] * 3,
        "sgd": [0.01] * 3,
    }
    found = literature_spread(by_base(rates))
    assert found.ratio == pytest.approx(5.0) and found.n_bases == 2
    assert found.span == pytest.approx((4.0, 6.0))


def test_a_spread_without_one_of_the_four_is_none_and_names_it():
    found = literature_spread(by_base({"adam": [0.2], "adamw": [0.2], "muon": [0.1], "sgd": [0.1]}))
    assert found.ratio is None and "lion" in (found.reason or "")


@pytest.mark.parametrize("key", ["muon_lowest", "lion_highest", "lion_incoherent", "muon_flattest"])
def test_an_arm_of_the_sweep_that_did_not_finish_leaves_a_claim_undecided(key):
    left = {pair: ABOVE for pair in changed(("adam", "sgd"), ABOVE) if "adamw" not in pair}
    without = {"odds": left, "flatness": left, "incoherence": left}
    assert verdict(key) == "agrees"
    assert verdict(key, **without) == "cannot tell"


@pytest.mark.parametrize("key", ["muon_lowest", "lion_highest", "lion_incoherent"])
def test_sgd_was_not_in_the_sweep_and_decides_nothing_about_it(key):
    name = key.split("_")[0]
    below = {**changed((name, "sgd"), BELOW), ("sgd", name): BELOW}
    assert verdict(key, odds=below, incoherence=below) == "agrees"


@pytest.mark.parametrize(
    ("value", "span", "expected"),
    [
        (0.7, (0.6, 0.8), "agrees"), (0.3, (0.2, 0.4), "disagrees"), (0.55, (0.45, 0.6), "cannot tell"),
        (0.7, None, "cannot tell"), (None, None, "cannot tell"),
    ],
)  # fmt: skip
def test_r2_must_stay_on_one_side_whichever_base_is_left_out(value, span, expected):
    assert rules.reaches(value, span, 0.5) == expected


@pytest.mark.parametrize(
    ("low", "high", "paper", "expected"),
    [
        (1, 9, 6.6, "agrees"), (0.1, 1, 6.6, "agrees"), (-1, 3, 6.6, "disagrees"), (-9, -1, 6.6, "disagrees"),
        (-1, 9, 6.6, "cannot tell"), (-9, -1, -3.5, "agrees"), (1, 9, -3.5, "disagrees"), (-1, 1, -3.5, "disagrees"),
        (-9, 1, -3.5, "cannot tell"), (None, None, 6.6, "cannot tell"),
    ],
)  # fmt: skip
def test_a_gain_agrees_by_sign_and_disagrees_when_half_of_it_is_excluded(low, high, paper, expected):
    assert rules.gain(interval(low, high), paper) == expected


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
        ("spread", {}, {"spread": Spread(2.0, (1.8, 2.2), 8)}),
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
        ("penalty_adam", {"gains": {"adam": interval(1, 9)}}, {"gains": {"adam": interval(-2, 2)}}),
        ("penalty_lion", {"gains": {"lion": interval(1, 9)}}, {"gains": {"lion": interval(-2, 2)}}),
        ("penalty_muon", {"gains": {"muon": interval(1, 9)}}, {"gains": {"muon": interval(-2, 0.5)}}),
        ("penalty_sgd", {"gains": {"sgd": interval(-9, -1)}}, {"gains": {"sgd": interval(-1, 2)}}),
        ("penalty_cost", {"costs": {"adam": interval(0, 0.01)}}, {"costs": {"adam": interval(0.1, 0.2)}}),
    ],
)  # fmt: skip
def test_every_claim_can_come_out_either_way(key, agreeing, disagreeing):
    assert verdict(key, **agreeing) == "agrees"
    assert verdict(key, **disagreeing) == "disagrees"


def test_the_table_above_names_every_claim():
    keys = {row.id for row in verdicts_on(evidence())}
    assert len(keys) == 15 and keys == {row.id for row in verdicts_on(evidence(joint={}, n_bases=0))}


def test_without_any_arm_no_claim_is_decided():
    nothing = missing_contrast("no arm")
    none = Fit(None, None, 0, 0, "none")
    empty = Evidence(
        {},
        {},
        Spread(None, None, 0),
        0,
        {},
        {},
        {},
        LossRegression(none, none, none, None, None, None, None),
        {},
        {},
        nothing,
    )
    rows = verdicts_on(empty)
    assert {row.verdict for row in rows} == {"cannot tell"}
    assert all(row.here for row in rows)


def test_an_interval_on_the_other_side_is_printed_as_plainly():
    row = next(r for r in verdicts_on(evidence(gains={"adam": interval(-9, -1)})) if r.id == "penalty_adam")
    assert row.verdict == "disagrees" and "−5.0 [−9.0, −1.0] points, 8 bases" in row.here
