"""A stop at every moment of a run: while it loads, in an evaluation, at its last step; what is kept and said."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import StopError, files, stop_after
from transformers import Trainer

from ctrl_c import heard_ctrl_c
from narrowly.engines.stopping import Stopped, Terminated
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import read_json, read_jsonl, write_json
from narrowly.train import share
from narrowly.train.inputs import load_inputs
from narrowly.train.observe import ObserverContext
from narrowly.train.process_group import ProcessGroup
from narrowly.train.run import run_directory, train_run
from tiny_base import make_spec, only_run

Tiny = tuple[Path, Path]


def raise_at(step: int, number: int = signal.SIGTERM) -> Any:
    def on_step(now: int, total: int, row: dict[str, Any]) -> None:
        if now == step:
            signal.raise_signal(number)

    return on_step


def test_a_stop_between_checkpoints_goes_on_from_its_step(tiny: Tiny, tmp_path: Path) -> None:
    spec, said = make_spec(*tiny), list[str]()
    with pytest.raises(Terminated):
        train_run(spec, tmp_path / "a", on_step=raise_at(4), say=said.append)
    run = only_run(tmp_path / "a")
    assert [path.name for path in (run / "resume").iterdir()] == ["step-4.pt"]
    assert not (run / "failed.json").exists() and not list((tmp_path / "a" / ".claims").iterdir())
    trained: list[int] = []
    train_run(spec, tmp_path / "a", on_step=lambda step, total, row: trained.append(step), say=said.append)
    assert trained == [5, 6]
    assert said == ["stopped at step 4; the same command goes on from 4", "goes on from step 4 of 6"]
    assert files(run) == files(train_run(spec, tmp_path / "b", save_every=0))


def look(context: ObserverContext) -> dict[str, float]:
    return {"looked": context.step / 2}


@pytest.mark.parametrize("step", [0, 2, 6])
def test_a_stop_in_an_evaluation_keeps_the_step_and_evaluates_it_later(step: int, tiny: Tiny, tmp_path: Path) -> None:
    def pressed(context: ObserverContext) -> dict[str, float]:
        if context.step == step:
            signal.raise_signal(signal.SIGTERM)
        return {}

    spec = make_spec(*tiny)
    with pytest.raises(Terminated, match=f"stopped at step {step}; the same command goes on from {step}"):
        train_run(spec, tmp_path / "a", observers=[pressed, look])
    run = only_run(tmp_path / "a")
    assert len(read_jsonl(run / "trajectory.jsonl") if step else []) == step
    reported: list[int] = []
    train_run(spec, tmp_path / "a", observers=[look], on_step=lambda now, total, row: reported.append(now))
    assert reported == list(range(max(step, 1), 7)), "its own step is reported now, and no other twice"
    assert files(run) == files(train_run(spec, tmp_path / "b", observers=[look]))
    assert [row["step"] for row in read_jsonl(run / "speed.jsonl")] == list(range(1, 7))


def test_a_stop_in_the_last_step_finishes_the_run_first(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(Terminated, match="stopped at step 6, the last one; the run is finished"):
        train_run(make_spec(*tiny), tmp_path, on_step=raise_at(6))
    run = only_run(tmp_path)
    assert (run / "done").is_file() and not (run / "resume").exists()


def test_a_stop_while_the_model_is_loaded_writes_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "build_state", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Terminated, match="stopped before training began"):
        train_run(make_spec(*tiny), tmp_path)
    assert not list(tmp_path.glob("*"))


def test_a_second_ctrl_c_ends_at_once_and_falls_back_to_the_newest_state(tiny: Tiny, tmp_path: Path) -> None:
    def twice(now: int, total: int, row: dict[str, Any]) -> None:
        if now == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with heard_ctrl_c(), pytest.raises(KeyboardInterrupt) as caught:
        train_run(make_spec(*tiny), tmp_path, on_step=twice)
    assert not isinstance(caught.value, Stopped)
    assert read_json(only_run(tmp_path) / "resume.json")["step"] == 2


def test_the_interval_is_no_part_of_the_run_and_below_0_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"save_every is -1, accepted: minutes"):
        train_run(make_spec(*tiny), tmp_path, save_every=-1)
    with pytest.raises(StopError):
        train_run(make_spec(*tiny), tmp_path, on_step=stop_after(5), save_every=0)
    assert read_json(run_directory(make_spec(*tiny), tmp_path) / "resume.json")["step"] == 5


def test_a_micro_batch_that_did_not_fit_is_not_tried_again_after_a_stop(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, original = list[int](), Trainer.training_step

    def tight(self: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if len(inputs["input_ids"]) > 2:
            failures.append(len(inputs["input_ids"]))
            raise torch.OutOfMemoryError("too much")
        loss: torch.Tensor = original(self, model, inputs, num_items_in_batch)
        return loss

    monkeypatch.setattr(Trainer, "training_step", tight)
    with pytest.raises(Terminated):
        train_run(make_spec(*tiny), tmp_path / "a", on_step=raise_at(3))
    assert failures == [4]
    resumed = train_run(make_spec(*tiny), tmp_path / "a")
    assert failures == [4]
    assert files(resumed) == files(train_run(make_spec(*tiny), tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("done", "", "done is not valid JSON"),
        ("done", '{"run_', "done is not valid JSON"),
        ("done", "{}", "does not say that 6 steps of run .* are done; move .* give the same command again"),
        ("trajectory.jsonl", "", "ends at step nothing, expected 6: the file was cut off"),
    ],
)
def test_a_finished_run_whose_records_were_cut_off_is_one_clear_line(
    name: str, content: str, message: str, tiny: Tiny, tmp_path: Path
) -> None:
    run = train_run(make_spec(*tiny), tmp_path)
    (run / name).write_text(content)
    with pytest.raises(IntegrityError, match=message):
        train_run(make_spec(*tiny), tmp_path)


def test_a_finished_run_that_lost_rows_or_a_checkpoint_is_named(tiny: Tiny, tmp_path: Path) -> None:
    run = train_run(make_spec(*tiny), tmp_path)
    lines = (run / "trajectory.jsonl").read_text().splitlines(keepends=True)
    (run / "trajectory.jsonl").write_text("".join(lines[:4]) + lines[4][:9])
    with pytest.raises(IntegrityError, match="ends at step 3, expected 6"):
        train_run(make_spec(*tiny), tmp_path)
    (run / "trajectory.jsonl").write_text("".join(lines))
    write_json(run / "done", {**read_json(run / "done"), "steps": 5})
    with pytest.raises(IntegrityError, match="does not say that 6 steps"):
        train_run(make_spec(*tiny), tmp_path)


class MetError(Exception):
    """Ends a run where its processes wait for each other."""


class Meeting(ProcessGroup):
    """The first of two processes, the other of which is slow."""

    def broadcast(self, number: int) -> int:
        return number

    def barrier(self) -> None:
        raise MetError

    def check_equal(self, parameters: Any, step: int) -> None:
        raise MetError


def test_a_step_is_not_evaluated_later_before_all_processes_have_read_the_state_that_this_replaces(
    tiny: Tiny, tmp_path: Path
) -> None:
    def pressed(context: ObserverContext) -> dict[str, float]:
        if context.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return {}

    with pytest.raises(Terminated):
        train_run(make_spec(*tiny), tmp_path, observers=[pressed, look])
    run, inputs = only_run(tmp_path), load_inputs(make_spec(*tiny))
    job = share.Job(inputs.spec, inputs, run, (), allow_version_change=False)
    with pytest.raises(MetError):
        share.train_share(job, nullcontext(), print, Meeting(0, 2))
    assert [path.name for path in (run / "resume").iterdir()] == ["step-2-unmeasured.pt"]
