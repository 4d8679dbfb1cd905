"""A killed run, resumed, is the run that was never interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from narrowly.records.errors import IntegrityError, ResumeError
from narrowly.records.files import read_json, read_jsonl, write_json
from narrowly.train import environment
from narrowly.train.run import train_run
from tiny_base import make_spec, only_run

Tiny = tuple[Path, Path]


class StopError(Exception):
    """Stands for anything that ends a run half way."""


def stop_after(step: int) -> Any:
    def on_step(now: int, total: int, row: dict[str, Any]) -> None:
        if now == step:
            raise StopError(f"step {now} of {total}")

    return on_step


def files(run: Path) -> dict[str, bytes]:
    """Content of every file but those that hold times and machine."""
    unlike = {"environment.json", "done", "speed.jsonl"}
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name not in unlike}


def killed_everywhere(tiny: Tiny, out: Path, every: int, settings: str = "lora") -> None:
    here = Path(__file__).parents[1] / "shared"
    paths = os.pathsep.join([str(here), *(p for p in sys.path if p)])
    command = [sys.executable, str(here / "killed_runs.py"), str(tiny[0]), str(tiny[1]), str(out), str(every), settings]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout.splitlines()[-1])
    whole = only_run(out / "whole")
    assert len(report["points"]) > 5
    for point in report["points"]:
        resumed = only_run(out / str(point))
        assert files(resumed) == files(whole), f"killed at event {point} of {report['events']}"
        assert (resumed / "done").is_file()


def test_a_run_killed_at_any_of_many_moments_and_resumed_is_the_same_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    killed_everywhere(tiny, tmp_path, every=13)


@pytest.mark.slow
def test_a_run_killed_at_every_single_file_system_event_and_resumed_is_the_same(tiny: Tiny, tmp_path: Path) -> None:
    killed_everywhere(tiny, tmp_path, every=1)


@pytest.mark.parametrize(("step", "newest"), [(1, 0), (2, 2), (3, 2), (5, 2), (6, 6)])
def test_a_resume_continues_from_the_newest_checkpoint_without_double_rows(
    step: int, newest: int, tiny: Tiny, tmp_path: Path
) -> None:
    spec = make_spec(*tiny)  # checkpoints at 0, 2 and 6
    with pytest.raises(StopError):
        train_run(spec, tmp_path / "a", on_step=stop_after(step))
    stopped = only_run(tmp_path / "a")
    assert read_json(stopped / "failed.json")["step"] == step
    trained: list[int] = []
    resumed = train_run(spec, tmp_path / "a", on_step=lambda now, total, row: trained.append(now))
    assert trained == list(range(newest + 1, 7))
    assert [row["step"] for row in read_jsonl(resumed / "trajectory.jsonl")] == list(range(7))
    assert files(resumed) == files(train_run(spec, tmp_path / "b"))
    assert [part["step"] for part in read_json(resumed / "environment.json")["resumed"]] == [newest]


@pytest.mark.parametrize(
    "optimiser",
    [
        {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
        {"kind": "adamw", "lr": 1e-2},
        {"kind": "lion", "lr": 1e-3},
        {"kind": "muon", "lr": 1e-2},
        {"kind": "ademamix", "lr": 1e-2},
        {"kind": "adafactor", "lr": 0.1},
        {"kind": "prodigy", "d0": 1e-3},
        {"kind": "soap", "lr": 1e-2, "precondition_frequency": 2},
        {"kind": "lora_rite", "lr": 1e-2},
        {"kind": "adam", "lr": 1e-3, "lora_plus_ratio": 16},
    ],
    ids=lambda fields: fields["kind"],
)
def test_the_state_of_every_optimiser_is_resumed_exactly(optimiser: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, optimiser=optimiser, schedule={"kind": "linear", "warmup_steps": 1}, max_grad_norm=1.0)
    with pytest.raises(StopError):
        train_run(spec, tmp_path / "a", on_step=stop_after(3))
    assert files(train_run(spec, tmp_path / "a")) == files(train_run(spec, tmp_path / "b"))


def test_only_the_newest_resume_state_is_kept_apart_from_the_checkpoints_and_goes_with_the_end(
    tiny: Tiny, tmp_path: Path
) -> None:
    spec = make_spec(*tiny)
    with pytest.raises(StopError):
        train_run(spec, tmp_path, on_step=stop_after(4))
    run = only_run(tmp_path)
    assert [str(path.relative_to(run)) for path in run.rglob("*.pt")] == ["resume/step-2.pt"]
    train_run(spec, tmp_path)
    assert not list(run.rglob("resume*"))
    assert not (run / "failed.json").exists()
    assert not list(run.rglob("training_args.bin"))


def test_a_torn_last_row_is_dropped(tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny)
    with pytest.raises(StopError):
        train_run(spec, tmp_path / "a", on_step=stop_after(4))
    run = only_run(tmp_path / "a")
    with (run / "trajectory.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    train_run(spec, tmp_path / "a")
    assert files(run) == files(train_run(spec, tmp_path / "b"))


def stopped_run(tiny: Tiny, folder: Path) -> Path:
    with pytest.raises(StopError):
        train_run(make_spec(*tiny), folder, on_step=stop_after(4))
    return only_run(folder)


def test_a_resume_under_other_versions_is_refused_with_both_versions_unless_it_is_asked_for(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_run(tiny, tmp_path)
    now = environment.versions()
    before = files(run)
    monkeypatch.setattr(environment, "versions", lambda: {**now, "torch": "9.9.9"})
    with pytest.raises(ResumeError, match=rf"torch {now['torch'].replace('+', '.')} -> 9\.9\.9.*allow_version_change"):
        train_run(make_spec(*tiny), tmp_path)
    assert files(run) == before
    train_run(make_spec(*tiny), tmp_path, allow_version_change=True)
    record = read_json(run / "environment.json")
    assert record["versions"] == now
    assert record["resumed"][0]["versions"]["torch"] == "9.9.9"


def test_a_resume_state_that_was_exchanged_is_not_read(tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_run(tiny, tmp_path)
    (run / "resume/step-2.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    before = files(run)
    with pytest.raises(IntegrityError, match=r"step-2\.pt has sha256 .*resume\.json says .*; remove .*resume\.json"):
        train_run(make_spec(*tiny), tmp_path)
    assert files(run) == before


def test_a_state_that_another_run_has_written_is_not_resumed_from(tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_run(tiny, tmp_path / "a")
    with pytest.raises(StopError):
        train_run(make_spec(*tiny, seed=1), tmp_path / "b", on_step=stop_after(4))
    other = only_run(tmp_path / "b")
    for name in ("resume.json", "resume/step-2.pt"):
        shutil.copyfile(other / name, run / name)
    with pytest.raises(IntegrityError, match=f"step-2.pt is of step 2 of run {other.name}"):
        train_run(make_spec(*tiny), tmp_path / "a")


@pytest.mark.parametrize("name", ["resume.json", "environment.json", "spec.json", "inputs.json"])
def test_a_broken_record_is_named_and_nothing_is_deleted(name: str, tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_run(tiny, tmp_path)
    for content in ("{", "[]", '{"step": "2"}'):
        (run / name).write_text(content)
        before = files(run)
        with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
            train_run(make_spec(*tiny), tmp_path)
        assert files(run) == before


def test_a_trajectory_with_a_missing_row_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_run(tiny, tmp_path)
    lines = (run / "trajectory.jsonl").read_text().splitlines()
    (run / "trajectory.jsonl").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(
        IntegrityError, match=r"trajectory\.jsonl does not hold one row for each of the steps 0 \.\.\. 2"
    ):
        train_run(make_spec(*tiny), tmp_path)


def test_a_run_that_lost_a_checkpoint_is_not_called_done(tiny: Tiny, tmp_path: Path) -> None:
    run = stopped_run(tiny, tmp_path)
    shutil.rmtree(run / "checkpoints/step-0")
    with pytest.raises(IntegrityError, match=r"has checkpoints of steps 2, 6, expected 0, 2, 6"):
        train_run(make_spec(*tiny), tmp_path)
    assert not (run / "done").exists()


def test_a_done_marker_of_another_run_does_not_count(tiny: Tiny, tmp_path: Path) -> None:
    run = train_run(make_spec(*tiny), tmp_path)
    spec = read_json(run / "spec.json")
    write_json(run / "spec.json", {**spec, "seed": 1})
    with pytest.raises(OSError, match="foreign directory"):
        train_run(make_spec(*tiny), tmp_path)
