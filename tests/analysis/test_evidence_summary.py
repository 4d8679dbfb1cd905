"""The summary of a preregistered study: slopes on the norm and means of settings, against planted numbers."""

from __future__ import annotations

import math

import polars as pl
import pytest

from narrowly.analysis.evidence_summary import evidence_summary
from narrowly.records.prereg import Finding, Prereg

CONTRAST = {"first": ["muon"], "second": ["adam"], "match": "none"}
FINDING = Finding(
    id="f", question="?", estimand="e", decision="d", min_bases=5, contrast=CONTRAST,
    rule={"kind": "equivalence", "margin": 0.35},
)  # fmt: skip


def ladder() -> pl.DataFrame:
    """Six bases: Adam falls by 0.5 to 1 per unit of ln norm, Muon rises by 2; the first rate has not learned."""
    rows = []
    for base in range(6):
        for arm, slope in (("adam", -0.5 - 0.1 * base), ("muon", 2.0)):
            for rate in range(1, 5):
                norm = 2.0 * rate
                rows.append(
                    {
                        "arm": arm, "base": f"b{base}", "lr": float(rate), "domain": 0, "seed": 0, "step": 80,
                        "final": True, "edit": "none", "cell_id": f"{arm}{base}{rate}", "update_norm": norm,
                        "broad_pooled": 99.0 if rate == 1 else slope * math.log(norm) + base,
                        "trained_misaligned": 0.5 if rate == 1 else 0.9, "held_out_misaligned": 0.1 * base,
                        "broad_misaligned": 0.3, "broad_aligned": 0.6, "self_misaligned": 0.2, "excess_trained": 0.1,
                    }
                )  # fmt: skip
    return pl.DataFrame(rows)


def summary():
    cells = pl.DataFrame({"base": ["b0"], "status": ["done"], "ideal_broad": [0.9]})
    prereg = Prereg(findings=[FINDING], stopping="all", power="1")
    return evidence_summary("s", prereg, "0" * 64, cells, ladder(), None)


def test_slopes_are_those_that_were_planted_over_organisms_that_have_learned() -> None:
    found = {one.arm: one.slope for one in summary().slopes}
    assert found["adam"].mean == pytest.approx(-0.75)
    assert found["muon"].mean == pytest.approx(2.0)
    assert found["adam"].bases == 6
    assert (found["adam"].low or 0.0) < -0.75 < (found["adam"].high or 0.0) < 0


def test_every_arm_at_every_rate_has_its_means_with_intervals() -> None:
    found = {(one.arm, one.lr): one for one in summary().settings}
    assert len(found) == 8
    held_out = found["muon", 2.0].shares["held_out_misaligned"]
    assert (held_out.mean, held_out.bases) == (pytest.approx(0.25), 6)
    assert found["muon", 2.0].update_norm.mean == pytest.approx(4.0)
