"""`narrowly match` on folders of studies: what it finds, prints and draws, and what it refuses in one line."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from narrowly import match_runs
from narrowly.cli.app import execute
from narrowly.report.kit import page_html
from narrowly.report.matching_page import matching_page
from shared.matched_studies import RATES, write_study

ARMS = {"adam": ((-1.0, 3.0), -0.5), "muon": ((-3.0, 1.0), 0.4)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "rates", ARMS)


def test_a_planted_difference_comes_back_from_files(study: Path) -> None:
    found = match_runs(study, "muon", "adam").primary
    assert found.interval.estimate == pytest.approx(0.9, abs=0.15)
    assert found.compared == 6
    assert found.verdict == "EFFECT"
    assert "bases and questions resampled" in found.bootstrap.method
    assert found.bootstrap.low < found.interval.estimate < found.bootstrap.high


def test_the_questions_of_a_rung_add_up_to_the_ladder(study: Path) -> None:
    """Same questions at every rate: what the points of a curve share is no noise, and only that is there."""
    found = match_runs(study, "muon", "adam")
    assert found.attenuation.questions == 12
    assert found.attenuation.reliability == pytest.approx(1)
    assert found.noise_shift == pytest.approx(0, abs=1e-9)


def test_without_verdicts_bases_alone_are_drawn(tmp_path: Path) -> None:
    found = match_runs(write_study(tmp_path / "s", ARMS, verdicts=False), "muon", "adam")
    assert "questions" not in found.primary.bootstrap.method
    assert found.attenuation is None
    assert found.no_attenuation == "what each question gave is not at hand"


@pytest.mark.parametrize(("at", "support"), [("norm", (1, 8)), ("trained-loss", (0.92, 0.99)), ("held-out", (-1, 1))])
def test_each_matching_variable_is_read_from_its_column(study: Path, at: str, support: tuple[float, float]) -> None:
    assert match_runs(study, "muon", "adam", at=at).primary.lines[0].support == pytest.approx(support, abs=1e-3)


def test_sets_are_chosen_by_optimiser_and_field(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"adam_small": ((-1, 3), 0.0), "muon": ((-3, 1), 0.0)}, spec={"batch_size": 4})
    found = match_runs(folder, "optimiser=adam+batch_size=4", "muon+lr=0.0008")
    assert found.first.arms == ("adam_small",)
    assert found.second.settings == (RATES[-1],)
    assert found.primary.lines[0].support == pytest.approx((1, 1), abs=1e-3)


def test_the_second_set_may_be_of_another_study_with_cells_of_the_same_names(study: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", {"adam": ((-1.0, 3.0), 0.5)})
    for path in (other / "tables").glob("*.parquet"):
        frame = pl.read_parquet(path)
        if "run_id" in frame.columns:
            frame.with_columns(("again-" + pl.col("run_id")).alias("run_id")).write_parquet(path)
    found = match_runs(study, "adam", "adam", other=other)
    assert (found.first.study, found.second.study) == ("rates", "other")
    assert found.primary.interval.estimate == pytest.approx(-1, abs=0.15)
    assert found.attenuation is not None


def test_the_command_prints_support_verdict_and_noise_in_80_columns(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert execute(["match", str(study), "--arms", "muon,adam"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for words in ("Levels in common: 6 of 6 bases", "EFFECT", "-1 to 1", "reliability"):
        assert words in " ".join(printed.split())


def test_json_figure_and_page_hold_the_same_comparison(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, page = tmp_path / "m.svg", tmp_path / "m.html"
    arguments = ["match", str(study), "--arms", "muon,adam", "--json", "--figure", str(drawn), "--html", str(page)]
    assert execute(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    told = match_runs(study, "muon", "adam")
    assert found["primary"]["per_base"] == pytest.approx(told.primary.per_base)
    assert drawn.read_text(encoding="utf-8").startswith("<svg")
    html = page.read_text(encoding="utf-8")
    assert "EFFECT" in html and "micro-5" in html
    points = pl.read_csv(tmp_path / "figures" / "matching.csv")
    assert points.height == 2 * 6 * len(RATES)


def test_a_hostile_name_of_an_arm_is_escaped_on_the_page(study: Path) -> None:
    found = match_runs(study, "muon", "adam")
    named = found.model_copy(update={"first": found.first.model_copy(update={"name": "<script>x</script>"})})
    assert "<script>x" not in page_html(matching_page(named))


BAD = [
    (["--arms", "moun,adam"], "unknown arm 'moun'; did you mean 'muon'?"),
    (["--arms", "muon"], "--arms 'muon' names 1; accepted: two sets"),
    (["--arms", "muon+lr=3,adam"], "no organism with lr=3 is left; found: 0.0001, 0.0002"),
    (["--arms", "muon+batchsize=3,adam"], "unknown field 'batchsize'"),
    (["--arms", "muon+,adam"], "'' is not understood"),
    (["--arms", "muon,adam", "--at", "nrom"], "unknown matching variable 'nrom'; did you mean 'norm'?"),
    (["--arms", "muon,adam", "--at", "step"], "differ in optimiser.lr (0.0001, 0.0002, 0.0004, 0.0008) beside step"),
    (["--arms", "muon,muon"], "share 24 organisms"),
    (["--arms", "muon,adam", "--scale", "nats"], "unknown scale 'nats'"),
    (["--arms", "muon,adam", "--margin", "-1"], "margin is -1.0; accepted"),
    (["--arms", "muon,adam", "--between", "3"], "--between '3'; accepted: two numbers"),
    (["--arms", "muon,adam", "--over", "domain"], "--over domain: accepted: base or seed"),
    (["--arms", "muon,adam", "--figure", "m.gif"], "found the ending '.gif'; accepted: .svg, .png or .pdf"),
    (["--arms", "muon+lr=0.0001,adam"], "not comparable: in none of 6 bases do both sets reach one level"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_one_line_and_exit_code_2(study, arguments, said, capsys) -> None:
    assert execute(["match", str(study), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_studies_and_folders_that_cannot_be_matched_are_refused(study: Path, tmp_path: Path, capsys) -> None:
    blind = write_study(tmp_path / "blind", ARMS, panels=("broad",))
    far = write_study(tmp_path / "far", {"adam": ((-1.0, 3.0), 0.0)}, bases=1)
    nothing = tmp_path / "nothing"
    (nothing / "tables").mkdir(parents=True)
    for arguments, said in (
        ([blind, "--arms", "muon,adam"], "none of 24 organisms has misalignment on held-out topics"),
        ([study, "--arms", "muon,adam", "--with", far], "one base only (micro-0)"),
        ([nothing, "--arms", "muon,adam"], "cells.parquet is missing"),
    ):
        assert execute(["match", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) == 1
