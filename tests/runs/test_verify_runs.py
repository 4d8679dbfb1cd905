"""`narrowly verify`: what is whole, what is missing, foreign or damaged, each seen by its own planted fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from narrowly.cli.app import execute
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import RunDirectoryError
from narrowly.records.files import append_jsonl, read_json, write_json
from narrowly.records.run_spec import ResolvedInputs, RunSpec, run_id
from narrowly.runs.verify import Checked, entries, verify_entry

INPUTS = ResolvedInputs(base_sha256="a", config_sha256="b", tokenizer_sha256="c", template_sha256="d", data_sha256="e")


def made_run(runs: Path, seed: int = 0, done: bool = True) -> Path:
    """Return a run directory as training and evaluation leave it, with contents of a few bytes."""
    fields: dict[str, Any] = {"base": "micro-0", "optimiser": {"kind": "adam", "lr": 1e-3}, "steps": 2, "seed": seed}
    spec = RunSpec.model_validate({**fields, "checkpoints": 2, "schedule": {"kind": "constant", "warmup_steps": 0}})
    run = runs / run_id(spec, INPUTS)
    write_json(run / "spec.json", spec.model_dump(mode="json"))
    write_json(run / "inputs.json", INPUTS.model_dump(mode="json"))
    append_jsonl(run / "trajectory.jsonl", *({"step": step, "loss": 1.0} for step in range(3)))
    hashes = {}
    for step in spec.checkpoint_steps():
        weights = run / "checkpoints" / f"step-{step}" / "adapter_model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights %d" % step)
        hashes[str(step)] = sha256_file(weights)
    edit = run / "edits" / "keep_top-k1"
    edit.mkdir(parents=True)
    (edit / "adapter_model.safetensors").write_bytes(b"edited")
    write_json(edit / "edit.json", {"sha256": sha256_file(edit / "adapter_model.safetensors")})
    write_json(run / "evals" / "an-id" / "stage.json", {"answers_id": "an-id"})
    verdicts = run / "evals" / "an-id" / "verdicts" / "v.parquet"
    verdicts.parent.mkdir()
    verdicts.write_bytes(b"PAR1 rows PAR1")
    if done:
        write_json(run / "done", {"run_id": run.name, "steps": 2, "adapter_sha256": hashes})
    else:
        state = run / "resume" / "step-1.pt"
        state.parent.mkdir()
        state.write_bytes(b"state")
        write_json(run / "resume.json", {"step": 1, "sha256": {"resume/step-1.pt": sha256_file(state)}})
    return run


def found(checked: Checked) -> list[tuple[str, str]]:
    return [(fault.kind, fault.path.relative_to(checked.run).as_posix()) for fault in checked.faults]


def test_whole_runs_have_no_fault_done_or_not_and_every_hash_was_compared(tmp_path: Path) -> None:
    finished, begun = made_run(tmp_path), made_run(tmp_path, seed=1, done=False)
    assert finished != begun
    whole = verify_entry(finished)
    assert (whole.done, found(whole)) == (True, [])
    steps = RunSpec.model_validate(read_json(finished / "spec.json")).checkpoint_steps()
    assert whole.hashes == 1 + len(steps) + 1 + 1, "run-id, checkpoints, edit, verdicts"
    assert (verify_entry(begun).done, found(verify_entry(begun))) == (False, [])


@pytest.mark.parametrize(
    ("planted", "kind", "path"),
    [
        ("checkpoints/step-2/adapter_model.safetensors", "damaged", "checkpoints/step-2/adapter_model.safetensors"),
        ("edits/keep_top-k1/adapter_model.safetensors", "damaged", "edits/keep_top-k1/adapter_model.safetensors"),
        ("evals/an-id/verdicts/v.parquet", "damaged", "evals/an-id/verdicts/v.parquet"),
        ("evals/an-id/stage.json", "damaged", "evals/an-id/stage.json"),
        ("trajectory.jsonl", "damaged", "."),
        ("done", "damaged", "."),
        ("spec.json", "damaged", "."),
    ],
)
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, planted: str, kind: str, path: str) -> None:
    run = made_run(tmp_path)
    file = run / planted
    file.write_bytes(file.read_bytes()[:-3])
    assert found(verify_entry(run)) == [(kind, path)]


@pytest.mark.parametrize(
    ("gone", "kind", "path"),
    [
        ("checkpoints/step-2", "missing", "checkpoints/step-2"),
        ("checkpoints/step-0/adapter_model.safetensors", "missing", "checkpoints/step-0/adapter_model.safetensors"),
        ("edits/keep_top-k1/edit.json", "missing", "edits/keep_top-k1/edit.json"),
        ("inputs.json", "missing", "."),
    ],
)
def test_what_a_record_names_and_is_not_there_is_missing(tmp_path: Path, gone: str, kind: str, path: str) -> None:
    run = made_run(tmp_path)
    shutil.rmtree(run / gone) if (run / gone).is_dir() else (run / gone).unlink()
    assert found(verify_entry(run)) == [(kind, path)]


def test_the_state_of_an_unfinished_run_is_compared_too(tmp_path: Path) -> None:
    run = made_run(tmp_path, done=False)
    (run / "resume" / "step-1.pt").write_bytes(b"other")
    assert found(verify_entry(run)) == [("damaged", "resume/step-1.pt")]


def test_other_runs_other_folders_and_other_checkpoints_are_foreign(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    moved = run.rename(tmp_path / "0123456789abcdef")
    assert found(verify_entry(moved)) == [("foreign", ".")]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    assert found(verify_entry(photos)) == [("foreign", ".")]
    (tmp_path / "notes.txt").write_text("mine")
    assert verify_entry(tmp_path / "notes.txt").faults[0].kind == "foreign"
    again = made_run(tmp_path)
    shutil.copytree(again / "checkpoints" / "step-2", again / "checkpoints" / "step-1")
    assert found(verify_entry(again)) == [("foreign", "checkpoints/step-1")]
    (tmp_path / ".claims").mkdir()
    assert [path.name for path in entries(tmp_path)] == sorted([again.name, moved.name, "notes.txt", "photos"])


def test_no_folder_of_runs_is_an_error_and_not_a_clean_bill(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no folder of runs"):
        entries(tmp_path / "runs")


def test_the_command_says_so_and_its_exit_code_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "runs")
    assert execute(["verify", str(tmp_path)]) == 0
    assert "1 runs, 1 of them done, " in capsys.readouterr().out
    (run / "checkpoints" / "step-2" / "adapter_model.safetensors").write_bytes(b"other")
    assert execute(["verify", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [fault["kind"] for fault in told["faults"]] == ["damaged"]
    assert execute(["verify", str(tmp_path / "nothing")]) == 2
    assert "no folder of runs" in capsys.readouterr().err
