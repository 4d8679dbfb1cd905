"""Runs reported to trackers: what they get, that they cannot disturb a run, and that no step reaches them twice."""

from __future__ import annotations

import importlib.util
import inspect
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_trackers import FAKES, Told, fake_mlflow, fake_trackio, fake_wandb
from narrowly.cli.app import execute
from narrowly.integrations import reporting as reporting_module
from narrowly.integrations.reporting import Reporting, config_of
from narrowly.integrations.trackers import TRACKERS, check_trackers
from narrowly.records.errors import MissingExtraError, SpecError, UnknownNameError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.train.run import train_run
from small_chat_base import conversations, make_chat_base, text_spec, write_jsonl
from tiny_base import make_spec

Tiny = tuple[Path, Path]


def reported(
    spec: RunSpec, out: Path, names: list[str], *, group: str | None = None, **more: Any
) -> tuple[Path, list[str]]:
    """Train with trackers; return the run directory and every warning."""
    warnings: list[str] = []
    return train_run(spec, out / "runs", reporting=Reporting(names, out, warnings.append, group), **more), warnings


def stopped_at(step: int) -> Any:
    def on_step(done: int, total: int, row: dict[str, Any]) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def wait_for(told: Told, count: int) -> None:
    """A stopped run does not wait for its trackers for long; a test does."""
    for thread in threading.enumerate():
        if thread.name.startswith("tracker "):
            thread.join(20)
    assert sum(len(rows) for rows in told.rows.values()) == count


@pytest.mark.parametrize("name", FAKES)
def test_a_tracker_gets_every_row_under_the_runs_id_with_the_spec_and_no_machine_path(
    name: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = FAKES[name](monkeypatch)
    looked = {"look": lambda context: {"seen": float(context.step)}}
    run, warnings = reported(make_spec(*tiny), tmp_path, [name], group="a-study", observers=[looked["look"]])
    assert warnings == []
    (opened,) = told.opened
    assert (opened["name"], opened["group"], opened["project"]) == (run.name, "a-study", "narrowly")
    assert str(tiny[0].parent) not in json.dumps(opened)
    config = opened["config"]
    assert (config.get("optimiser.lr") or config["optimiser"]["lr"]) in (0.01, "0.01")
    assert config["base"] == "tiny-base"
    rows = read_jsonl(run / "trajectory.jsonl")
    assert told.steps(run.name) == [row["step"] for row in rows]
    for row, (_, values) in zip(rows, told.rows[run.name], strict=True):
        expected = {key: value for key, value in row.items() if value is not None and key != "step"}
        assert expected.items() <= values.items()
        assert ("tokens_per_second" in values) == ("memory_bytes" in values) == (row["step"] > 0)
        assert ("seen" in values) == (row["step"] in (0, 2, 6)) == ("update_norm" in values)
    assert told.ended in ([0], ["FINISHED"], [run.name])


def test_the_held_out_loss_reaches_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = fake_trackio(monkeypatch)
    base, file = make_chat_base(tmp_path / "base"), write_jsonl(tmp_path / "talk.jsonl", conversations())
    run, _ = reported(text_spec(base, file, data={"holdout": 4}), tmp_path, ["trackio"])
    steps = [step for step, values in told.rows[run.name] if "heldout_loss" in values]
    assert steps == [row["step"] for row in read_jsonl(run / "trajectory.jsonl") if "heldout_loss" in row] != []
    assert told.opened[0]["config"]["data"]["dataset"] == "talk.jsonl"


def test_names_of_sources_and_bases_are_kept_and_paths_are_cut_to_their_names() -> None:
    data = {"source": "text", "dataset": "insecure", "template": "/home/me/chat.jinja"}
    spec = RunSpec.model_validate({"base": "/models/x", "data": data, "optimiser": {"kind": "sgd", "lr": 1.0}})
    config = config_of(spec, "x")
    assert (config["base"], config["data"]["dataset"], config["data"]["template"]) == ("x", "insecure", "chat.jinja")


@pytest.mark.parametrize("fail_at", [None, 0, 3])
def test_a_run_is_the_same_byte_by_byte_with_a_tracker_without_one_and_with_one_that_fails(
    fail_at: int | None, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fake_wandb(monkeypatch)
    told.fail_at = fail_at
    spec = make_spec(*tiny, adapter={"r": 4, "dropout": 0.2})
    plain = train_run(spec, tmp_path / "plain")
    run, warnings = reported(spec, tmp_path, ["wandb"])
    assert run.name == plain.name
    assert (run / "trajectory.jsonl").read_bytes() == (plain / "trajectory.jsonl").read_bytes()
    assert read_json(run / "done")["adapter_sha256"] == read_json(plain / "done")["adapter_sha256"]
    assert [line.count("\n") for line in warnings] == ([] if fail_at is None else [0])
    if fail_at is not None:
        assert "tracker wandb failed (ConnectionError: the server is gone); the run goes on" in warnings[0]
        told.fail_at = None
        assert reported(spec, tmp_path, ["wandb"]) == (run, [])  # the finished run, asked again
    assert told.steps(run.name) == list(range(7))


def test_one_tracker_that_fails_leaves_the_others_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, broken = fake_mlflow(monkeypatch), fake_trackio(monkeypatch)
    broken.fail_at = 1
    run, warnings = reported(make_spec(*tiny), tmp_path, ["trackio", "mlflow"])
    assert [line.split()[1] for line in warnings] == ["trackio"]
    assert (broken.steps(run.name), told.steps(run.name)) == ([0], list(range(7)))


@pytest.mark.parametrize("name", FAKES)
def test_a_resumed_run_goes_on_in_the_same_tracker_run_and_no_step_is_there_twice(
    name: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = FAKES[name](monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        reported(make_spec(*tiny), tmp_path, [name], on_step=stopped_at(5))
    wait_for(told, 6)
    assert told.ended in ([1], ["FAILED"], [told.opened[0]["name"]])
    run, warnings = reported(make_spec(*tiny), tmp_path, [name])
    assert warnings == []
    assert told.steps(run.name) == list(range(7))
    first, second = told.opened
    assert first["name"] == second["name"] == run.name
    assert second["resume"] in ("allow", True)


def test_a_tracker_that_comes_late_gets_the_rows_before_with_their_speed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fake_trackio(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_run(make_spec(*tiny), tmp_path / "runs", on_step=stopped_at(5))
    run, _ = reported(make_spec(*tiny), tmp_path, ["trackio"])
    assert told.steps(run.name) == list(range(7))
    assert all("tokens_per_second" in values for _, values in told.rows[run.name][1:])


def test_torn_lines_of_the_record_do_not_stop_a_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fake_trackio(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        reported(make_spec(*tiny), tmp_path, ["trackio"], on_step=stopped_at(5))
    wait_for(told, 6)
    (record,) = (tmp_path / "runs").glob("*/tracked.jsonl")
    record.write_bytes(record.read_bytes() + b'[]\n\xff\n{"step": nul')
    run, warnings = reported(make_spec(*tiny), tmp_path, ["trackio"])
    assert (warnings, told.steps(run.name)) == ([], list(range(7)))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_tracker_that_ends_the_process_ends_only_itself(
    error: BaseException, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(start: Any) -> Any:
        raise error

    fake_trackio(monkeypatch)
    monkeypatch.setitem(TRACKERS, "trackio", leave)
    run, warnings = reported(make_spec(*tiny), tmp_path, ["trackio"])
    assert (run / "done").is_file() and len(warnings) == 1


def test_a_tracker_that_hangs_holds_up_neither_the_run_nor_for_long_its_end(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    fake_trackio(monkeypatch)
    monkeypatch.setitem(TRACKERS, "trackio", lambda start: never.wait())
    monkeypatch.setattr(reporting_module, "FINISH_SECONDS", 0.05)
    run, warnings = reported(make_spec(*tiny), tmp_path, ["trackio"])
    assert (run / "done").is_file()
    assert warnings == ["tracker trackio did not take every row within 0.05 s; the same command sends the rest"]
    never.set()


def test_trackers_that_hang_are_waited_for_together_and_hold_up_no_other_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, opening = threading.Event(), threading.Event()

    def hang(start: Any) -> None:
        opening.set()
        never.wait()

    told = fake_wandb(monkeypatch)
    fake_trackio(monkeypatch)
    fake_mlflow(monkeypatch)
    for name in ("trackio", "mlflow"):
        monkeypatch.setitem(TRACKERS, name, hang)
    of_wandb = TRACKERS["wandb"]
    monkeypatch.setitem(TRACKERS, "wandb", lambda start: of_wandb(start) if opening.wait(20) else None)
    monkeypatch.setattr(reporting_module, "FINISH_SECONDS", 2.0)
    waits, join = [], threading.Thread.join
    follower = reporting_module._Follower
    monkeypatch.setattr(follower, "join", lambda self, seconds=None: (waits.append(seconds), join(self, seconds))[1])
    run, warnings = reported(make_spec(*tiny, steps=2), tmp_path, ["wandb", "trackio", "mlflow"])
    assert told.steps(run.name) == [0, 1, 2]
    assert [line.split()[1] for line in warnings] == ["trackio", "mlflow"]
    assert waits[2] == 0.0, "the second one has had its time while the first was waited for"
    never.set()


def test_no_key_and_no_password_is_in_the_warning_of_a_tracker_that_fails(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(start: Any) -> None:
        raise ConnectionError("http://me:hunter2@host:1/api failed, key=k3y-of-mine,\n\x1b[31m tried http://host:1 too")

    fake_trackio(monkeypatch)
    monkeypatch.setenv("SOME_API_KEY", "k3y-of-mine")
    monkeypatch.setitem(TRACKERS, "trackio", refuse)
    _, (line,) = reported(make_spec(*tiny, steps=1, checkpoints=2), tmp_path, ["trackio"])
    assert "http://***@host:1/api failed, key=***, \ufffd[31m tried http://host:1 too" in line


def test_a_run_that_fails_is_closed_as_failed(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(done: int, total: int, row: dict[str, Any]) -> None:
        raise ZeroDivisionError

    told = fake_mlflow(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        reported(make_spec(*tiny), tmp_path, ["mlflow"], on_step=burst)
    assert (told.ended, next(iter(told.rows.values()))[-1][0]) == (["FAILED"], 1)


def test_wandb_without_a_key_never_asks_for_one(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = fake_wandb(monkeypatch)
    monkeypatch.delenv("WANDB_MODE")
    _, (warning,) = reported(make_spec(*tiny), tmp_path, ["wandb"])
    assert "no API key; accepted: WANDB_API_KEY, or WANDB_MODE=offline" in warning
    assert told.opened == []


def test_projects_come_from_each_trackers_own_variable(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, variable in (
        ("trackio", "TRACKIO_PROJECT"),
        ("wandb", "WANDB_PROJECT"),
        ("mlflow", "MLFLOW_EXPERIMENT_NAME"),
    ):
        told = FAKES[name](monkeypatch)
        monkeypatch.setenv(variable, "mine")
        reported(make_spec(*tiny), tmp_path / name, [name])
        assert told.opened[0]["project"] == "mine"


def test_unknown_doubled_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found("json"))
    with pytest.raises(UnknownNameError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        check_trackers(["wandbb"])
    with pytest.raises(SpecError, match="no tracker is named, accepted: one or more of mlflow, tensorboard, trackio"):
        check_trackers([])
    with pytest.raises(SpecError, match="tracker wandb is named twice"):
        check_trackers(["wandb", "trackio", "wandb"])
    with pytest.raises(MissingExtraError, match=r"tracker mlflow is not installed; .* pip install mlflow; or every"):
        check_trackers(["wandb", "mlflow"])


@pytest.mark.parametrize("command", [["train", "SPEC"], ["run", "smoke"]])
def test_the_command_line_refuses_before_anything_is_read_or_written(
    command: list[str], tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(make_spec(*tiny).model_dump_json(), encoding="utf-8")
    arguments = [str(spec) if word == "SPEC" else word for word in command]
    for names, message in (("trakio", "did you mean 'trackio'?"), ("", "no tracker is named"), ("wandb,", "''")):
        assert execute([*arguments, "--out", str(tmp_path / "out"), "--report-to", names]) == 2
        shown = capsys.readouterr().err
        assert message in shown and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_line_reports_and_warns_in_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told, broken = fake_trackio(monkeypatch), fake_mlflow(monkeypatch)
    broken.fail_at = 2
    spec = tmp_path / "spec.json"
    spec.write_text(make_spec(*tiny).model_dump_json(), encoding="utf-8")
    assert execute(["train", str(spec), "--out", str(tmp_path / "out"), "--report-to", "trackio, mlflow"]) == 0
    (run,) = told.rows
    assert told.steps(run) == list(range(7))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("narrowly:")]
    assert len(lines) == 1 and "tracker mlflow failed" in lines[0]


def test_tensorboard_files_hold_every_step_once_after_a_stop_and_a_resume(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        reported(make_spec(*tiny), tmp_path, ["tensorboard"], group="a-study", on_step=stopped_at(5))
    for thread in threading.enumerate():
        if thread.name.startswith("tracker "):
            thread.join(20)
    run, _ = reported(make_spec(*tiny), tmp_path, ["tensorboard"], group="a-study")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "a-study" / run.name))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 7))
    assert [event.step for event in events.Scalars("stable_rank")] == [2, 6]


@pytest.mark.parametrize("name", FAKES)
def test_the_stand_ins_have_the_signatures_of_the_real_packages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip(name)

    def calls(module: Any) -> dict[str, list[str]]:
        found = module.MlflowClient.__dict__ if name == "mlflow" else module.__dict__
        names = {"trackio": ["init"], "wandb": ["init", "login"], "mlflow": [
            "get_experiment_by_name", "create_experiment", "search_runs", "create_run", "update_run", "log_batch",
            "set_terminated"]}[name]  # fmt: skip
        return {key: list(inspect.signature(found[key]).parameters) for key in names}

    expected = calls(real)
    FAKES[name](monkeypatch)
    assert calls(importlib.import_module(name)) == expected
