"""Preregistered rules on planted data: each word where it belongs, windows, supports, conclusions, secondary tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from narrowly.analysis.contrast_values import differences
from narrowly.analysis.decisions import Evidence, decide, decide_all
from narrowly.records.errors import SpecError
from narrowly.records.prereg import Finding, Prereg, PrimaryContrast

BASES = [f"micro-{seed}" for seed in range(8, 24)]
HELD_OUT = np.array([-3.0, -2.0, -1.0, 0.0, 1.0])


def rows(arm: str, base: str, held_out: Any, broad: Any, **columns: Any) -> list[dict[str, Any]]:
    """Return the organisms of one arm in one base: a curve over rates 1, 2, 3 ..."""
    return [
        {
            "cell_id": f"{arm}-{base}-{lr}", "arm": arm, "base": base, "domain": 0, "seed": 0, "step": 80,
            "final": True, "edit": "none", "lr": float(lr), "held_out_pooled": float(x), "broad_pooled": float(y),
            "update_norm": 5.0 * lr, "excess_trained": 1.0 / lr, "broad_misaligned": 0.4, "broad_aligned": 0.4,
            "trained_misaligned": 0.95, **columns,
        }
        for lr, (x, y) in enumerate(zip(held_out, broad, strict=True), start=1)
    ]  # fmt: skip


def ladder(shift: float, spread: float = 0.2, bases: list[str] = BASES, start: int = 0) -> pl.DataFrame:
    """Return Adam on the line broad = held-out, and Muon `shift` above it, give or take; Muon from `start` on."""
    values = np.random.default_rng(4).standard_normal(len(bases))
    values = shift + spread * (values - values.mean()) / values.std(ddof=1)
    found = []
    for base, value in zip(bases, values, strict=True):
        found += rows("adam", base, HELD_OUT, HELD_OUT)
        found += rows("muon", base, HELD_OUT[:4] + start, HELD_OUT[:4] + start + value)
    return pl.DataFrame(found)


def contrast(**fields: Any) -> dict[str, Any]:
    return {"first": ["muon"], "second": ["adam"], "match": "held_out", **fields}


def finding(rule: dict[str, Any], **fields: Any) -> Finding:
    plain = {"id": "f", "question": "?", "estimand": "e", "decision": "d", "min_bases": 10, "contrast": contrast()}
    return Finding(**{**plain, **fields, "rule": rule})


EQUIVALENCE = {"kind": "equivalence", "margin": 0.35}


@pytest.mark.parametrize(
    ("shift", "spread", "rule", "word", "effect"),
    [
        (0.0, 0.2, EQUIVALENCE, "established", "EQUIVALENT"),
        (0.12, 0.2, EQUIVALENCE, "established", "TRIVIAL"),
        (0.9, 0.2, EQUIVALENCE, "refuted", "EFFECT"),
        (0.1, 1.2, EQUIVALENCE, "open", "INDETERMINATE"),
        (0.9, 0.2, {"kind": "difference", "margin": 0.35, "sign": "above"}, "established", "EFFECT"),
        (0.9, 0.2, {"kind": "difference", "margin": 0.35, "sign": "either"}, "established", "EFFECT"),
        (-0.9, 0.2, {"kind": "difference", "margin": 0.35, "sign": "above"}, "refuted", "EFFECT"),
        (-0.9, 0.2, {"kind": "difference", "margin": 0.35, "sign": "below"}, "established", "EFFECT"),
        (0.12, 0.2, {"kind": "difference", "margin": 0.35, "sign": "above"}, "refuted", "TRIVIAL"),
        (0.1, 1.2, {"kind": "difference", "margin": 0.35, "sign": "above"}, "open", "INDETERMINATE"),
    ],
)
def test_a_rule_with_a_margin_gives_each_word_where_it_belongs(shift, spread, rule, word, effect) -> None:
    found = decide(finding(rule), Evidence(ladder(shift, spread)))
    assert (found.word, found.effect) == (word, effect)
    assert found.estimate == pytest.approx(shift, abs=1e-9)
    assert found.bases == found.of_bases == 16
    assert (found.reason is None) == (word in ("established", "refuted"))


def test_with_too_few_bases_in_common_support_a_finding_is_not_tested_and_has_no_interval() -> None:
    near, far = ladder(0.0, bases=BASES[:9]), ladder(0.0, bases=BASES[9:], start=9)
    found = decide(finding(EQUIVALENCE), Evidence(pl.concat([near, far])))
    assert (found.word, found.effect, found.low, found.bases, found.of_bases) == ("not tested", None, None, 9, 16)
    assert found.reason == "9 of 16 bases in common support, 10 needed"
    assert found.without["micro-23"] == "no level in common: 6 to 9 and -3 to 1"


def test_a_base_where_nothing_finite_was_measured_counts_as_one_without_a_difference() -> None:
    whole = ladder(0.0)
    broken = (pl.col("base") == "micro-9") & (pl.col("arm") == "muon")
    frame = whole.with_columns(
        pl.when(broken).then(float("nan")).otherwise(pl.col(name)).alias(name)
        for name in ("held_out_pooled", "broad_pooled")
    )
    for match in ("held_out", "none"):
        found = decide(finding(EQUIVALENCE, contrast=contrast(match=match)), Evidence(frame))
        assert (found.bases, found.of_bases) == (15, 16)
        assert found.without == {"micro-9": "nothing measured of the first set"}
        assert found.estimate is not None and np.isfinite(found.estimate)


def test_domains_and_seeds_of_a_base_are_compared_each_with_itself() -> None:
    """Muon lies .5 above Adam in both domains; the second domain lies 2 above the first in both arms."""
    found = []
    for base in BASES:
        for domain, height in ((0, 0.0), (1, 2.0)):
            found += rows("adam", base, HELD_OUT, HELD_OUT + height, domain=domain)
            levels = HELD_OUT if domain == 0 else HELD_OUT[:2]
            found += rows("muon", base, levels, levels + height + 0.5, domain=domain)
    frame = pl.DataFrame(found).with_columns(cell_id=pl.format("{}-{}", "cell_id", "domain"))
    assert differences(PrimaryContrast(**contrast()), frame).per_base["micro-8"] == pytest.approx(0.5)
    other = frame.filter((pl.col("arm") == "adam") == (pl.col("domain") == 0))
    assert differences(PrimaryContrast(**contrast()), other).without["micro-8"] == "no domain and seed in common"


def test_a_window_leaves_out_the_levels_outside_of_it() -> None:
    """Muon lies .8 above Adam from a held-out log-odds of -1 up, and on Adam's line below."""
    found = []
    for base in BASES:
        found += rows("adam", base, [-3, -1.0, 1], [-3, -1.0, 1])
        found += rows("muon", base, [-3, -1.0, -0.999, 1], [-3, -1.0, -0.199, 1.8])
    frame = pl.DataFrame(found)
    whole = differences(PrimaryContrast(**contrast()), frame)
    upper = differences(PrimaryContrast(**contrast(between=[-0.9, 4])), frame)
    outside = differences(PrimaryContrast(**contrast(between=[2, 4])), frame)
    assert whole.per_base["micro-8"] == pytest.approx(0.4, abs=1e-3)
    assert upper.per_base["micro-8"] == pytest.approx(0.8, abs=1e-9)
    assert outside.per_base == {} and len(outside.without) == 16


def test_a_window_of_norms_is_in_norms_and_only_the_rising_branch_counts() -> None:
    found = []
    for base in BASES:
        found += rows("adam", base, HELD_OUT, [0.0] * 5)
        found += rows("muon", base, [*HELD_OUT[:4], -3.0], [1.0, 1, 1, 1, 50])
    frame = pl.DataFrame(found)
    by_norm = differences(PrimaryContrast(**contrast(match="norm", between=[10, 20])), frame)
    by_held_out = differences(PrimaryContrast(**contrast()), frame)
    assert by_norm.per_base["micro-8"] == pytest.approx(1.0)
    assert by_held_out.per_base["micro-8"] == pytest.approx(1.0)


def test_equal_values_in_every_base_are_no_evidence() -> None:
    found = decide(finding(EQUIVALENCE), Evidence(ladder(0.0, spread=0.0)))
    assert found.word == "not tested"
    assert "no spread" in (found.reason or "")


def test_scalings_of_an_organism_are_a_curve_of_their_own() -> None:
    found = []
    for base in BASES:
        found += rows("adam", base, [0.0], [2.0], update_norm=8.0)
        for factor in (0.25, 0.5):
            found += rows("adam", base, [0.0], [8 * factor / 4], edit=f"scale-{factor}", update_norm=8.0 * factor)
        found += rows("muon", base, [0.0, 0.0], [3.0, 3.0])
    scaled = PrimaryContrast(**contrast(match="norm", second_edit="scale"))
    # Adam's scalings pass norm 5 at the height that lies on the line from (ln 4, 1) to (ln 8, 2), Muon stands at 3
    height = 1 + np.log(5 / 4) / np.log(2)
    assert differences(scaled, pl.DataFrame(found)).per_base["micro-8"] < 3 - height
    plain = PrimaryContrast(**contrast(match="norm"))
    assert differences(plain, pl.DataFrame(found)).per_base["micro-8"] == pytest.approx(1.0)


def test_rates_are_compared_with_the_base_and_with_the_ideal_learner() -> None:
    found = []
    for base in BASES:
        found += rows("muon", base, [0.0, 0.1], [0.0, 0.0])
        found.append({**rows("base", base, [0.0], [0.0])[0], "step": 0, "final": False, "broad_misaligned": 0.01})
    frame = pl.DataFrame(found)
    rise = PrimaryContrast(**contrast(second="base", scale="rate", match="none"))
    assert differences(rise, frame).per_base["micro-9"] == pytest.approx(0.39)
    above = PrimaryContrast(**contrast(second="ideal", scale="literature", match="none"))
    assert differences(above, frame, None, dict.fromkeys(BASES, 0.25)).per_base["micro-9"] == pytest.approx(0.25)
    with pytest.raises(SpecError, match="ideal learner"):
        differences(above, frame)


def test_incoherent_answers_are_bounded_between_misaligned_and_not_aligned_at_equal_held_out() -> None:
    found = []
    for base in BASES:
        found += rows("adam", base, HELD_OUT, HELD_OUT, broad_misaligned=0.3, broad_aligned=0.6)
        found += rows("muon", base, HELD_OUT, HELD_OUT, broad_misaligned=0.2, broad_aligned=0.4)
    frame = pl.DataFrame(found)
    for scale, expected in (("rate", -0.1), ("not_aligned", 0.2), ("literature", 0.0)):
        values = differences(PrimaryContrast(**contrast(scale=scale)), frame).per_base
        assert values["micro-8"] == pytest.approx(expected, abs=1e-12)


RISE = {"kind": "rise", "least": 0.1, "trained": 0.9, "controls": ["scaled-0.5", "random-0.5@same_init"]}
AT_HALF = contrast(
    second=["muon"], match="none", scale="rate", first_edit="orthogonal-0.5@same_init",
    second_edit="orthogonal-1@same_init",
)  # fmt: skip


def dial(rise: float, scaled: float = 0.1, random: float = 0.4, trained: float = 0.94) -> pl.DataFrame:
    """Return a table of the dial: Muon as it is at 35 %, and what each control makes of it."""
    heights = [
        ("orthogonal", 1.0, 0.35, "same_init"), ("orthogonal", 0.5, 0.35 + rise, "same_init"),
        ("scaled", 0.5, scaled, None), ("random", 0.5, random, "same_init"),
    ]  # fmt: skip
    noise = np.random.default_rng(5)
    return pl.DataFrame(
        [
            {
                "base": base, "arm": "muon", "control": control, "f": f, "reference": reference,
                "inner": "frobenius", "granularity": "joint", "trained_misaligned": trained,
                "broad_misaligned": height + noise.normal(0, 0.02), "broad_aligned": 0.1,
            }
            for base in BASES
            for control, f, height, reference in heights
        ],
        schema_overrides={"reference": pl.String()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "word", "reason"),
    [
        (dial(0.37), "established", None),
        (dial(0.11), "open", "reaches down"),
        (dial(0.02, random=0.1), "refuted", None),
        (dial(0.37, random=0.9), "refuted", None),
        (dial(0.37, random=0.72), "open", "against random-0.5@same_init"),
        (dial(0.37, trained=0.85), "open", "below 0.9"),
    ],
)
def test_a_rise_is_held_to_its_least_value_to_every_control_and_to_the_trained_rung(table, word, reason) -> None:
    found = decide(finding(RISE, contrast=AT_HALF), Evidence(ladder(0.0), table))
    assert found.word == word
    assert (found.reason is None) == (reason is None)
    assert reason is None or reason in (found.reason or "")


def test_a_control_on_too_few_bases_leaves_a_rise_not_tested() -> None:
    some = pl.col("base").is_in(BASES[:9]) | (pl.col("control") != "random")
    found = decide(finding(RISE, contrast=AT_HALF), Evidence(ladder(0.0), dial(0.37).filter(some)))
    assert found.word == "not tested"
    assert found.reason == "against random-0.5@same_init: 9 bases, 10 needed"


def test_another_way_of_splitting_is_another_set_of_rows() -> None:
    by_module = dial(0.0).with_columns(granularity=pl.lit("module"), broad_misaligned=pl.lit(0.1))
    both = pl.concat([dial(0.37), by_module], how="vertical_relaxed")
    named = contrast(
        second=["muon"], match="none", scale="rate", first_edit="orthogonal-0.5@same_init:frobenius/module",
        second_edit="orthogonal-1@same_init",
    )  # fmt: skip
    joint = differences(PrimaryContrast(**AT_HALF), ladder(0.0), both).per_base["micro-8"]
    module = differences(PrimaryContrast(**named), ladder(0.0), both).per_base["micro-8"]
    assert joint == pytest.approx(0.37, abs=0.15) and module == pytest.approx(0.1 - 0.35, abs=0.1)


def test_a_contrast_of_the_dial_needs_its_table() -> None:
    with pytest.raises(SpecError, match="needs the table of the dial"):
        decide(finding(RISE, contrast=AT_HALF), Evidence(ladder(0.0)))


def test_only_conclusions_whose_findings_came_out_are_said_and_secondary_p_values_are_adjusted() -> None:
    prereg = Prereg(
        findings=[finding(EQUIVALENCE, id="line"), finding({**EQUIVALENCE, "margin": 0.01}, id="strict")],
        conclusions=[
            {"when": {"line": "established"}, "say": "on a line"},
            {"when": {"line": "established", "strict": "established"}, "say": "on a thin line"},
        ],
        secondary=[
            {"id": "held-out", "contrast": contrast()},
            {"id": "norm", "contrast": contrast(match="norm")},
        ],
        stopping="all",
        power="1",
    )
    found = decide_all(prereg, Evidence(ladder(0.05)))
    assert found.conclusions == ("on a line",)
    plain, adjusted = [row.p for row in found.secondary], [row.p_adjusted for row in found.secondary]
    assert all(p is not None for p in plain) and max(map(float, adjusted)) == pytest.approx(max(map(float, plain)))
    assert min(map(float, adjusted)) == pytest.approx(min(2 * min(map(float, plain)), max(map(float, plain))))
