"""Rates followed over folders: their order and places, series that do not compare, the table, figure and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from judged_sides import drawn_seed, side_of, write_side
from narrowly.analysis.track import track
from narrowly.cli.app import execute
from narrowly.report.track_figure import track_figure
from paired_results import drawn_results


def judged_folder(folder: Path, draw: int = 0, **shares: float) -> Path:
    rows = drawn_seed(shares, draw=draw, questions=8, samples=3, answers_id=folder.name)
    return write_side(folder, side_of(folder.name, [rows]))


def test_checkpoints_stand_at_their_number_and_dates_at_their_day(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        judged_folder(tmp_path / "steps" / f"step-{step}", step, bad=step / 200)
    found = track(tmp_path / "steps")
    assert [row.name for row in found.rows] == ["step-9", "step-10", "step-100"]
    assert (found.scale, found.places) == ("number", (9, 10, 100))
    for day in ("2026-02-28", "2026-03-01", "2026-03-02"):
        judged_folder(tmp_path / "days" / day / "x.judged")
    found = track(tmp_path / "days")
    assert found.scale == "date" and [place - found.places[0] for place in found.places] == [0, 1, 2]
    judged_folder(tmp_path / "names" / "old")
    judged_folder(tmp_path / "names" / "new-2")
    assert track(tmp_path / "names").scale == "order"


def test_rates_are_those_of_the_folders_and_lost_answers_are_counted(tmp_path: Path) -> None:
    judged_folder(tmp_path / "a", 1, bad=0.4, noise=0.2, refused=0.1, prose=0.1)
    (row,) = track(tmp_path).rows
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    classes = result["arms"][0]["classes"]["all"]
    values = {one.name: one.interval.estimate for one in row.measures}
    total = sum(classes.values())
    assert values["joint rate"] == pytest.approx(classes["misaligned"] / total)
    kept = classes["aligned"] + classes["misaligned"] + classes["refusal"]
    assert values["coherence lost"] == pytest.approx(1 - kept / total) and row.n == total == 24
    assert all(one.interval.low is not None for one in row.measures)


def test_another_judge_or_kind_is_another_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged_folder(tmp_path / "a-1")
    judged_folder(tmp_path / "a-2")
    rows = drawn_seed({}, questions=8, samples=3, answers_id="other")
    write_side(tmp_path / "b", side_of("b", [rows], judge_id="another"))
    drawn_results(tmp_path / "c", panels=False)
    found = track(tmp_path)
    assert [row.series for row in found.rows] == ["a", "a", "b", "c"]
    assert "against the control" in found.series["c"]
    assert execute(["track", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["series"] for row in record["rows"]] == ["a", "a", "b", "c"]
    assert record["rows"][3]["measures"]["broad, against the control"]["percent"] is False
    assert not (tmp_path / "track.svg").exists()
    assert execute(["track", str(tmp_path)]) == 0
    out = capsys.readouterr()
    assert "rates of two series do not compare" in out.out and "track.svg" in out.err
    svg = (tmp_path / "track.svg").read_text()
    assert svg.startswith("<svg") and "nats per answer" not in re.sub(r"<title>.*?</title>", "", svg)  # text is paths
    assert len(track_figure(found).axes) == 2


def test_a_hostile_name_of_a_folder_acts_neither_on_the_terminal_nor_in_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged_folder(tmp_path / "\x1b[31m<script>alert(1)<")
    assert execute(["track", str(tmp_path)]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out
    assert "<script>" not in (tmp_path / "track.svg").read_text()


def test_mistakes_are_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    folder = judged_folder(tmp_path / "full" / "a").parent
    (tmp_path / "broken" / "x").mkdir(parents=True)
    (tmp_path / "broken" / "x" / "result.json").write_text("{")
    for arguments, words in (
        ([tmp_path / "none"], "none is no folder"),
        ([tmp_path / "empty"], "holds no folder with a result.json"),
        ([folder, "--figure", tmp_path / "a.gif"], "found the ending '.gif'; accepted: .svg, .png or .pdf"),
        ([tmp_path / "broken"], "result.json"),
    ):
        assert execute(["track", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and said.out == ""
    assert execute(["track", str(folder), "--figure", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
