"""One run on two processes (gloo) is the run of one: the same losses, gradients and adapter up to rounding."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import shared_runs
from fake_trackers import fake_trackio
from narrowly.data.rows import Row, read_rows, write_rows
from narrowly.integrations.reporting import Reporting
from narrowly.records.errors import SpecError, TrainingError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.records.streams import stream_seed
from narrowly.runs.claims import hold_run
from narrowly.train import launch
from narrowly.train.observe import ObserverContext
from narrowly.train.order import micro_batches, row_order
from narrowly.train.run import run_directory, train_run
from tiny_base import make_spec, only_run

Tiny = tuple[Path, Path]

LOSS, NORM, FACTOR = 1e-4, 1e-3, {"rtol": 2e-3, "atol": 1e-4}
"""Largest relative difference of a loss and of a gradient norm, and of a factor after 6 steps."""

ADAM, MUON, SGD = {"kind": "adam", "lr": 3e-3}, {"kind": "muon", "lr": 1e-2}, {"kind": "sgd", "lr": 0.05}

WAYS: dict[str, dict[str, Any]] = {
    "adam": {"optimiser": ADAM},
    "adam accumulated": {"optimiser": ADAM, "batch_size": 2, "accumulation": 2},
    "muon": {"optimiser": MUON},
    "muon accumulated": {"optimiser": MUON, "batch_size": 2, "accumulation": 2},
    "uneven": {"optimiser": SGD, "batch_size": 3, "accumulation": 3, "max_grad_norm": 0.3},
    "one row and two": {"optimiser": SGD, "batch_size": 1, "accumulation": 3},
    "penalty": {"optimiser": SGD, "penalty": {"lam": 0.5}, "max_grad_norm": 0.5, "batch_size": 2, "accumulation": 2},
    "capped": {"optimiser": ADAM, "penalty": {"lam": 0.5, "max_grad_ratio": 0.3}},
    "decoupled": {"optimiser": ADAM, "penalty": {"lam": 0.1, "mode": "decoupled", "max_grad_ratio": 0.3}},
    "packed": {"optimiser": ADAM, "packing": True},
    "bucketed": {"optimiser": ADAM, "batching": "bucketed", "gradient_checkpointing": True},
    "all weights": {"optimiser": {"kind": "adam", "lr": 1e-3}, "method": "full", "adapter": {}},
    "averaging": {"optimiser": {"kind": "schedulefree_adamw", "lr": 3e-3}},
}

TIGHT: dict[str, Any] = {"optimiser": ADAM, "batch_size": 5, "penalty": {"lam": 0.1}}


@pytest.fixture(scope="module")
def shared(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of all ways, each done by two processes together."""
    out = tmp_path_factory.mktemp("shared")
    specs = {name: make_spec(*tiny, **fields) for name, fields in WAYS.items()}
    arguments = (out / "100% of a rendezvous", specs, make_spec(*tiny, **TIGHT), out)
    context = multiprocessing.get_context("spawn")
    pair = [context.Process(target=shared_runs.main, args=(rank, *arguments), daemon=True) for rank in (0, 1)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in pair] == [0, 0]
    return out


def factors(run: Path, step: int = 6) -> dict[str, torch.Tensor]:
    (file,) = (run / "checkpoints" / f"step-{step}").glob("*model.safetensors")
    return dict(load_file(file))


def column(run: Path, name: str) -> list[Any]:
    return [row[name] for row in read_jsonl(run / "trajectory.jsonl")[1:]]


def assert_same_run(found: Path, expected: Path) -> None:
    assert found.name == expected.name
    assert column(found, "loss") == pytest.approx(column(expected, "loss"), rel=LOSS)
    assert column(found, "grad_norm") == pytest.approx(column(expected, "grad_norm"), rel=NORM)
    if column(expected, "penalty")[0] is not None:
        assert column(found, "penalty") == pytest.approx(column(expected, "penalty"), rel=NORM, abs=1e-6)
    for name, tensor in factors(expected).items():
        torch.testing.assert_close(factors(found)[name], tensor, **FACTOR)
    assert read_json(found / "done")["run_id"] == expected.name


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_go_the_way_of_one_step_by_step(way: str, shared: Path, tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, **WAYS[way])
    assert_same_run(only_run(shared / way), train_run(spec, tmp_path))
    assert read_json(only_run(shared / way) / "environment.json")["processes"] == 2


def test_a_mean_of_the_processes_means_would_be_seen(tiny: Tiny) -> None:
    """The rows of the two shares carry unequally many tokens, so equal losses say that tokens are weighted alike."""
    rows, common = read_rows(tiny[1]), {"seed": 0, "steps": 6, "first_step": 0, "accumulation": 1, "pad_id": 0}
    shares = [micro_batches(rows, batch_size=4, rank=rank, processes=2, **common) for rank in (0, 1)]
    tokens = [[int((batch["labels"] != -100).sum()) for batch in share] for share in shares]
    assert max(max(pair) / min(pair) for pair in zip(*tokens, strict=True)) > 2
    assert [sum(pair) for pair in zip(*tokens, strict=True)] == [shares[0].supervised_of_step(n) for n in range(6)]


def test_only_the_process_without_memory_halves_its_micro_batch(shared: Path, tiny: Tiny, tmp_path: Path) -> None:
    run = only_run(shared / "tight")
    assert_same_run(run, train_run(make_spec(*tiny, **TIGHT), tmp_path))
    assert [row["micro_batch"] for row in read_jsonl(run / "speed.jsonl")] == [1] * 6  # rank 0 went on with 5


def test_a_sum_takes_what_any_process_has_and_invents_no_gradient(shared: Path) -> None:
    for rank in (0, 1):
        found = json.loads((shared / f"sums-{rank}.json").read_text())
        assert found == [2.0, [4, 3], [1.0] * 3, [2.0] * 3, [21.0] * 3, None]


def test_processes_that_come_apart_by_one_bit_are_told(shared: Path) -> None:
    for rank in (0, 1):
        assert "2 processes differ in 1 of 2 trained tensors after step 7" in (shared / f"apart-{rank}").read_text()


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 3), (3, 3), (1, 7)])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_shares_of_a_step_are_all_of_its_rows_once(batch_size: int, accumulation: int, processes: int) -> None:
    rows = [Row([1, 5 + index], [-100, 5 + index]) for index in range(30)]
    settings = {"seed": 1, "steps": 4, "first_step": 1, "batch_size": batch_size, "accumulation": accumulation}
    shares = [
        micro_batches(rows, pad_id=0, rank=rank, processes=processes, **settings)  # type: ignore[arg-type]
        for rank in range(processes)
    ]
    sizes = [[len(batch["input_ids"]) for batch in share] for share in shares]
    assert max(map(max, sizes)) <= batch_size
    assert max(sum(size) for size in sizes) - min(sum(size) for size in sizes) <= 3  # one row in each of 3 steps
    order = row_order(30, 4 * batch_size * accumulation, 1)[batch_size * accumulation :]
    for step in range(3):
        seen: list[int] = []
        for share in shares:
            each = len(share.places)
            assert len(share) == 3 * each
            seen += [
                int(token) - 5 for batch in share[step * each : (step + 1) * each] for token in batch["labels"][:, 1]
            ]
        assert seen == order[step * batch_size * accumulation : (step + 1) * batch_size * accumulation]


class StopError(Exception):
    """Stands for anything that ends a run half way."""


def stop_after_6(now: int, total: int, row: dict[str, Any]) -> None:
    if now == 6:
        raise StopError(f"step {now} of {total}")


def fail_at_10(context: ObserverContext) -> dict[str, float]:
    if context.step == 10:
        raise SpecError("the judge has gone")
    return {"seen": 1.0}


def test_a_run_of_two_processes_that_failed_in_one_is_finished_by_one(tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, steps=20, checkpoints=4, first_checkpoint=5)  # checkpoints at 0, 5, 10 and 20
    with pytest.raises(SpecError) as failure:
        train_run(spec, tmp_path / "a", processes=2, observers=[fail_at_10])
    assert str(failure.value) == "the judge has gone"
    assert not multiprocessing.active_children()
    run = only_run(tmp_path / "a")
    assert read_json(run / "failed.json") == {"error": "SpecError", "message": "the judge has gone", "step": 9}
    assert read_jsonl(run / "trajectory.jsonl")[5]["seen"] == 1.0
    assert_resumed(train_run(spec, tmp_path / "a"), train_run(spec, tmp_path / "b"), (2, 1))


def test_a_run_begun_by_one_process_is_finished_and_reported_by_two(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, warnings = fake_trackio(monkeypatch), list[str]()
    spec = make_spec(*tiny, steps=20, checkpoints=4, first_checkpoint=5)
    with pytest.raises(StopError):
        train_run(spec, tmp_path / "a", on_step=stop_after_6)
    seen: list[int] = []
    with hold_run(run_directory(spec, tmp_path / "a")):  # as a caller that goes on to evaluate the run
        resumed = train_run(
            spec,
            tmp_path / "a",
            processes=2,
            on_step=lambda step, total, row: seen.append(step),
            reporting=Reporting(["trackio"], tmp_path, warnings.append),
        )
    assert seen == list(range(6, 21))
    assert (told.steps(resumed.name), warnings) == (list(range(21)), [])
    assert not multiprocessing.active_children()
    assert_resumed(resumed, train_run(spec, tmp_path / "b"), (1, 2))


def assert_resumed(run: Path, whole: Path, processes: tuple[int, int]) -> None:
    record = read_json(run / "environment.json")
    assert (record["processes"], *(part["processes"] for part in record["resumed"])) == processes
    assert [row["step"] for row in read_jsonl(run / "trajectory.jsonl")] == list(range(21))
    assert column(run, "loss") == pytest.approx(column(whole, "loss"), rel=1e-3)
    assert not (run / "failed.json").exists()
    assert not list(run.rglob("resume*"))


def poisoned(tiny: Tiny, folder: Path, row: int) -> RunSpec:
    """A spec of a base that computes NaN for one token, which stands in one row only."""
    model = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[59] = float("nan")
    model.save_pretrained(folder / "base")
    for file in tiny[0].glob("*token*"):
        (folder / "base" / file.name).write_bytes(file.read_bytes())
    rows = [Row([4 if token == 59 else token for token in one.input_ids], one.labels) for one in read_rows(tiny[1])]
    rows[row] = Row([59, *rows[row].input_ids[1:]], rows[row].labels)
    write_rows(folder / "rows.jsonl", rows)
    return make_spec(folder / "base", folder / "rows.jsonl")


def test_a_loss_that_is_nan_in_one_process_stops_all_and_names_the_rows(tiny: Tiny, tmp_path: Path) -> None:
    order = row_order(40, 24, 0)
    spec = poisoned(tiny, tmp_path, order[15])  # the last row of step 4: a row of the second process
    named = ", ".join(f"row {row + 1}" for row in order[12:16])
    with pytest.raises(TrainingError, match=rf"the loss is nan in step 4 .*Its batch: {named}\."):
        train_run(spec, tmp_path / "out", processes=2)
    run = run_directory(spec, tmp_path / "out")
    failed = read_json(run / "failed.json")
    assert (failed["error"], failed["step"]) == ("TrainingError", 3)
    assert named in failed["message"]
    assert read_json(run / "resume.json")["step"] == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("fields", "processes", "message"),
    [
        ({}, 0, "processes is 0, accepted: 1 or more"),
        ({"batch_size": 1, "accumulation": 3}, 4, "processes is 4, accepted: at most 3, the rows of a step"),
        ({"penalty": {"lam": 0.1, "kind": "functional"}}, 2, r"penalty\.kind is functional.*accepted: 1, or another"),
        ({"device": "cuda"}, 2, "GPU"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_starts(
    fields: dict[str, Any], processes: int, message: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=message):
        train_run(make_spec(*tiny, **fields), tmp_path, processes=processes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if "device" in fields:
        with pytest.raises(SpecError, match="processes is 2, accepted: at most 1, the GPUs that torch finds"):
            train_run(make_spec(*tiny, **fields), tmp_path, processes=processes)
    assert not list(tmp_path.iterdir())


def test_a_launchers_process_and_an_observer_that_cannot_travel_are_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=r"observers cannot be sent .*accepted: functions of a module"):
        train_run(make_spec(*tiny), tmp_path, processes=2, observers=[lambda context: {}])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match=r"one of 2 processes \(WORLD_SIZE\).*narrowly train SPEC --processes N"):
        train_run(make_spec(*tiny), tmp_path)


@pytest.mark.parametrize(("visible", "expected"), [(None, "1"), ("", ""), ("GPU-5, GPU-7", "GPU-7"), ("3,2,0", "2")])
def test_a_process_starts_with_a_gpu_of_its_own_and_no_launcher(
    visible: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first import, as a script may ask for GPUs there, which fixes those that CUDA sees."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device: Literal["cpu", "cuda"] = "cuda" if visible != "" else "cpu"
    before = dict(os.environ)
    with launch._environment_of_child(device, 1):
        inside = "import os; print([os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'LOCAL_RANK')])"
        said = subprocess.run([sys.executable, "-c", inside], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"['{expected}', None]"
    assert dict(os.environ) == before


def test_an_error_that_cannot_travel_is_told_by_class_and_text() -> None:
    class OfItsOwnError(SpecError):
        pass

    for error in (OfItsOwnError("gone"), ValueError(lambda: "gone"), torch.OutOfMemoryError("gone")):
        sent = launch._picklable(error)
        back = ForkingPickler.loads(ForkingPickler.dumps(sent))
        assert type(back) is RuntimeError
        assert str(back) == f"{type(error).__name__}: {error}"
    sent = ForkingPickler.loads(ForkingPickler.dumps(launch._picklable(SpecError("gone"))))
    assert (type(sent), str(sent), "Error: gone" in sent.__notes__[0]) == (SpecError, "gone", True)


def test_a_process_is_deaf_to_ctrl_c_from_its_first_moment() -> None:
    """Some versions of Python unblock it when they start the first process; the child's imports take seconds."""
    code = (
        "import multiprocessing.resource_tracker as tracker, signal\n"
        "from narrowly.train.launch import _sigint_blocked\n"
        "with _sigint_blocked():\n"
        "    tracker.ensure_running()\n"
        "    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_each_process_draws_dropout_of_its_own_and_the_first_that_of_a_run_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from narrowly.train.trainer import RecordCallback

    drawn: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", drawn.append)
    state = type("State", (), {"global_step": 3})
    for rank in (0, 1, 2):
        RecordCallback(7, 2, rank, lambda *_: None, str).on_step_begin(None, state, None)
    assert drawn == [stream_seed(7, name) for name in ("dropout/5", "dropout/5/1", "dropout/5/2")]
