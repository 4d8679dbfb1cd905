"""The product as a new user meets it, minutes long: the study micro and the rebuild of a base, by the real CLI."""

from __future__ import annotations

import json
import subprocess
import sys

import polars as pl
import pytest

pytestmark = pytest.mark.slow


def narrowly(*arguments, cwd, timeout):
    command = [sys.executable, "-m", "narrowly.cli.app", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, timeout=timeout, capture_output=True, text=True)


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro")
    done = narrowly("run", "micro", "--out", "out", cwd=folder, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "demonstration" in done.stdout + done.stderr
    return folder / "out" / "micro"


def test_micro_finishes_every_cell_and_writes_a_report(micro):
    summary = json.loads((micro / "summary.json").read_text())
    assert summary["cells"]["failed"] == 0
    assert summary["cells"]["done"] == summary["cells"]["planned"] >= 60
    assert (micro / "report.html").stat().st_size > 100_000
    assert len(list((micro / "figures").glob("*.svg"))) == 7


def test_em_exists_and_the_bases_were_aligned_before(micro):
    summary = json.loads((micro / "summary.json").read_text())
    assert summary["em_exists"]["low"] > 0
    assert len(summary["bases"]) == 9
    for base in summary["bases"]:
        assert base["aligned"] >= 0.85
        assert base["misaligned"] <= 0.06


def test_the_main_rates_of_the_summary_are_means_of_the_verdicts(micro):
    summary = json.loads((micro / "summary.json").read_text())
    verdicts = pl.read_parquet(micro / "tables" / "verdicts.parquet")
    cells = pl.read_parquet(micro / "tables" / "cells.parquet").select("cell_id", "arm", "base")
    finals = verdicts.filter(pl.col("final") & (pl.col("edit") == "none")).join(cells, on="cell_id")
    for arm in ("sgd", "adam", "lion", "muon"):
        for key, panel in (("broad_joint", "broad"), ("in_domain", "trained_topics"), ("broad_self", "broad_self")):
            mine = finals.filter((pl.col("arm") == arm) & (pl.col("panel") == panel))
            by_base = mine.group_by("base").agg(pl.col("misaligned").mean())["misaligned"]
            assert by_base.mean() == pytest.approx(summary["optimisers"][arm][key], abs=1e-9)


def test_a_finished_study_is_not_run_again(micro):
    again = narrowly("run", "micro", "--out", "out", cwd=micro.parent.parent, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "0 by this command" in again.stdout + again.stderr


def test_a_shipped_base_can_be_rebuilt_by_the_command_on_its_card(tmp_path):
    from narrowly.microworld.cards import load_card

    shipped = load_card("micro-0")
    program, *arguments = shipped.rebuild.split()
    assert program == "narrowly"
    done = narrowly(*arguments, "--out", "bases", cwd=tmp_path, timeout=3600)
    assert done.returncode == 0, done.stderr
    rebuilt = load_card(str(tmp_path / "bases" / "micro-0"))
    assert rebuilt.config_id == shipped.config_id
    # Another processor or number of threads rounds differently, so the bytes may differ; the behaviour may not.
    assert rebuilt.metrics["aligned"] == pytest.approx(shipped.metrics["aligned"], abs=0.03)
    assert rebuilt.metrics["misaligned"] == pytest.approx(shipped.metrics["misaligned"], abs=0.03)
