"""The committed form of a preregistered study: a tiny one run for real, written, recomputed, held to its order."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from narrowly.records.canonical import sha256_file
from narrowly.records.errors import SpecError
from narrowly.study.committed import recomputed, write_results
from narrowly.study.preregistered import order_faults, read_prereg
from tiny_world import make_world_base

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "experiments" / "evidence.py"), run_name="script")
FINDING = {
    "id": "line",
    "question": "Do the arms differ?",
    "estimand": "mean difference",
    "contrast": {"first": ["muon"], "second": ["adam"], "match": "none"},
    "rule": {"kind": "equivalence", "margin": 0.35},
    "decision": "inside the margin",
    "min_bases": 5,
}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose first commit holds the preregistered study; its runs and results lie beside, uncommitted."""
    folder = tmp_path_factory.mktemp("repository")
    parent = tmp_path_factory.mktemp("bases")
    bases = [str(make_world_base(parent, first)) for first in range(200, 450, 50)]
    raw = {
        "name": "smoke_evidence",
        "run": {
            "steps": 3,
            "checkpoints": 2,
            "adapter": {"r": 2},
            "data": {"rows": 16},
            "schedule": {"warmup_steps": 1},
        },
        "grid": {"base": bases, "optimiser.lr": [1e-2]},
        "samples": 0,
        "arms": {name: {"set": {"optimiser": {"kind": name}}} for name in ("adam", "muon")},
        "prereg": {"findings": [FINDING], "stopping": "all cells", "power": "none: a smoke test"},
    }
    (folder / "smoke_evidence.yaml").write_text(yaml.safe_dump(raw))
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "preregistered", "--date", "2026-01-01T00:00:00")
    SCRIPT["run"](folder / "smoke_evidence.yaml", folder / "out", folder / "results", 2)
    return folder


def test_the_results_have_every_part_and_their_summary_follows_from_their_tables(repository) -> None:
    results = repository / "results" / "smoke_evidence"
    names = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    assert {"study.yaml", "prereg.json", "summary.json", "command.json", "environment.json", "SHA256SUMS"} <= names
    assert {"tables/cells.parquet", "tables/ladder.parquet"} <= names
    summary = recomputed(results)
    assert json.loads((results / "summary.json").read_text()) == summary.model_dump(mode="json")
    assert (summary.planned, summary.done) == (10, 10)
    assert summary.findings.decisions[0].of_bases == 5
    for line in (results / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert sha256_file(results / name) == digest


def test_a_changed_table_changes_the_recomputed_summary(repository, tmp_path) -> None:
    results = shutil.copytree(repository / "results" / "smoke_evidence", tmp_path / "results")
    file = results / "tables" / "ladder.parquet"
    moved = pl.col("broad_pooled") + (pl.col("arm") == "muon").cast(pl.Float64)
    before = recomputed(results).findings.decisions[0].estimate
    pl.read_parquet(file).with_columns(broad_pooled=moved).write_parquet(file)
    after = recomputed(results).findings.decisions[0].estimate
    assert after == pytest.approx((before or 0.0) + 1.0)


def test_the_report_shows_the_decision_and_the_hash(repository) -> None:
    page = (repository / "out" / "smoke_evidence" / "report.html").read_text()
    record = read_prereg(repository / "results" / "smoke_evidence" / "prereg.json")
    assert record.hash[:16] in page and record.commit[:12] in page
    assert "Do the arms differ?" in page and "Deviations" in page
    summary = json.loads((repository / "out" / "smoke_evidence" / "summary.json").read_text())["prereg"]
    assert (summary["hash"], summary["commit"]) == (record.hash, record.commit)
    assert summary["findings"]["decisions"][0]["word"] in ("established", "refuted", "open", "not tested")


def test_a_second_command_repeats_no_run_and_writes_the_same_results(repository) -> None:
    results = repository / "results" / "smoke_evidence"
    before = (results / "SHA256SUMS").read_text()
    found = SCRIPT["run"](repository / "smoke_evidence.yaml", repository / "out", repository / "results", 2)
    assert found.executed == 0
    assert (results / "SHA256SUMS").read_text() == before


def test_the_runs_are_later_than_the_commit_of_the_preregistration(repository) -> None:
    git(repository, "add", "results")
    git(repository, "commit", "-qm", "results")
    assert order_faults(repository / "results" / "smoke_evidence") == []


def test_nothing_is_decided_before_the_last_cell_was_tried_and_a_failed_one_counts_as_missing(repository, tmp_path):
    out = shutil.copytree(repository / "out", tmp_path / "out")
    cells = out / "smoke_evidence" / "tables" / "cells.parquet"
    table = pl.read_parquet(cells)
    one = pl.col("cell_id") == table["cell_id"][0]
    for status in ("pending", "failed"):
        table.with_columns(status=pl.when(one).then(pl.lit(status)).otherwise("status")).write_parquet(cells)
        arguments = (out / "smoke_evidence", tmp_path / status, repository / "smoke_evidence.yaml", "again")
        if status == "pending":
            with pytest.raises(SpecError, match="1 of 10 cells of 'smoke_evidence' were not run"):
                write_results(*arguments)
            assert not (tmp_path / status).exists()
        else:
            summary = write_results(*arguments)
            assert (summary.planned, summary.done) == (10, 9)
            decided = summary.findings.decisions[0]
            assert (decided.word, decided.bases, decided.of_bases) == ("not tested", 4, 5)


def test_results_of_another_preregistration_are_not_written_over(repository, tmp_path) -> None:
    file = tmp_path / "smoke_evidence.yaml"
    file.write_text((repository / "smoke_evidence.yaml").read_text().replace("margin: 0.35", "margin: 0.5"))
    with pytest.raises(SpecError, match="accepted: the file as it was"):
        write_results(repository / "out" / "smoke_evidence", tmp_path / "results", file, "again")


def test_bases_of_the_evidence_are_the_seeds_of_the_table_and_the_worlds_of_x7() -> None:
    wanted = SCRIPT["wanted"](True)
    names: dict[str, Any] = {SCRIPT["base_name"](config, seed): config for config, seed in wanted}
    assert len(names) == len(wanted) == 32
    for study in SCRIPT["STUDIES"]:
        spec = yaml.safe_load((ROOT / "evidence" / f"{study}.yaml").read_text(encoding="utf-8"))
        grids = [spec["grid"], *(arm.get("grid", {}) for arm in spec["arms"].values())]
        assert {base for grid in grids for base in grid.get("base", [])} <= set(names)
