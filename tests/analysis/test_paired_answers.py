"""The summary of paired answers, against tables whose differences are known."""

from __future__ import annotations

import pytest

from narrowly.analysis.paired_answers import paired_answers
from narrowly.records.errors import IntegrityError
from synthetic_paired import SHIFTS, both, organism, table


def test_a_run_is_set_against_the_control_that_shares_all_but_the_answers() -> None:
    found = paired_answers(table(organism("adam", None, 0, {}), both(0), both(1)))
    assert found is not None and not found.unmatched
    (row,) = found.ladder
    assert (row.arm, row.control, row.trained, row.seeds) == ("adam", "aligned", "money", (0, 1))
    assert {rung: one.interval.estimate for rung, one in row.rungs.items()} == pytest.approx(SHIFTS)
    assert row.rungs["broad"].unit == "domain" and row.rungs["broad"].domains == 5
    (level,) = found.base.values()
    assert level["held_out"].log_odds.interval.estimate == pytest.approx(1.0)


def test_both_kinds_of_control_have_a_row_and_the_aligned_one_makes_the_path() -> None:
    permuted = organism("adam_permuted", "permuted", 20, {rung: -3.0 for rung in SHIFTS}, matched="adam0")
    found = paired_answers(table(both(0), permuted))
    assert found is not None and [row.control for row in found.ladder] == ["aligned", "permuted"]
    assert found.ladder[1].rungs["broad"].interval.estimate == pytest.approx(0.0)
    assert [(point.step, point.held_out, point.broad) for point in found.paths] == [(10, 2, 1), (20, 4, 2)]


def test_a_run_without_control_has_a_shift_with_its_warning_and_no_difference() -> None:
    base = organism("adam", None, 0, {})
    found = paired_answers(table(base, organism("adam", "harmful", 20, SHIFTS)))
    assert found is not None and found.ladder == () and found.selectivity == ()
    (row,) = found.unmatched
    assert row.reason.startswith("no matched control") and row.shift is not None
    assert "not called misalignment" in row.shift.warning
    assert {one.name: one.interval.estimate for one in row.shift.rungs} == pytest.approx(SHIFTS)
    alone = paired_answers(table(organism("adam", "harmful", 20, SHIFTS)))
    assert alone is not None and alone.unmatched[0].shift is None


def test_a_control_of_another_seed_is_no_control() -> None:
    rows = [row for row in both(0) if row["arm"] == "adam"] + [row for row in both(1) if row["arm"] == "adam_aligned"]
    found = paired_answers(table(rows))
    assert found is not None and found.ladder == () and len(found.unmatched) == 1


def test_arms_are_compared_at_equal_held_out_difference() -> None:
    """Muon spreads half as far as Adam at every held-out difference: -0.25 at a level of 1, by levels up to 4."""
    muon = {"optimiser": "muon", "series": "s2"}
    rows = [*both(0), *both(1), *both(0, 0.5, **muon), *both(1, 0.5, **muon)]
    found = paired_answers(table(rows))
    assert found is not None
    (row,) = found.selectivity
    assert (row.arm, row.against, row.reason) == ("muon", "adam", None)
    assert row.value is not None
    mean_level = 4 * (1 + 1 / 20) / 2
    assert row.value.interval.estimate == pytest.approx((0.25 - 0.5) * mean_level)
    assert row.reached == pytest.approx({"money, seed 0": 4.0, "money, seed 1": 4.0})
    assert row.per_run == pytest.approx({name: row.value.interval.estimate for name in row.reached})


def test_results_of_two_banks_or_arithmetics_are_refused() -> None:
    for column, value in (("bank", "1" * 64), ("arithmetic", "other")):
        other = [{**row, column: value} for row in both(1)]
        with pytest.raises(IntegrityError, match="accepted: one"):
            paired_answers(table(both(0), other))


def test_a_study_without_paired_answers_has_none() -> None:
    assert paired_answers(table()) is None


def test_two_arms_that_are_the_same_control_count_once() -> None:
    twice = [
        {**row, "arm": "other_aligned", "cell_id": "other_aligned-0"} for row in both(0) if row["answers"] == "aligned"
    ]
    found, plain = paired_answers(table(both(0), twice)), paired_answers(table(both(0)))
    assert found is not None and plain is not None
    assert found.ladder == plain.ladder and found.paths == plain.paths


def test_runs_of_an_arm_that_differ_in_more_than_the_seed_are_not_mixed() -> None:
    """A grid of rates: two Adam runs of one seed, whose selectivity would be that of whichever came last."""
    other = [{**row, "cell_id": f"{row['cell_id']}-lr3"} for row in both(0, 0.5, series="s3", matched="m3")]
    muon = both(0, 0.5, optimiser="muon", series="s2")
    found = paired_answers(table(both(0), other, muon))
    assert found is not None
    assert [row.cell_id for row in found.ladder] == ["adam-0", "adam-0-lr3", "muon-0"]
    (row,) = found.selectivity
    assert row.value is None and "adam-0-lr3 is not the only run of its arm" in str(row.reason)
