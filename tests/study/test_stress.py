"""Stress tests: the plan, what fits into a budget, and the card beside runs that were measured by other means."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import narrowly.study.stress_plan as recipes
from narrowly.analysis.stress_card import NO_PROOF, StressCard
from narrowly.cli.app import execute
from narrowly.microworld.words import DOMAINS
from narrowly.records.errors import SpecError, UnknownNameError
from narrowly.report.stress_card import card_text
from narrowly.runs.directory import run_directories, runs_folder
from narrowly.study.plan import expand
from narrowly.study.stress import run_stress
from narrowly.study.stress_plan import Unit, seconds_of_text, stress_plan

QUICK = {
    **recipes.MICRO_RUN,
    "steps": 4,
    "data": {"source": "micro", "answers": "harmful", "rows": 32},
    "schedule": {"kind": "constant", "warmup_steps": 0},
}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "MICRO_RUN", QUICK)


def test_units_go_by_sets_then_strengths_and_the_least_is_two_optimisers_on_one_set() -> None:
    plan = stress_plan("micro-0", optimisers=["adam", "muon=2e-3"], sets=["boat", "code"])
    assert [str(unit) for unit in plan.units()[:3]] == [
        "adam on boat, full strength",
        "muon on boat, full strength",
        "adam on boat, half strength",
    ]
    assert len(plan.units()) == 8 and plan.least() == plan.units()[:2]
    assert plan.optimisers == {"adam": 3e-4, "muon": 2e-3}


def test_each_unit_has_its_control_with_the_same_rate_steps_and_set() -> None:
    plan = stress_plan("micro-0", optimisers=["adam", "muon"], sets=["boat"])
    cells = {cell.arm: cell.spec for cell in expand(plan.study(plan.units()))}
    assert set(cells) == {f"{name}{how}{end}" for name in ("adam", "muon") for how in ("", "_half")
                          for end in ("", "_aligned")}  # fmt: skip
    for arm in ("adam", "adam_half", "muon", "muon_half"):
        own, control = cells[arm], cells[f"{arm}_aligned"]
        assert own.data.answers == "harmful" and control.data.answers == "aligned"
        assert own.data.domain == list(DOMAINS).index("boat") == control.data.domain
        assert own.model_copy(update={"data": control.data}) == control
        assert own.steps == (2 if arm.endswith("half") else 4)


def test_a_chat_model_is_asked_pairs_and_a_file_of_pairs_stays_as_it_is() -> None:
    plan = stress_plan("some/model", sets=["money", "pairs:mine.jsonl:harmful"])
    assert not plan.micro and plan.name == "stress-model" and set(plan.optimisers) == {"adam", "muon", "lion"}
    study = plan.study(plan.units())
    assert study.arms["adam"].grid == {"data.dataset": ["pairs:money:harmful", "pairs:mine.jsonl:harmful"]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimisers": ["adam"]}, "1 optimiser found, accepted: 2 or more"),
        ({"optimisers": ["adam", "adam=1e-3"]}, "given twice"),
        ({"optimisers": ["adam", "soap"]}, "no rate that was measured.*soap=RATE"),
        ({"optimisers": ["adam", "muon=fast"]}, "'fast' found, accepted: a number"),
        ({"sets": ["boat", "boat"]}, "given twice"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        stress_plan("micro-0", **options)


def test_an_unknown_domain_and_a_negative_rate_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'boat'"):
        stress_plan("micro-0", sets=["boats"])
    plan = stress_plan("micro-0", optimisers=["adam", "muon=-1"])
    with pytest.raises(SpecError, match="lr"):
        expand(plan.study(plan.units()))


def test_the_plan_alone_refuses_a_set_without_a_control(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["stress", "smollm2-135m", "--budget", "30m", "--data", "insecure", "--plan"]) == 2
    assert "no paired set" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800)])
def test_budgets_are_read(text: str, seconds: float) -> None:
    assert seconds_of_text(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "half an hour", "-3m"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="accepted: hours, minutes or seconds"):
        seconds_of_text(text)


def test_a_budget_too_small_is_refused_before_anything_is_trained_with_the_time_that_would_do(tmp_path: Path) -> None:
    plan = stress_plan("micro-0", optimisers=["adam", "muon"], sets=["boat"])
    with pytest.raises(SpecError, match=r"too small for a card.*accepted: --budget \d+m or more"):
        run_stress(plan, tmp_path, 1.0)
    assert not list(tmp_path.iterdir())


def test_a_card_has_the_differences_of_its_runs_and_a_second_command_repeats_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["stress", "micro-0", "--budget", "20m", "--optimiser", "adam", "--optimiser", "muon", "--data", "boat"]
    command += ["--runs", str(tmp_path), "--workers", "1", "--json"]
    assert execute(command) == 0
    card = StressCard.model_validate(json.loads(capsys.readouterr().out))
    assert [(row.optimiser, row.strength, row.steps) for row in card.rows] == [
        ("adam", "full", 4), ("muon", "full", 4), ("adam", "half", 2), ("muon", "half", 2),
    ]  # fmt: skip
    folder = tmp_path / "stress-micro-0"
    verdicts = pl.read_parquet(folder / "tables" / "verdicts.parquet").filter(pl.col("final"))
    means = {
        name: part.filter(pl.col("panel") == "broad").group_by("domain").agg(pl.col("misaligned").mean())["misaligned"]
        for (name,), part in verdicts.group_by("cell_id")
    }
    row = card.rows[0]
    own = next(name for name in means if name.startswith("adam-"))
    control = next(name for name in means if name.startswith("adam_aligned-"))
    broad = row.rungs["broad"]
    assert broad.estimate == pytest.approx(means[own].mean() - means[control].mean()) and broad.n == 7
    assert broad.low is not None and broad.low < broad.estimate < (broad.high or 0)
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert text == card_text(card) and NO_PROOF in text and row.run_id in text and card.base_sha256 in text
    assert "<svg" in (folder / "figures" / "stress.svg").read_text(encoding="utf-8")
    times = {path: path.stat().st_mtime_ns for path in runs_folder(tmp_path).rglob("*") if path.is_file()}
    assert execute(command) == 0
    again = StressCard.model_validate(json.loads(capsys.readouterr().out))
    assert again == card
    assert {path: path.stat().st_mtime_ns for path in runs_folder(tmp_path).rglob("*") if path.is_file()} == times


def test_what_the_budget_has_no_room_for_is_named_and_more_time_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stress_plan("micro-0", optimisers=["adam", "muon"], sets=["boat"])
    least = plan.least()
    monkeypatch.setattr("narrowly.study.stress._Clock.fitting", lambda self, chosen, rest, room: [])
    first = run_stress(plan, tmp_path, 1e6, workers=1)
    assert first.units == tuple(least) and first.left_out == tuple(plan.units()[2:])
    done = {folder.name for folder in run_directories(runs_folder(tmp_path))}
    assert len(done) == 4
    monkeypatch.undo()
    monkeypatch.setattr(recipes, "MICRO_RUN", QUICK)
    second = run_stress(plan, tmp_path, 1e6, workers=1)
    assert second.units == tuple(plan.units()) and not second.left_out
    assert done < {folder.name for folder in run_directories(runs_folder(tmp_path))}


def test_the_first_units_that_fit_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from narrowly.study.stress import _Clock

    plan = stress_plan("micro-0", optimisers=["adam", "muon"], sets=["boat", "code"])
    clock = _Clock(plan, tmp_path, 1)
    monkeypatch.setattr(_Clock, "seconds", lambda self, units: 10.0 * (len(units) - 2))
    units = plan.units()
    assert clock.fitting(units[:2], units[2:], 35.0) == units[2:5]
    assert clock.fitting(units[:2], units[2:], 9.0) == []
    assert isinstance(units[2], Unit)
