import numpy as np
import polars as pl
import pytest

from narrowly.analysis.contrasts import missing_contrast, paired_contrast
from narrowly.records.errors import UnknownNameError
from narrowly.stats.intervals import t_interval


def organisms(values, incoherent=None, seeds=1, domain=None):
    """One row per (arm, base, seed); `values` maps arm -> list over bases (or list of lists over seeds)."""
    rows = []
    for arm, per_base in values.items():
        for base, value in enumerate(per_base):
            for seed in range(seeds):
                rows.append(
                    {
                        "cell_id": f"{arm}-{base}-{seed}",
                        "arm": arm,
                        "base": f"b{base}",
                        "domain": base if domain is None else domain,
                        "seed": seed,
                        "incoherent": (incoherent or {}).get((arm, base, seed), 0.05),
                        "pooled": float(value[seed] if isinstance(value, list) else value),
                    }
                )
    return pl.DataFrame(rows)


def test_contrast_is_the_t_interval_of_the_differences_over_bases():
    a, b = [1.0, 2.0, 3.0, 4.0, 6.0], [0.5, 1.0, 2.5, 3.0, 4.0]
    found = paired_contrast(organisms({"adam": a, "muon": b}), "adam", "muon")
    expected = t_interval([x - y for x, y in zip(a, b, strict=True)])
    assert (found.estimate, found.low, found.high) == pytest.approx((expected.estimate, expected.low, expected.high))
    assert found.n_bases == 5 and found.reason is None and found.excluded == ()


def test_seeds_are_averaged_within_a_base_first_so_that_the_unit_is_the_base():
    a = [[1.0, 3.0], [2.0, 2.0], [5.0, 1.0], [0.0, 4.0], [4.0, 2.0]]
    b = [[0.0, 0.0]] * 5
    found = paired_contrast(organisms({"adam": a, "muon": b}, seeds=2), "adam", "muon")
    expected = t_interval([2.0, 2.0, 3.0, 2.0, 3.0])
    assert found.n_bases == 5
    assert (found.estimate, found.low) == pytest.approx((expected.estimate, expected.low))


def test_a_base_effect_shared_by_both_arms_changes_nothing():
    rng = np.random.default_rng(0)
    a, b, shift = rng.normal(1, 0.2, 6), rng.normal(0, 0.2, 6), rng.normal(0, 50, 6)
    plain = paired_contrast(organisms({"adam": a, "muon": b}), "adam", "muon")
    moved = paired_contrast(organisms({"adam": a + shift, "muon": b + shift}), "adam", "muon")
    assert (plain.estimate, plain.low, plain.high) == pytest.approx((moved.estimate, moved.low, moved.high))


def test_swapping_the_arms_flips_the_sign():
    frame = organisms({"adam": [1, 2, 3, 4, 5], "muon": [0, 1, 5, 2, 2]})
    there, back = paired_contrast(frame, "adam", "muon"), paired_contrast(frame, "muon", "adam")
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def test_cells_above_fifteen_percent_incoherent_are_left_out_with_their_partner_and_listed():
    values = {"adam": [1, 1, 1, 1, 1, 9], "muon": [0, 0, 0, 0, 0, 0]}
    found = paired_contrast(organisms(values, {("muon", 5, 0): 0.151}), "adam", "muon", incoherent_limit=0.15)
    assert found.estimate == 1 and found.n_bases == 5
    listed = {row.cell_id: row.why for row in found.excluded}
    assert set(listed) == {"muon-5-0", "adam-5-0"}
    assert "15 % incoherent" in listed["muon-5-0"]
    assert "partner" in listed["adam-5-0"] or "incoherent" in listed["adam-5-0"]


def test_exactly_fifteen_percent_stays_in():
    values = {"adam": [1, 1, 1, 1, 1], "muon": [0, 0, 0, 0, 0]}
    frame = organisms(values, {("muon", 0, 0): 0.15})
    assert paired_contrast(frame, "adam", "muon", incoherent_limit=0.15).n_bases == 5


def test_a_flag_on_one_seed_leaves_out_that_seed_in_both_arms_only():
    a, b = [[1.0, 9.0]] + [[1.0, 1.0]] * 4, [[0.0, 0.0]] * 5
    frame = organisms({"adam": a, "muon": b}, {("adam", 0, 1): 0.5}, seeds=2)
    found = paired_contrast(frame, "adam", "muon", incoherent_limit=0.15)
    assert found.estimate == 1 and found.n_bases == 5


def test_without_a_limit_flagged_cells_stay_in():
    values = {"adam": [1, 1, 1, 1, 6], "muon": [0, 0, 0, 0, 0]}
    frame = organisms(values, {("adam", 4, 0): 0.9})
    assert paired_contrast(frame, "adam", "muon").estimate == 2, "F9: no exclusion by an outcome unless asked for"


def test_fewer_than_five_bases_give_an_estimate_without_interval():
    found = paired_contrast(organisms({"adam": [1, 2, 3, 4], "muon": [0, 0, 0, 0]}), "adam", "muon")
    assert found.estimate == 2.5 and found.low is None and found.high is None and "5" in found.reason


def test_exclusions_that_leave_fewer_than_five_bases_remove_the_interval():
    frame = organisms({"adam": [1] * 5, "muon": [0] * 5}, {("adam", 0, 0): 0.3})
    found = paired_contrast(frame, "adam", "muon", incoherent_limit=0.15)
    assert found.n_bases == 4 and found.low is None


def test_all_cells_flagged_gives_null_with_reason():
    frame = organisms({"adam": [1] * 5, "muon": [0] * 5}, {("muon", b, 0): 0.3 for b in range(5)})
    found = paired_contrast(frame, "adam", "muon", incoherent_limit=0.15)
    assert found.estimate is None and found.reason and len(found.excluded) == 10


def test_a_missing_arm_is_null_with_the_arm_named():
    found = paired_contrast(organisms({"adam": [1, 2]}), "adam", "lion")
    assert found.estimate is None and "'lion'" in found.reason
    assert missing_contrast("why").estimate is None


def test_an_organism_without_partner_is_listed():
    frame = organisms({"adam": [1] * 6, "muon": [0] * 6}).filter(pl.col("cell_id") != "muon-2-0")
    found = paired_contrast(frame, "adam", "muon")
    assert found.n_bases == 5 and [row.cell_id for row in found.excluded] == ["adam-2-0"]


def test_an_organism_without_value_is_listed_and_no_nan_comes_out():
    frame = organisms({"adam": [1, 1, 1, 1, 1, float("nan")], "muon": [0] * 6})
    found = paired_contrast(frame, "adam", "muon")
    assert found.estimate == 1 and found.excluded[0].why == "no pooled log-odds measured"


def test_pairing_on_the_domain_alone_compares_bases_with_a_twin_of_another_base():
    persona = organisms({"adam": [3, 4, 5, 6, 7]})
    twin = organisms({"twin": [1, 1, 1, 2, 2]}).with_columns(pl.lit("nopersona").alias("base"))
    found = paired_contrast(pl.concat([persona, twin]), "adam", "twin", pair_on=("domain",))
    assert found.n_bases == 5 and found.estimate == pytest.approx(np.mean([2, 3, 4, 4, 5]))


def test_a_frame_without_a_column_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="incoherent"):
        paired_contrast(organisms({"adam": [1]}).drop("incoherent"), "adam", "muon")


def test_the_interval_of_the_contrast_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(3)
    trials, bases, truth = 300, 8, 0.7
    covered = 0
    for _ in range(trials):
        effect = rng.normal(0, 1, bases)
        frame = organisms(
            {
                "adam": (effect + truth + rng.normal(0, 0.4, bases)).tolist(),
                "muon": (effect + rng.normal(0, 0.4, bases)).tolist(),
            }
        )
        found = paired_contrast(frame, "adam", "muon")
        covered += found.low <= truth <= found.high
    # The standard error at 300 trials is 1.3 %; a percentile bootstrap over eight bases would cover 88 %.
    assert 0.91 <= covered / trials <= 0.985
