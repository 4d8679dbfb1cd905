"""The tables of docs/tripwire.md are what the script makes of the committed readings, failures named as such."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from narrowly.records.canonical import sha256_file

ROOT = Path(__file__).parents[1]
RESULTS, SMALL = ROOT / "results" / "tripwire", ROOT / "results" / "small"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tripwire_report", ROOT / "experiments" / "tripwire_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_committed_readings_are_of_pilot_bases_and_are_the_ones_their_record_names() -> None:
    record = json.loads((RESULTS / "micro.json").read_text(encoding="utf-8"))
    file = RESULTS / "tables" / "micro.parquet"
    assert sha256_file(file) == record["sha256"]
    table = pl.read_parquet(file)
    found = {base for bases in record["bases"].values() for base in bases}
    assert found == set(table["base"]) <= {f"micro-{seed}" for seed in range(8)}
    sizes = table.group_by("base", "optimiser", "role").agg(pl.col("step").n_unique(), pl.col("question_id").n_unique())
    assert set(sizes["question_id"]) == {record["questions"]} and len(set(sizes["step"])) == 1


def test_every_line_of_the_report_stands_in_the_docs(report: ModuleType) -> None:
    lines = list(report.tables(report.of_micro(RESULTS), report.of_study(SMALL)))
    rows = [line for line in lines if line.startswith("| ")]
    docs = (ROOT / "docs" / "tripwire.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 20
    assert [line for line in rows if line not in docs] == []
    told = [line for line in docs if line.startswith("| ") and ("tells them apart" in line or "does not work" in line)]
    assert sorted(told) == sorted(line for line in rows if "tells them apart" in line or "does not work" in line)


def test_a_changed_reading_changes_the_report(report: ModuleType, tmp_path: Path) -> None:
    table = pl.read_parquet(RESULTS / "tables" / "micro.parquet")
    (tmp_path / "tables").mkdir()
    changed = table.with_columns(log_odds=pl.col("log_odds") - (pl.col("role") == "harmful").cast(pl.Float64) * 3)
    changed.write_parquet(tmp_path / "tables" / "micro.parquet")
    assert list(report.alarm_rows(report.of_micro(tmp_path))) != list(report.alarm_rows(report.of_micro(RESULTS)))


def made(report: ModuleType, role: str, values: list[float], steps: tuple[int, ...] = (1, 2)) -> list[object]:
    looks = [tuple(report.Look(step, value * step, value * step - 1) for step in steps) for value in values]
    return [report.Watched("adam", f"b{at}", role, one) for at, one in enumerate(looks)]


def test_an_area_whose_interval_holds_one_half_is_printed_as_does_not_work(report: ModuleType) -> None:
    clear = made(report, "harmful", [3, 4, 5, 6, 7, 8]) + made(report, "aligned", [0, 0.1, 0.2, -0.1, -0.2, 1])
    mixed = made(report, "harmful", [1, 2, 3]) + made(report, "aligned", [0, 1.5, 2.5])
    backwards = made(report, "harmful", [0, 0.1, 0.2, 0.3, 0.4]) + made(report, "aligned", [5, 6, 7, 8, 9])
    said = [
        [row.split(" | ")[-1].rstrip(" |") for row in report.auc_rows(one, "X")] for one in (clear, mixed, backwards)
    ]
    assert said == [["tells them apart"] * 2, ["does not work on X"] * 2, ["does not work on X"] * 2]


def test_largest_margins_of_other_numbers_of_looks_are_not_ranked(report: ModuleType) -> None:
    both = made(report, "harmful", [3, 4, 5]) + made(report, "permuted", [0, 1, 2], steps=(2,))
    assert [row.split(" | ")[2] for row in report.auc_rows(both, "X")] == ["difference at the end"]


def test_lags_are_from_the_exact_rise_to_the_alarm(report: ModuleType) -> None:
    looks = tuple(
        report.Look(step, 0, low, rise)
        for step, low, rise in ((2, -1.0, 0.0), (4, 0.2, 0.06), (8, 0.7, 0.2), (16, 1.2, 0.3))
    )
    late, never = report.Watched("adam", "b0", "harmful", looks), report.Watched("adam", "b1", "harmful", looks[:2])
    rows = list(report.lag_rows([late, never]))
    assert rows[0] == "| adam | 0.5 | 1 of 2 | +4 (+4 to +4) | 1 | 0 |"
    assert rows[1] == "| adam | 1 | 1 of 2 | +12 (+12 to +12) | 1 | 0 |"
    assert rows[2] == "| adam | 2 | 0 of 2 | - | 2 | 0 |"


def test_folders_without_tables_are_refused_with_what_writes_them(
    report: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(tmp_path), str(SMALL)]) == 2 and "tripwire_micro.py" in capsys.readouterr().err
    assert report.main([]) == 2 and "two folders" in capsys.readouterr().err
