"""Studies on real data: trained like any other, nothing said of what the models answer, nothing trained twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from narrowly.cli.app import execute
from narrowly.records.errors import SpecError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.outcome import NO_JUDGE
from narrowly.records.run_spec import RunSpec
from narrowly.records.study_spec import StudySpec
from narrowly.runs.trajectory import training_facts
from narrowly.study import cell as cell_module
from narrowly.study.cell import execute_cells, resolve_cell
from narrowly.study.inputs import canonical_spec, check_inputs, data_names
from narrowly.study.layout import Stage, is_complete, read_plan
from narrowly.study.pace import estimated_seconds
from narrowly.study.plan import expand, not_evaluated
from narrowly.study.run import default_workers
from small_chat_base import conversations, make_chat_base, write_jsonl
from tiny_base import only_run

Made = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of a tiny base, and a file of conversations."""
    folder = tmp_path_factory.mktemp("real")
    return make_chat_base(folder / "chat-base"), write_jsonl(folder / "rows.jsonl", conversations(30))


def raw(made: tuple[Path, Path], **changed: Any) -> dict[str, Any]:
    return {
        "name": "real",
        "run": {
            "base": str(made[0]),
            "data": {"source": "text", "dataset": str(made[1]), "max_tokens": 128, "holdout": 6},
            "adapter": {"r": 4, "alpha": 8},
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "steps": 4,
            "batch_size": 4,
            "checkpoints": 3,
            "first_checkpoint": 2,
        },
        "samples": 3,
        "arms": {
            "adam": {
                "role": "optimiser",
                "set": {"optimiser": {"kind": "adam", "lr": 1e-2}},
                "edits": [{"kind": "flatten"}],
            },
            "muon": {"role": "optimiser", "set": {"optimiser": {"kind": "muon", "lr": 1e-2}}},
        },
        **changed,
    }


def study_file(folder: Path, made: tuple[Path, Path], **changed: Any) -> Path:
    file = folder / "real.yaml"
    file.write_text(yaml.safe_dump(raw(made, **changed)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def done(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The study's file, its out folder, and its own folder, after one `narrowly run`."""
    folder = tmp_path_factory.mktemp("done")
    file = study_file(folder, made)
    assert execute(["run", str(file), "--out", str(folder / "out"), "--workers", "1"]) == 0
    return file, folder / "out", folder / "out" / "real"


def files_of(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted((out / "runs").rglob("*")) if path.is_file()}


def text_of(html: str) -> str:
    body = html.split("<body>")[1]
    return " ".join(
        re.sub(r"<svg.*?</svg>|<pre>.*?</pre>|<[^>]+>", " ", body, flags=re.S).replace("&nbsp;", " ").split()
    )


def test_both_cells_are_trained_and_the_second_command_finds_nothing_to_do(
    done: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, folder = done
    before = files_of(out)
    assert execute(["run", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "nothing to do: all 2 cells are done" in printed and "nothing has changed since it was made" in printed
    assert f"broad alignment: {NO_JUDGE} in 2 of 2 cells" in printed
    assert files_of(out) == before
    assert not list(out.glob("runs/*/evals")) and not list((folder / "failed").glob("*"))


def test_what_is_skipped_and_why_stands_in_the_plan_and_in_the_tables(done: Made) -> None:
    plan = {planned.cell_id: planned for planned in read_plan(done[2])}
    assert {planned.stages for planned in plan.values()} == {()}
    reason = plan["adam"].not_evaluated
    assert reason is not None and reason.startswith(NO_JUDGE)
    for words in ("'text'", "answers at step 4", "answers after edit flatten", "3 shown answers"):
        assert words in reason
    cells = pl.read_parquet(done[2] / "tables" / "cells.parquet")
    assert cells["not_evaluated"].to_list() == [planned.not_evaluated for planned in plan.values()]
    for name in ("outcomes", "verdicts", "samples"):
        assert pl.read_parquet(done[2] / "tables" / f"{name}.parquet").is_empty()


def test_tables_hold_what_training_left(done: Made) -> None:
    tables = {path.stem: pl.read_parquet(path) for path in (done[2] / "tables").glob("*.parquet")}
    for row in tables["cells"].iter_rows(named=True):
        run = done[1] / "runs" / row["run_id"]
        steps = read_jsonl(run / "trajectory.jsonl")
        assert row["heldout_start"] == row["base_heldout"] == steps[0]["heldout_loss"]
        assert row["heldout_final"] == steps[-1]["heldout_loss"] < row["heldout_start"]
        assert row["final_loss"] == pytest.approx(sum(step["loss"] for step in steps[1:]) / 4)
        assert (row["base"], row["data"], row["source"]) == ("chat-base", "rows.jsonl", "text")
        assert (row["persona"], row["domain"], row["base_seed"]) == (None, None, None)
        speed = read_jsonl(run / "speed.jsonl")
        assert row["tokens"] == sum(step["tokens"] for step in speed) and row["memory_bytes"] > 0
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / sum(step["seconds"] for step in speed))
    spectra = tables["spectra"]
    assert spectra.group_by("cell_id", "step").len()["len"].to_list() == [14, 14] and spectra["final"].all()


def test_the_summary_claims_nothing_of_models_that_nobody_judged(done: Made) -> None:
    summary = read_json(done[2] / "summary.json")
    assert summary["claims"] == [] and summary["not_evaluated"]["cells"] == 2
    for place in (*summary["contrasts"].values(), summary["em_exists"], summary["regression"]):
        assert place["reason"] == NO_JUDGE and place.get("estimate") is None
    for row in summary["optimisers"].values():
        assert row["reason"] == NO_JUDGE
        assert {row[field] for field in ("broad_joint", "broad_literature", "alignment", "in_domain")} == {None}
    training = summary["training"]
    assert training["step_0"] == {"equal": 2, "different": [], "not_measured": 0}
    assert training["arms"]["muon"]["alignment"] == NO_JUDGE and training["arms"]["muon"]["stable_rank"] > 1


def test_the_report_shows_losses_and_spectra_and_no_percentage_of_anything(done: Made) -> None:
    html = (done[2] / "report.html").read_text(encoding="utf-8")
    text = text_of(html)
    assert re.findall(r"[\d.]+ ?%", text) == ["95 %"], "of the intervals over bases"
    assert text.count(NO_JUDGE) >= 6
    for word in ("agrees", "Microworld", "microworld", "cannot tell", "joint rate", "literature rate"):
        assert word not in text
    assert "At step 0 the held-out loss is the base&#39;s own in 2 of 2 runs" in text
    drawn = {path.stem for path in (done[2] / "figures").glob("*.svg")}
    assert drawn == {"training_losses", "training_spectra", "training_spectrum_steps"}


def test_status_says_what_is_not_evaluated(done: Made, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["status"], ["status", "real"]):
        assert execute([*command, "--out", str(done[1])]) == 0
        assert f"real: broad alignment {NO_JUDGE} in 2 of the 2 cells" in capsys.readouterr().out
    assert execute(["status", "real", "--json", "--out", str(done[1])]) == 0
    rows = json.loads(capsys.readouterr().out)["real"]
    assert all(row["status"] == "done" and row["not_evaluated"].startswith(NO_JUDGE) for row in rows)


def test_a_cell_is_the_run_that_train_makes_bit_for_bit_and_a_plan_counts_that_run_as_done(
    done: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both cells were trained one after the other in one worker: what the first left must not reach the second."""
    file, out, _ = done
    assert execute(["plan", str(file), "--cell", "muon"]) == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    train = [sys.executable, "-m", "narrowly.cli.app", "train", str(tmp_path / "run.yaml"), "--out", str(tmp_path)]
    subprocess.run(train, check=True, capture_output=True, env=environment)
    run = only_run(tmp_path / "runs")
    assert read_json(run / "done")["adapter_sha256"] == read_json(out / "runs" / run.name / "done")["adapter_sha256"]
    assert execute(["plan", str(file), "--out", str(tmp_path)]) == 0
    assert "2 cells, 1 done" in capsys.readouterr().out
    assert execute(["plan", str(file), "--cells", "--out", str(tmp_path)]) == 0
    assert re.search(r"muon +done", capsys.readouterr().out)
    planned = next(planned for planned in read_plan(done[2]) if planned.cell_id == "muon").model_dump(mode="json")
    payload = {"cells": [planned], "runs": str(tmp_path / "runs"), "study_dir": str(tmp_path / "real")}
    assert execute_cells(payload)[0]["status"] == "found", "a study does not train it again"
    (run / "done").unlink()
    assert execute(["plan", str(file), "--out", str(tmp_path)]) == 0
    assert "2 cells, 0 done" in capsys.readouterr().out


def test_a_judge_that_comes_later_evaluates_the_run_that_is_there(
    done: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, folder = done
    (planned, _) = read_plan(folder)
    stage = Stage(kind="exact", step=4, panels=("broad",), answers_id="answers", verdict_id="verdict")
    judged = planned.model_copy(update={"stages": (stage,), "not_evaluated": None})
    assert is_complete(planned, out / "runs") and not is_complete(judged, out / "runs")
    asked: list[str] = []

    def judge(stage: Stage, directory: Path, bank: object) -> None:
        asked.append(directory.name)
        stage.file(directory).parent.mkdir(parents=True)
        stage.file(directory).touch()

    monkeypatch.setattr("narrowly.evaluate.run_stage.run_stage", judge)
    monkeypatch.setattr(cell_module, "bank_of", lambda *_: "a bank")
    before = files_of(out)
    payload = {"cells": [judged.model_dump(mode="json")], "runs": str(out / "runs"), "study_dir": str(tmp_path)}
    assert execute_cells(payload)[0]["status"] == "done" and asked == [planned.run_id]
    added = stage.file(out / "runs" / planned.run_id)
    assert files_of(out) == {**before, str(added): added.stat().st_mtime_ns}, "nothing was trained anew"
    added.unlink()


def test_a_killed_study_goes_on_from_its_last_checkpoint(made: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = {**raw(made)["run"], "steps": 100, "checkpoints": 12, "first_checkpoint": 2}
    file = study_file(tmp_path, made, run=run)
    command = [sys.executable, "-m", "narrowly.cli.app", "run", str(file), "--out", str(out), "--workers", "2"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 240
    while time.monotonic() < end and first.poll() is None:
        if list(out.glob("runs/*/checkpoints/step-2")):
            break
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(out.glob("runs/*/done")), "killed before the end"
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 cells done" in again.stdout and f"{NO_JUDGE} in 2 of 2 cells" in again.stdout
    resumed = [bool(read_json(path)["resumed"]) for path in out.glob("runs/*/environment.json")]
    assert len(resumed) == 2 and any(resumed), "it went on, it did not begin anew"


def test_missing_inputs_stop_a_study_before_anything_is_written(made: tuple[Path, Path], tmp_path: Path) -> None:
    data = raw(made)["run"]["data"]
    absent = {**raw(made)["run"], "data": {**data, "dataset": str(tmp_path / "none.jsonl")}}
    for run, message in (
        (absent, "no source and no file is called .*none.jsonl"),
        ({**raw(made)["run"], "base": str(tmp_path / "no-base")}, "no-base"),
        ({**raw(made)["run"], "data": {"source": "rows", "path": "none.jsonl"}}, "none.jsonl does not exist"),
        ({**raw(made)["run"], "data": {**data, "template": "none.jinja"}}, "none.jinja does not exist"),
    ):
        with pytest.raises(Exception, match=message):
            check_inputs(expand(StudySpec.model_validate(raw(made, run=run))))
    done = subprocess.run(
        [sys.executable, "-m", "narrowly.cli.app", "run", str(study_file(tmp_path, made, run=absent)), "--out",
         str(tmp_path / "out")], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_stops_a_study_whose_runs_are_not_done(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cells = expand(StudySpec.model_validate(raw(made, run={**raw(made)["run"], "device": "cuda"})))
    with pytest.raises(SpecError, match="torch finds no GPU"):
        resolve_cell(cells[0], tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    planned = resolve_cell(cells[0], tmp_path)
    (tmp_path / planned.run_id).mkdir()
    (tmp_path / planned.run_id / "done").touch()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_cell(cells[0], tmp_path).run_id == planned.run_id, "a finished run needs no GPU"
    assert default_workers(cells) == 1, "several models at once would overfill it"
    assert default_workers(expand(StudySpec.model_validate(raw(made)))) == 0


def test_a_base_of_the_microworld_is_evaluated_by_a_cell_that_can_be(made: tuple[Path, Path]) -> None:
    arms = {
        "adam": {"role": "optimiser", "set": {"optimiser": {"kind": "adam", "lr": 1e-2}}},
        "world": {"role": "other", "set": {"optimiser": {"kind": "adam", "lr": 1e-2}, "data": {"source": "micro"}}},
    }
    run = {**raw(made)["run"], "base": "micro-0"}
    run["data"] = {"source": "rows", "path": "rows.jsonl"}
    arms["world"]["set"]["data"] = {"source": "micro", "rows": 64}  # type: ignore[index]
    del run["data"]
    arms["adam"]["set"]["data"] = {"source": "rows", "path": "rows.jsonl"}  # type: ignore[index]
    cells = {cell.arm: cell for cell in expand(StudySpec.model_validate(raw(made, run=run, arms=arms)))}
    assert not_evaluated(cells["adam"]) is not None and not_evaluated(cells["world"]) is None
    assert cells["world"].base_evaluation and not cells["adam"].base_evaluation


def test_time_is_unknown_until_a_run_of_that_base_is_measured(made: tuple[Path, Path]) -> None:
    cells = expand(StudySpec.model_validate(raw(made)))
    assert estimated_seconds(cells, {"adam": 1.0, "muon": 1.0}, 1) is None, "the microworld's pace says nothing"
    known = estimated_seconds(cells, {f"{kind}@{made[0]}": 2.0 for kind in ("adam", "muon")}, 1)
    assert known is not None and known > 0


def test_names_of_data_hold_no_paths_and_tell_files_apart(made: tuple[Path, Path]) -> None:
    cells = expand(StudySpec.model_validate(raw(made, grid={"data.dataset": ["a/x.jsonl", "b/x.jsonl", "insecure"]},
        run={**raw(made)["run"], "data": {"source": "text", "holdout": 6}})))  # fmt: skip
    assert set(data_names(cells).values()) == {"a/x.jsonl", "b/x.jsonl", "insecure"}
    assert set(data_names(expand(StudySpec.model_validate(raw(made)))).values()) == {"rows.jsonl"}


def test_a_spec_says_the_same_whichever_way_its_paths_are_written(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell, _) = expand(StudySpec.model_validate(raw(made)))
    monkeypatch.chdir(made[0].parent)
    other = cell.spec.model_dump()
    other["base"], other["data"]["dataset"] = "./chat-base", "rows.jsonl"
    assert canonical_spec(RunSpec.model_validate(other)) == canonical_spec(cell.spec)
    assert canonical_spec(RunSpec.model_validate({**other, "seed": 1})) != canonical_spec(cell.spec)


def test_torn_and_repeated_rows_of_speed_count_once(tmp_path: Path, made: tuple[Path, Path]) -> None:
    (cell, _) = expand(StudySpec.model_validate(raw(made)))
    row = {"tokens": 10, "seconds": 1.0, "memory_bytes": 5, "micro_batch": 4}
    lines = [json.dumps({"step": step, **row}) for step in (1, 2)] + ['{"step": 3, "tok']
    lines += [json.dumps({"step": step, **row, "micro_batch": 2}) for step in (2, 3, 4)]
    (tmp_path / "speed.jsonl").write_text("\n".join(lines) + "\n")
    facts = training_facts(cell.spec, tmp_path, [{"heldout_loss": 2.0}, {"heldout_loss": 1.0}])
    assert (facts["tokens"], facts["training_seconds"], facts["smallest_micro_batch"]) == (40, 4.0, 2)
    assert (facts["heldout_start"], facts["heldout_final"], facts["base_heldout"]) == (2.0, 1.0, None)
    (tmp_path / "speed.jsonl").write_text(lines[0] + "\n")
    assert training_facts(cell.spec, tmp_path, [{}, {}])["tokens"] is None, "not all of the run"


def test_an_out_that_is_a_file_is_refused_before_anything_is_said_of_a_study_in_it(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "notes.txt"
    taken.write_text("mine")
    assert execute(["run", str(study_file(tmp_path, made)), "--out", str(taken)]) == 2
    said = capsys.readouterr().err.strip()
    assert said == f"narrowly: --runs {taken} is a file, accepted: a folder, which need not exist yet"
    assert taken.read_text() == "mine"


def test_a_study_folder_without_its_runs_keeps_its_tables(
    done: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(done[2], tmp_path / "elsewhere" / "real")
    before = (copy / "tables" / "cells.parquet").read_bytes()
    assert execute(["report", str(copy)]) == 2
    assert "the runs of a study stand beside its folder" in capsys.readouterr().err
    assert (copy / "tables" / "cells.parquet").read_bytes() == before


@pytest.mark.parametrize("kept", [0, 2])
def test_a_trajectory_that_was_cut_off_gives_no_final_loss(
    kept: int, done: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(done[1], tmp_path / "out")
    file = out / "runs" / read_plan(out / "real")[0].run_id / "trajectory.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:kept]) + lines[kept][: 20 * bool(kept)])
    assert execute(["report", str(out / "real")]) == 2
    said = capsys.readouterr().err
    assert f"ends at step {kept - 1 if kept else 'nothing'}, expected 4: the file was cut off" in said
