"""docs/findings.md is what its script makes of the committed results."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("findings_page", ROOT / "docs" / "figures" / "findings_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["findings_page"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_findings_is_what_the_script_writes(findings: ModuleType) -> None:
    assert findings.PAGE.read_text(encoding="utf-8") == findings.page()


def test_every_claim_has_all_its_rows_and_says_not_run_where_there_is_no_number(findings: ModuleType) -> None:
    parts = [part for part in findings.page().split("\n## ")[1:] if not part.startswith("Study ")]
    assert len(parts) == len(findings.STATEMENTS)
    for part in parts:
        rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", part, re.M))
        assert {"evidence level", "effect", "interval", "n", "control that could have killed it",
                "what would change our mind"} <= set(rows)  # fmt: skip
        assert (rows["evidence level"] == "not run") == (rows["effect"] == "–")


def test_every_finding_of_a_claim_is_in_the_preregistration_that_it_names(findings: ModuleType) -> None:
    for one in findings.STATEMENTS:
        if one.study is not None:
            text = (ROOT / "evidence" / f"{one.study}.yaml").read_text(encoding="utf-8")
            assert f"- id: {one.finding}\n" in text


def test_a_change_of_the_tables_changes_what_a_claim_says_before_its_study(
    findings: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, before = findings._ladder, findings._lion_steps()
    lion = pl.when(pl.col("arm") == "lion").then(pl.col("broad_pooled") + 1).otherwise(pl.col("broad_pooled"))
    monkeypatch.setattr(findings, "_ladder", lambda study: read(study).with_columns(lion.alias("broad_pooled")))
    assert findings._lion_steps().effect != before.effect


def test_each_committed_study_stands_below_the_claims_with_its_conclusions_and_secondary_rows(
    findings: ModuleType,
) -> None:
    page = findings.page()
    for study in findings.committed():
        summary = json.loads((findings.RESULTS / study / "summary.json").read_text(encoding="utf-8"))["findings"]
        part = page.split(f"## Study `{study}`")[1].split("\n## ")[0]
        assert all(f"| {one} |" in part for one in summary["conclusions"])
        assert all(f"| {row['id']} | " in part for row in summary["secondary"])


@pytest.mark.parametrize("word", ["established", "refuted", "open", "not tested"])
def test_committed_results_decide_a_claim_in_the_same_words_and_place_whatever_they_say(
    findings: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str
) -> None:
    row = {"id": "line-muon", "word": word, "estimate": 0.1, "low": -0.1, "high": 0.3, "bases": 12, "of_bases": 16,
           "reason": None}  # fmt: skip
    (tmp_path / "x1_ladder").mkdir()
    (tmp_path / "x1_ladder" / "summary.json").write_text(json.dumps({"findings": {"decisions": [row]}}))
    monkeypatch.setattr(findings, "RESULTS", tmp_path)
    found = findings.decided(findings.STATEMENTS[0])
    assert found.level == f"preregistered: {word}" and found.interval == "[\u22120.10, +0.30]"
    assert found.effect.endswith(": +0.10") and found.n == "12 of 16 bases"
    assert findings.decided(findings.STATEMENTS[-1]) is None
