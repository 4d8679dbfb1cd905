"""One cell on a real, tiny base: stages, ids, fast path against slow path; and the whole way through the CLI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import narrowly
from narrowly.cli.app import execute
from narrowly.evaluate.banks import bank_of
from narrowly.evaluate.microworld import bank
from narrowly.evaluate.microworld.bank import microworld_bank
from narrowly.evaluate.run_stage import evaluate_organism, run_stage
from narrowly.models.base import open_base
from narrowly.models.kept import kept_organism
from narrowly.models.organism import load_organism
from narrowly.records.errors import AdapterError, IntegrityError, SpecError, TrainingError
from narrowly.records.files import read_json
from narrowly.records.study_spec import parse_study
from narrowly.study.cell import execute_cells, resolve_cell, resolve_cells
from narrowly.study.layout import PlannedCell, failure_file, is_complete
from narrowly.study.plan import expand
from tiny_world import make_world_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the real format that has learnt next to nothing, in a second or two."""
    return make_world_base(tmp_path_factory.mktemp("bases"))


def raw_study(base: Path, **changed: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "demonstration": True,
        "samples": 1,
        "run": {
            "base": str(base),
            "steps": 4,
            "checkpoints": 2,
            "adapter": {"r": 2},
            "data": {"rows": 16},
            "schedule": {"warmup_steps": 1},
        },
        "arms": {
            "adam": {
                "role": "optimiser",
                "set": {"optimiser": {"kind": "adam", "lr": 1e-2}},
                "edits": [{"kind": "scale", "factor": 0.5}],
            }
        },
        **changed,
    }


def plan_one(base: Path) -> PlannedCell:
    (cell,) = expand(parse_study(raw_study(base), "one.yaml"))
    return resolve_cell(cell, base.parent)


@pytest.fixture(scope="module")
def done(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PlannedCell, Path]:
    out = tmp_path_factory.mktemp("out")
    planned = plan_one(base)
    assert run_cell(planned, out) == "done"
    return planned, out


def run_cell(planned: PlannedCell, out: Path, **more: Any) -> str:
    payload = {"cells": [planned.model_dump(mode="json")], "runs": str(out / "runs"), "study_dir": str(out / "one")}
    (result,) = execute_cells({**payload, **more})
    status: str = result["status"]
    return status


def test_cells_of_one_base_are_resolved_together_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {**raw_study(Path("micro-0")), "grid": {"base": ["micro-0", "micro-1"], "seed": [0, 1]}}
    del raw["run"]["base"]
    cells = expand(parse_study(raw, "one.yaml"))
    seen: list[str] = []

    def resolved(cell: Any, runs: Path, *, here: bool) -> PlannedCell:
        assert here
        seen.append(cell.spec.base)
        return PlannedCell(cell=cell, run_id=cell.cell_id, base=cell.spec.base, stages=())

    monkeypatch.setattr("narrowly.study.cell.resolve_cell", resolved)
    found = resolve_cells({"cells": [cell.model_dump(mode="json") for cell in cells], "runs": "runs"})
    assert [row["run_id"] for row in found] == [cell.cell_id for cell in cells]
    assert seen == sorted(seen) != [cell.spec.base for cell in cells]


def test_a_cell_is_reported_as_a_run_of_its_study(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from narrowly.integrations import reporting

    started: list[tuple[str, str | None]] = []

    class Tracker:
        def __init__(self, start: Any) -> None:
            started.append((start.run_id, start.group))

        def log(self, step: int, values: Any) -> None:
            raise OSError("gone")

    monkeypatch.setattr(reporting, "check_trackers", lambda names: None)
    monkeypatch.setitem(reporting.TRACKERS, "trackio", Tracker)
    planned = plan_one(base)
    assert run_cell(planned, tmp_path, report_to=["trackio"]) == "done"
    assert started == [(planned.run_id, "one")]
    assert is_complete(planned, tmp_path / "runs")


def test_a_cell_leaves_every_stage_and_a_second_attempt_finds_it(done: tuple[PlannedCell, Path]) -> None:
    planned, out = done
    assert is_complete(planned, out / "runs")
    assert [(stage.kind, stage.step, stage.edit_id) for stage in planned.stages] == [
        ("exact", 0, "none"),
        ("exact", 4, "none"),
        ("exact", 4, "scale-0.5"),
        ("samples", 4, "none"),
    ]
    for stage in planned.stages:
        record = read_json(stage.folder(out / "runs" / planned.run_id) / "stage.json")
        assert record["answers_id"] == stage.answers_id
    assert run_cell(planned, out) == "found"


def test_ids_are_staged_so_that_a_new_judge_keeps_run_and_answers(
    done: tuple[PlannedCell, Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, out = done
    monkeypatch.setattr(bank, "EXACT_VERSION", 99)
    judged = plan_one(base)
    assert judged.run_id == planned.run_id
    assert [stage.answers_id for stage in judged.stages] == [stage.answers_id for stage in planned.stages]
    assert not {stage.verdict_id for stage in judged.stages} & {stage.verdict_id for stage in planned.stages}
    trained = (out / "runs" / planned.run_id / "done").stat().st_mtime_ns
    assert run_cell(judged, out) == "done"
    assert (out / "runs" / planned.run_id / "done").stat().st_mtime_ns == trained, "no training for a new judge"


def test_a_lost_stage_is_done_again_and_nothing_else(done: tuple[PlannedCell, Path]) -> None:
    planned, out = done
    directory = out / "runs" / planned.run_id
    files = [stage.file(directory) for stage in planned.stages]
    before = pl.read_parquet(files[2])
    times = [file.stat().st_mtime_ns for file in files]
    files[2].unlink()
    assert run_cell(planned, out) == "done"
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [
        True,
        True,
        False,
        True,
    ]
    assert pl.read_parquet(files[2]).equals(before)


def test_the_stored_model_gives_what_a_freshly_loaded_organism_gives(done: tuple[PlannedCell, Path]) -> None:
    planned, out = done
    directory = out / "runs" / planned.run_id
    for stage in planned.stages[1:3]:
        slow = load_organism(directory, stage.step, None if stage.edit is None else stage.edit.edit_id)
        asked = bank_of(slow.spec, slow.base)
        assert asked is not None
        rows = asked.exact(slow, stage.panels)  # two small products in every pass, where the store has merged
        fast = pl.read_parquet(stage.file(directory))
        assert fast["misaligned"].to_list() == pytest.approx([row["misaligned"] for row in rows], rel=1e-5)
    trained, edited = (
        pl.read_parquet(stage.file(directory)).filter(pl.col("panel") == "broad") for stage in planned.stages[1:3]
    )
    assert trained["log_odds"].to_list() != edited["log_odds"].to_list(), "the edit is applied"


def test_one_organism_evaluated_without_a_study_gives_the_rows_of_the_study(done: tuple[PlannedCell, Path]) -> None:
    planned, out = done
    directory = out / "runs" / planned.run_id
    for stage in planned.stages[:3]:
        organism = load_organism(directory, stage.step, None if stage.edit is None else stage.edit.edit_id)
        rows = evaluate_organism(organism, panels=stage.panels)
        assert rows == pl.read_parquet(stage.file(directory)).to_dicts()
        assert evaluate_organism(organism, panels=stage.panels) == rows, (
            "the adapter is there again, the base as it was"
        )
        (one, *_) = stage.panels
        assert evaluate_organism(organism, panels=one) == evaluate_organism(organism, panels=[one])


def test_step_zero_is_the_base_itself(done: tuple[PlannedCell, Path]) -> None:
    from narrowly.evaluate.microworld.exact import evaluate_exact
    from narrowly.models.base import load_world_base

    planned, out = done
    base = load_world_base(planned.cell.spec.base)
    rows = evaluate_exact(base.model, base.world, base.tokenizer, domain=planned.facts["domain"])
    stored = pl.read_parquet(planned.stages[0].file(out / "runs" / planned.run_id))
    assert stored["log_odds"].to_list() == pytest.approx([row["log_odds"] for row in rows], abs=1e-5)


def test_an_exchanged_adapter_is_refused(done: tuple[PlannedCell, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    planned, out = done
    directory, copy = out / "runs" / planned.run_id, tmp_path / planned.run_id
    shutil.copytree(directory, copy)
    tensors = load_file(directory / "checkpoints" / "step-4" / "adapter_model.safetensors")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(changed, copy / "checkpoints" / "step-4" / "adapter_model.safetensors")
    with pytest.raises(IntegrityError, match="the run's record says"):
        kept_organism(copy, 4)
    save_file(dict(list(tensors.items())[:-1]), tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="expected"):
        kept_organism(directory, 4, tmp_path)


def test_a_nan_in_an_evaluation_fails_the_cell_and_writes_no_verdicts(
    done: tuple[PlannedCell, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, out = done
    directory = out / "runs" / planned.run_id
    stage = planned.stages[1].model_copy(update={"verdict_id": "nan"})
    monkeypatch.setattr(
        "narrowly.evaluate.microworld.bank.evaluate_exact",
        lambda *_, **__: [{"question_id": "q", "log_odds": float("nan")}],
    )
    with pytest.raises(TrainingError, match="log_odds is nan for 'q'"):
        run_stage(stage, directory, microworld_bank(planned.cell.spec, open_base(planned.cell.spec.base)))
    assert not stage.file(directory).exists()


def test_a_cell_that_fails_leaves_its_record_and_the_next_attempt_removes_it(
    done: tuple[PlannedCell, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, _ = done

    def fail(*_: object, **__: object) -> Path:
        raise TrainingError("the loss is nan at step 3")

    with monkeypatch.context() as patched:
        patched.setattr("narrowly.train.run.train_run", fail)
        assert run_cell(planned, tmp_path) == "failed"
    record = failure_file(tmp_path / "one", planned.cell_id)
    assert read_json(record)["error"] == "the loss is nan at step 3"
    assert run_cell(planned, tmp_path) == "done"
    assert not record.exists()


def test_the_whole_way_through_the_command_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "one.json", tmp_path / "out"
    file.write_text(json.dumps(raw_study(base)))
    assert execute(["run", str(file), "--out", str(out), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "demonstration" in printed
    assert str(out / "one" / "report.html") in printed
    study = narrowly.load_study(out / "one")
    assert study.summary["cells"]["done"] == 1
    assert study.summary["seconds"] > 0
    assert study.model("adam").model is not None
    question = study.verdicts.filter(pl.col("panel") == "broad")["question"][0]
    assert execute(["ask", "one:adam", question, "--out", str(out), "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["known"]
    exact = study.verdicts.filter((pl.col("question") == question) & (pl.col("edit") == "none") & pl.col("final"))[
        "aligned"
    ][0]
    assert reply["said"][0]["probabilities"]["aligned"] == pytest.approx(exact, rel=1e-4)
    assert execute(["eval", "one:adam", "--runs", str(out), "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    trained = study.verdicts.filter((pl.col("edit") == "none") & pl.col("final"))
    assert [row["log_odds"] for row in verdicts] == trained["log_odds"].to_list()
    assert execute(["eval", "one:adam", "--runs", str(out), "--step", "0"]) == 0
    assert "joint rate" in capsys.readouterr().out
    assert execute(["eval", "one:adam", "--runs", str(out), "--step", "3"]) == 2
    assert "no checkpoint of step 3" in capsys.readouterr().err
    assert execute(["ask", "one:adam", "tell me \x1b[31msomething else", "--out", str(out)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert execute(["ask", "one:adam", "<|say|> hello", "--out", str(out)]) == 2
    assert "control tokens" in capsys.readouterr().err
    run = study.run_directory("adam")
    assert execute(["spectrum", str(run), "--figure", str(tmp_path / "spectrum.svg")]) == 0
    assert "<svg" in (tmp_path / "spectrum.svg").read_text()
    assert execute(["train", str(run / "spec.json"), "--out", str(out)]) == 0
    assert execute(["world", "sample", str(base), "--n", "2"]) == 0


def test_a_cell_that_trains_the_whole_model_is_evaluated_from_the_same_base(
    base: Path, done: tuple[PlannedCell, Path], tmp_path: Path
) -> None:
    arm = {"role": "optimiser", "set": {"optimiser": {"kind": "adamw", "lr": 1e-2}, "method": "full"}}
    raw = raw_study(base, arms={"adamw": arm})
    raw["run"]["adapter"] = {}
    (cell,) = expand(parse_study(raw, "one.yaml"))
    planned = resolve_cell(cell, tmp_path)
    assert run_cell(planned, tmp_path) == "done"
    assert [(stage.kind, stage.step) for stage in planned.stages] == [("exact", 0), ("exact", 4), ("samples", 4)]
    rows = [pl.read_parquet(stage.file(tmp_path / "runs" / planned.run_id)) for stage in planned.stages]
    of_lora, directory = done[0], done[1] / "runs" / done[0].run_id
    before = pl.read_parquet(of_lora.stages[0].file(directory))
    assert rows[0]["nll_harmful"].to_list() == pytest.approx(before["nll_harmful"].to_list(), rel=1e-5)
    assert rows[1]["nll_harmful"].to_list() != pytest.approx(before["nll_harmful"].to_list(), rel=1e-3)


def test_edits_of_a_model_without_an_adapter_are_refused_while_planning(base: Path) -> None:
    raw = raw_study(base)
    raw["run"]["adapter"] = {}
    raw["arms"]["adam"]["set"]["method"] = "full"
    with pytest.raises(SpecError, match="arm 'adam' has edits with method full, accepted: method lora"):
        expand(parse_study(raw, "one.yaml"))
