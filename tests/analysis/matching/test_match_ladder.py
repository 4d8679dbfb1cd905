"""Arms at equal held-out misalignment: planted differences, ranges that do not meet, what must change nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.analysis.matching.compare import match_ladder
from narrowly.analysis.matching.contrast import bases_needed
from narrowly.records.errors import SpecError, UnknownNameError
from shared.ladders import bases, ladder, rows

NAMES = bases(16)
NOISE = np.random.default_rng(12).normal(0, 0.4, 16)


def straight(x: np.ndarray) -> np.ndarray:
    return 0.9 * x - 0.3


def planted(x: np.ndarray) -> np.ndarray:
    return straight(x) + 0.7


ADAM = ladder("adam", NAMES, (-1, 3), straight)
MUON = ladder("muon", NAMES, (-4, 0), planted)
LONGER = MUON.with_columns(pl.col("lr") * 1.1, step=pl.lit(320, pl.Int64), cell_id=pl.col("cell_id") + "o")


def test_a_planted_difference_is_found_where_the_ranges_differ() -> None:
    """Muon stays far below Adam on held-out topics; at equal ones it is .7 above, which raw means turn round."""
    adam, muon = ladder("adam", NAMES, (-1, 3), straight), ladder("muon", NAMES, (-4, 0), planted, spread=NOISE)
    assert muon["broad_pooled"].mean() < adam["broad_pooled"].mean() - 1
    found = match_ladder(muon, adam)
    assert found.primary.interval.estimate == pytest.approx(0.7 + NOISE.mean())
    assert found.primary.compared == found.primary.bases == 16
    assert {line.support for line in found.primary.lines} == {(-1.0, 0.0)}
    assert found.primary.verdict == "EFFECT"
    assert found.primary.interval.low < 0.7 < found.primary.interval.high


def test_equal_lines_are_equivalent_within_the_margin() -> None:
    adam, muon = ladder("adam", NAMES, (-1, 3), straight), ladder("muon", NAMES, (-4, 0), straight, spread=NOISE)
    found = match_ladder(muon, adam)
    assert found.margin == 0.35
    assert found.primary.verdict == "EQUIVALENT"
    assert found.primary.p_equivalence < 0.05 < found.primary.p_effect


def test_ranges_that_do_not_meet_are_not_comparable_and_both_are_listed() -> None:
    found = match_ladder(ladder("muon", NAMES, (-4, -2), planted), ladder("adam", NAMES, (-1, 3), straight))
    assert found.primary.verdict == "not tested"
    assert "not comparable" in str(found.primary.reason)
    assert found.primary.interval.estimate is None
    assert found.primary.bootstrap is None
    assert [(line.first_range, line.second_range) for line in found.primary.without_support] == [
        ((-4, -2), (-1, 3))
    ] * 16


@pytest.mark.parametrize(("meeting", "tested"), [(9, False), (10, True)])
def test_fewer_than_ten_of_sixteen_bases_with_a_support_are_not_tested(meeting: int, tested: bool) -> None:
    near = ladder("muon", NAMES[:meeting], (-4, 0), planted, spread=NOISE[:meeting])
    far = ladder("muon", NAMES[meeting:], (-9, -5), planted)
    found = match_ladder(pl.concat([near, far]), ladder("adam", NAMES, (-1, 3), straight)).primary
    assert (found.verdict != "not tested") is tested
    assert (found.interval.low is not None) is tested
    assert found.compared == meeting
    assert len(found.without_support) == 16 - meeting


@pytest.mark.parametrize("lost", [6, 7])
def test_bases_of_which_nothing_finite_was_measured_count_among_the_sixteen(lost: int) -> None:
    muon = ladder("muon", NAMES, (-4, 0), planted, spread=NOISE)
    gone = pl.col("base").is_in(NAMES[:lost])
    muon = muon.with_columns(held_out_pooled=pl.when(gone).then(float("nan")).otherwise("held_out_pooled"))
    found = match_ladder(muon, ladder("adam", NAMES, (-1, 3), straight))
    assert (found.primary.compared, found.primary.bases) == (16 - lost, 16)
    assert (found.primary.verdict == "not tested") == (lost == 7)
    assert {line.reason for line in found.primary.without_support} == {"nothing measured of one set"}
    assert found.left_out == ()


def test_ten_of_sixteen_is_the_share_that_is_asked_of_any_number() -> None:
    assert [bases_needed(count) for count in (16, 8, 5, 3, 2)] == [10, 5, 4, 2, 2]


def test_three_bases_have_an_estimate_and_no_interval() -> None:
    names = NAMES[:3]
    found = match_ladder(ladder("a", names, (0, 2), planted, spread=NOISE[:3]), ladder("b", names, (0, 2), straight))
    assert found.primary.interval.estimate == pytest.approx(0.7 + NOISE[:3].mean())
    assert found.primary.interval.low is None
    assert found.primary.verdict == "INDETERMINATE"
    assert "at least 5" in str(found.primary.reason)


def turning(base: str, arm: str, after: float) -> list[dict[str, object]]:
    """Return an arm that rises from 0 to 3 and falls to 1; after the turn its broad value is `after` above held-out."""
    held_out = [0, 2, 3, 2, 1]
    return rows(arm, base, held_out, [0, 2, 3, 2 + after, 1 + after])


def test_branches_before_and_after_a_turn_are_matched_apart() -> None:
    adam = pl.DataFrame(
        [row for base, extra in zip(NAMES, NOISE, strict=True) for row in turning(base, "adam", -2 + extra)]
    )
    muon = ladder("muon", NAMES, (0, 3), lambda x: x - 1, spread=NOISE)
    found = match_ladder(muon, adam)
    assert [(one.first_branch, one.second_branch) for one in (found.primary, *found.others)] == [
        ("rising", "rising"),
        ("rising", "falling"),
    ]
    assert found.primary.interval.estimate == pytest.approx(-1 + NOISE.mean())
    assert found.primary.lines[0].second_range == (0, 3)
    assert found.others[0].lines[0].second_range == (1, 3)
    # Falling from (3, 3) to (2, .) to (1, .): at level 2 two below, at 3 level; mean over 1 to 3 is -(2 + 1) / 2.
    assert found.others[0].interval.estimate == pytest.approx(-1 + 1.5 + NOISE.mean() - NOISE.mean() * 0.75)


def test_a_loss_is_passed_as_training_lowers_it() -> None:
    """Losses 2 to 1/16 and 2 to 1/16 fall with the rate: that is the rising branch, and no other."""
    found = match_ladder(
        ladder("a", NAMES, (0, 3), planted, spread=NOISE), ladder("b", NAMES, (0, 3), straight), at="trained-loss"
    )
    assert found.others == ()
    assert found.primary.lines[0].support == pytest.approx((1 / 16, 2))
    assert found.primary.interval.estimate == pytest.approx(0.7 + NOISE.mean())


def test_norms_are_matched_on_their_logarithm_and_printed_as_they_are() -> None:
    first, second = ladder("a", NAMES, (0, 5), lambda x: x, spread=NOISE), ladder("b", NAMES, (0, 5), lambda x: 0 * x)
    found = match_ladder(first, second, at="norm")
    assert found.primary.lines[0].support == pytest.approx((1, 32**0.5))
    assert found.primary.interval.estimate == pytest.approx(2.5 + NOISE.mean())


def test_an_arm_with_one_rate_is_compared_at_its_own_level() -> None:
    one = pl.DataFrame(
        [row for base, more in zip(NAMES, NOISE, strict=True) for row in rows("one", base, [1.5], [4 + more])]
    )
    found = match_ladder(one, ladder("many", NAMES, (0, 3), straight)).primary
    assert found.lines[0].support == (1.5, 1.5)
    assert found.interval.estimate == pytest.approx(4 - straight(1.5) + NOISE.mean())


def test_only_levels_in_the_window_count_and_a_base_outside_of_it_has_no_support() -> None:
    """One line is twice as steep as the other, so that they differ by the level itself."""
    first = ladder("a", NAMES, (-4, 4), lambda x: 2 * x, spread=NOISE)
    second = ladder("b", NAMES, (-4, 4), lambda x: x)
    found = match_ladder(first, second, between=(1, 3)).primary
    assert found.interval.estimate == pytest.approx(2 + NOISE.mean())
    assert found.lines[0].support == (1, 3)
    assert match_ladder(first, second, between=(5, 9)).primary.compared == 0
    norms = match_ladder(first, second, at="norm", between=(2, 4)).primary
    assert norms.lines[0].support == pytest.approx((2, 4))
    losses = match_ladder(first, second, at="trained_loss", between=(0.5, 1)).primary
    assert losses.lines[0].support == pytest.approx((0.5, 1))


@pytest.mark.parametrize(("at", "between"), [("held_out", (3, 1)), ("norm", (0, 1))])
def test_a_window_that_is_none_is_refused(at: str, between: tuple[float, float]) -> None:
    with pytest.raises(SpecError, match="accepted: a lower and a higher number"):
        match_ladder(MUON, ADAM, at=at, between=between)


def test_ordered_by_what_is_matched_on_no_curve_turns_back() -> None:
    """Edits have no dial in common with rates: every organism is a point at its own norm."""
    rates = ladder("a", NAMES, (0, 5), lambda x: x, spread=NOISE)
    edits = rates.with_columns(
        edit=pl.lit("scale-0.5"), update_norm=pl.col("update_norm") / 2, broad_pooled=pl.col("broad_pooled") - 2
    )
    found = match_ladder(pl.concat([rates, edits]), ladder("b", NAMES, (0, 5), lambda x: 0 * x), at="norm", dial="at")
    assert found.others == ()
    assert found.primary.lines[0].first_range == pytest.approx((0.5, 32**0.5))
    assert all(point.rising and not point.falling for point in found.points)


spans = st.tuples(st.integers(-8, 8), st.integers(-8, 8)).map(lambda ends: (ends[0] / 2, ends[1] / 2 + 0.25))


@settings(max_examples=15, deadline=None)
@given(spans, spans)
def test_exchanging_the_sets_negates_everything(one, other) -> None:
    first, second = ladder("a", NAMES[:6], one, planted, spread=NOISE[:6]), ladder("b", NAMES[:6], other, np.tanh)
    there, back = match_ladder(first, second).primary, match_ladder(second, first).primary
    assert (there.verdict, there.compared) == (back.verdict, back.compared)
    assert there.per_base == pytest.approx({base: -value for base, value in back.per_base.items()})
    if there.bootstrap is not None and there.bootstrap.low is not None:
        assert (there.interval.low, there.bootstrap.low) == pytest.approx((-back.interval.high, -back.bootstrap.high))


def test_a_rate_that_was_run_twice_changes_nothing() -> None:
    first, second = ladder("a", NAMES, (0, 2), planted, spread=NOISE), ladder("b", NAMES, (1, 3), straight)
    again = pl.concat([first, first.filter(pl.col("lr") == 4.0).with_columns(cell_id=pl.col("cell_id") + "-again")])
    assert match_ladder(again, second).primary == match_ladder(first, second).primary


@settings(max_examples=10, deadline=None)
@given(st.floats(0.2, 3), st.floats(1e-4, 1e3))
def test_only_the_order_of_the_dial_counts(power: float, factor: float) -> None:
    adam = pl.DataFrame([row for base, extra in zip(NAMES, NOISE, strict=True) for row in turning(base, "adam", extra)])
    muon = ladder("muon", NAMES, (0, 3), straight)
    other = adam.with_columns((factor * pl.col("lr") ** power).alias("lr"))
    there, relabelled = match_ladder(adam, muon), match_ladder(other, muon)
    assert (there.primary, there.others) == (relabelled.primary, relabelled.others)


@pytest.mark.parametrize(
    ("first", "second", "more", "said"),
    [
        (MUON.clear(), ADAM, {}, "no finished organism"),
        (ADAM, ADAM, {}, "share 96 organisms"),
        (MUON.with_columns(held_out_pooled=pl.lit(None, pl.Float64)), ADAM, {}, "has misalignment on held-out topics"),
        (MUON.with_columns(base=pl.col("base") + "x"), ADAM, {}, "no base in common: muon has micro-08x, .* adam has"),
        (MUON.with_columns(seed=pl.lit(1)), ADAM, {}, "no domain and seed of a base in common"),
        (MUON.filter(pl.col("base") == "micro-08"), ADAM, {}, "one base only .micro-08."),
        (MUON, ADAM, {"margin": 0}, "margin is 0; accepted"),
        (MUON, ADAM, {"at": "held-outs"}, "unknown matching variable 'held-outs'; did you mean 'held-out'"),
        (MUON, ADAM, {"of": "board"}, "unknown outcome 'board'; did you mean 'broad'"),
        (MUON, ADAM, {"of": "held-out"}, "held-out would be compared at equal held_out;"),
        (pl.concat([MUON, MUON.with_columns(pl.lit("other").alias("arm"), cell_id=pl.col("cell_id") + "o")]), ADAM, {},
         "at lr 1 differ in arm .muon, other."),
        (pl.concat([MUON, LONGER]), ADAM, {}, "organisms of steps 80, 320 on one curve of lr"),
        (MUON, ADAM, {"at": "step"}, "curves over lr have no levels of the step; accepted: the dial step"),
        (MUON, ADAM, {"over": "seed"}, "16 bases with --over seed"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_one_line(first, second, more, said) -> None:
    with pytest.raises((SpecError, UnknownNameError), match=said) as caught:
        match_ladder(first, second, **more)
    assert "\n" not in str(caught.value)
