"""The committed results of studies are what the code makes of their committed tables."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from narrowly.analysis.paired_answers import paired_answers
from narrowly.records.canonical import sha256_file
from narrowly.records.git_history import is_whole
from narrowly.records.study_spec import load_study_spec
from narrowly.study.committed import recomputed
from narrowly.study.preregistered import order_faults, read_prereg

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "results" / "small"
EVIDENCE = sorted(path.parent for path in (ROOT / "results").glob("*/prereg.json"))
TOLERANCE = 1e-9


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the places at which two JSON values differ, floats by more than the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for key in one for found in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for at, (a, b) in pairs for found in differences(a, b, f"{place}[{at}]")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) else [f"{place}: {one}, {other}"]
    return [] if one == other else [f"{place}: {one!r}, {other!r}"]


def test_the_committed_summary_of_small_is_recomputed_from_its_table_to_1e_9() -> None:
    found = paired_answers(pl.read_parquet(SMALL / "tables" / "paired.parquet"))
    assert found is not None
    committed = json.loads((SMALL / "summary.json").read_text(encoding="utf-8"))["paired"]
    assert differences(json.loads(found.model_dump_json()), committed) == []


def test_a_changed_log_likelihood_in_the_table_of_small_changes_its_summary() -> None:
    table = pl.read_parquet(SMALL / "tables" / "paired.parquet")
    changed = table.with_columns(harmful_nats=pl.col("harmful_nats") - (pl.col("arm") == "lion").cast(pl.Float64))
    found, before = paired_answers(changed), paired_answers(table)
    assert found is not None and before is not None
    assert differences(json.loads(found.model_dump_json()), json.loads(before.model_dump_json()))


def test_the_tables_in_the_readme_of_small_are_those_that_the_script_prints() -> None:
    command = [sys.executable, str(ROOT / "experiments" / "small_table.py"), str(SMALL)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    readme = (SMALL / "README.md").read_text(encoding="utf-8")
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) > 5
    assert [line for line in lines if line not in readme] == []


@pytest.mark.parametrize("line", (SMALL / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
def test_every_committed_file_of_small_is_the_one_of_its_sum(line: str) -> None:
    digest, name = line.split("  ")
    assert sha256_file(SMALL / name) == digest


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_the_committed_summary_of_a_preregistered_study_is_recomputed_from_its_tables_to_1e_9(folder: Path) -> None:
    committed = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert differences(json.loads(recomputed(folder).model_dump_json()), committed) == []


@pytest.mark.parametrize("folder", EVIDENCE, ids=lambda folder: folder.name)
def test_a_preregistration_is_older_than_its_runs_and_every_file_is_the_one_of_its_sum(
    folder: Path,
) -> None:
    if is_whole(folder):  # a shallow clone or a tarball has no commits to compare
        assert order_faults(folder) == []
    study = load_study_spec(ROOT / "evidence" / f"{folder.name}.yaml")
    assert read_prereg(folder / "prereg.json").hash == study.prereg_hash
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert sha256_file(folder / name) == digest


def told(row: dict[str, Any], digits: int, factor: float) -> set[str]:
    """Return the ways in which the README may write an estimate and the ends of its interval."""
    values = [row[name] for name in ("estimate", "low", "high") if row[name] is not None]
    return {form for value in values for form in (f"{factor * value:+.{digits}f}", f"{factor * value:.{digits}f}")}


def test_every_number_of_the_readme_s_findings_is_of_a_preregistered_study() -> None:
    """Estimates and bounds are those of the decisions and secondary contrasts; no other number has two digits."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## What holds on unseen bases")[1].split("\n## ")[0]
    assert len(text.strip().splitlines()) <= 25
    accepted: set[str] = set()
    for folder in EVIDENCE:
        findings = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["findings"]
        for row in [*findings["decisions"], *findings["secondary"]]:
            accepted |= told(row, 2, 1.0) | told(row, 1, 100.0)
        for row in findings["decisions"]:
            for name, value in row["without"].items():
                accepted |= told(value, 1, 100.0) if isinstance(value, dict) else set()
                assert name
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", "]", text).replace("\u2212", "-")
    found = re.findall(r"(?<![\w.])[+-]?\d*\.\d+", prose)
    assert found, "no number was found"
    margins = {".35", "-1.5", ".5"}
    assert [number for number in found if number not in accepted | margins] == []
