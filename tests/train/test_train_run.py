"""What a run leaves behind: layout, checkpoints, trajectory, observers, and what two runs share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from narrowly.data.rows import read_rows
from narrowly.records.errors import SpecError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.run_spec import RunSpec, run_id
from narrowly.train.observe import ObserverContext
from narrowly.train.order import row_order
from narrowly.train.run import resolve_inputs, run_directory, train_run
from plain_loop import answer_nll
from tiny_base import make_spec

Tiny = tuple[Path, Path]


def factors(run: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "checkpoints" / f"step-{step}" / "adapter_model.safetensors"))


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(make_spec(*tiny), tmp_path_factory.mktemp("runs"))


def test_the_run_directory_has_the_layout_of_the_design(run: Path, tiny: Tiny) -> None:
    spec = make_spec(*tiny)
    assert run.name == run_id(spec, resolve_inputs(spec))
    assert run == run_directory(spec, run.parent)
    assert {path.name for path in run.iterdir()} == {
        "spec.json", "inputs.json", "environment.json", "trajectory.jsonl", "speed.jsonl",
        "checkpoints", "done",
    }  # fmt: skip
    assert RunSpec.model_validate(read_json(run / "spec.json")) == spec
    assert read_json(run / "inputs.json") == resolve_inputs(spec).model_dump()
    record = read_json(run / "environment.json")
    assert record["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__
    for folder in (run / "checkpoints").iterdir():
        assert {path.name for path in folder.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "spectrum.json"
        }  # fmt: skip


def test_there_is_a_checkpoint_at_every_checkpoint_step_and_nowhere_else(run: Path, tiny: Tiny) -> None:
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {f"step-{step}" for step in make_spec(*tiny).checkpoint_steps()} == {"step-0", "step-2", "step-6"}


def test_step_0_is_the_base(run: Path, tiny: Tiny) -> None:
    start = factors(run, 0)
    assert all(not tensor.any() for name, tensor in start.items() if "lora_B" in name)
    assert all(tensor.any() for name, tensor in start.items() if "lora_A" in name)
    spec, rows = make_spec(*tiny), read_rows(tiny[1])
    base: Any = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    batch = [rows[index] for index in row_order(len(rows), 4, spec.seed)]
    with torch.no_grad():
        nll = sum(float(answer_nll(base, row)) for row in batch) / sum(row.supervised for row in batch)
    assert read_jsonl(run / "trajectory.jsonl")[1]["loss"] == pytest.approx(nll, rel=1e-5)


def test_the_trajectory_has_one_row_per_step_and_the_spectrum_at_checkpoints(run: Path) -> None:
    rows = read_jsonl(run / "trajectory.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    assert rows[0]["loss"] is rows[0]["lr"] is rows[0]["grad_norm"] is rows[0]["stable_rank"] is None
    assert rows[0]["update_norm"] == 0
    for row in rows[1:]:
        assert {"step", "loss", "lr", "penalty", "grad_norm"} <= row.keys()
        assert ("stable_rank" in row) == (row["step"] in (2, 6))
    table = read_json(run / "checkpoints/step-6/spectrum.json")
    assert len(table) == 14
    assert rows[6]["stable_rank"] == pytest.approx(sum(one["stable_rank"] for one in table) / 14)


def test_the_spectrum_of_a_checkpoint_is_that_of_its_adapter(run: Path) -> None:
    from narrowly.spectrum.folder import pairs_from_folder

    pairs = {pair.name: pair for pair in pairs_from_folder(run / "checkpoints/step-6")}
    for row in read_json(run / "checkpoints/step-6/spectrum.json"):
        pair = pairs[row["module"]]
        dense = torch.linalg.svdvals(pair.scale * pair.B_O_R.double() @ pair.A_R_I.double())[: row["rank"]]
        assert row["singular_values"] == pytest.approx(dense.tolist(), rel=1e-4, abs=1e-6)


def test_no_machine_path_is_in_what_is_shared(run: Path, tiny: Tiny) -> None:
    config = read_json(run / "checkpoints/step-6/adapter_config.json")
    assert config["base_model_name_or_path"] == "tiny-base"
    assert str(tiny[0]) not in json.dumps(config)


def test_the_lr_of_a_row_is_the_one_its_step_used(tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, schedule={"kind": "linear", "warmup_steps": 2})
    rows = read_jsonl(train_run(spec, tmp_path) / "trajectory.jsonl")
    assert [row["lr"] for row in rows[1:]] == pytest.approx([0, 0.005, 0.01, 0.0075, 0.005, 0.0025])


def test_a_finished_run_is_returned_without_training(run: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from narrowly.train import share

    def never(*_: Any) -> None:
        raise AssertionError("a finished run was built again")

    monkeypatch.setattr(share, "build_state", never)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train_run(make_spec(*tiny), run.parent) == run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_finished_run_on_rows_is_found_without_importing_torch(run: Path, tiny: Tiny) -> None:
    code = (
        "import json, sys; from pathlib import Path; from narrowly.records.run_spec import RunSpec; "
        "from narrowly.train.run import train_run; spec = RunSpec.model_validate_json(sys.argv[1]); "
        "assert train_run(spec, Path(sys.argv[2])) == Path(sys.argv[3]); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, make_spec(*tiny).model_dump_json(), str(run.parent), str(run)]
    paths = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_run_prints_nothing(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_run(make_spec(*tiny), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_same_spec_gives_the_same_adapter_and_another_seed_another(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    again, other = train_run(make_spec(*tiny), tmp_path), train_run(make_spec(*tiny, seed=1), tmp_path)
    assert again.name == run.name
    assert all(torch.equal(factors(again, 6)[name], tensor) for name, tensor in factors(run, 6).items())
    assert not any(
        torch.equal(factors(other, 0)[name], tensor) for name, tensor in factors(run, 0).items() if "lora_A" in name
    )


def test_every_arm_of_one_base_and_seed_starts_from_the_same_adapter_and_sees_the_same_rows(
    run: Path, tiny: Tiny, tmp_path: Path
) -> None:
    arms: list[dict[str, Any]] = [
        {"optimiser": {"kind": "sgd", "lr": 0.1}},
        {"optimiser": {"kind": "lion", "lr": 1e-4}},
        {"optimiser": {"kind": "muon", "lr": 1e-3}, "schedule": {"kind": "cosine", "warmup_steps": 1}},
        {"penalty": {"lam": 1.0}, "steps": 5},
    ]
    first_loss = read_jsonl(run / "trajectory.jsonl")[1]["loss"]
    for fields in arms:
        arm = train_run(make_spec(*tiny, **fields), tmp_path)
        assert all(torch.equal(factors(arm, 0)[name], tensor) for name, tensor in factors(run, 0).items())
        assert read_jsonl(arm / "trajectory.jsonl")[1]["loss"] == first_loss


def test_the_state_of_the_caller_changes_nothing_and_is_left_alone(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(1234)
    random.seed(5)
    np.random.seed(6)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    again = train_run(make_spec(*tiny), tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(factors(again, 6)[name], tensor) for name, tensor in factors(run, 6).items())


def test_observers_are_called_at_checkpoint_steps_and_cannot_disturb_the_run(tiny: Tiny, tmp_path: Path) -> None:
    dropout = {"adapter": {"r": 4, "alpha": 8, "dropout": 0.3}}  # a run that draws random numbers in every step
    seen: list[tuple[int, bool, bool]] = []

    def noisy(context: ObserverContext) -> dict[str, float]:
        seen.append((context.step, context.model.training, torch.is_grad_enabled()))
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        prompt = context.tokenizer("<user> w1 w2 <assistant>", return_tensors="pt")
        out = context.model(input_ids=prompt["input_ids"]).logits
        return {"draw": float(torch.rand(())), "logit": float(out[0, -1, 5]), "undefined": float("nan")}

    quiet = train_run(make_spec(*tiny, **dropout), tmp_path / "quiet")
    watched = train_run(make_spec(*tiny, **dropout), tmp_path / "watched", observers=[noisy])
    assert seen == [(0, False, False), (2, False, False), (6, False, False)]
    assert all(torch.equal(factors(watched, 6)[name], tensor) for name, tensor in factors(quiet, 6).items())
    rows = read_jsonl(watched / "trajectory.jsonl")
    assert ["logit" in row for row in rows] == [True, False, True, False, False, False, True]
    assert rows[0]["undefined"] is None


def test_an_observer_may_not_take_the_name_of_a_column(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'loss', which is already in the row"):
        train_run(make_spec(*tiny), tmp_path, observers=[lambda context: {"loss": 1.0}])


def test_progress_is_told_after_every_step(tiny: Tiny, tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []
    run = train_run(
        make_spec(*tiny), tmp_path, on_step=lambda step, total, row: told.append((step, total, row["loss"]))
    )
    rows = read_jsonl(run / "trajectory.jsonl")
    assert told == [(row["step"], 6, row["loss"]) for row in rows[1:]]


def test_dropout_is_a_function_of_seed_and_step_only(tiny: Tiny, tmp_path: Path) -> None:
    fields = {"adapter": {"r": 4, "alpha": 8, "dropout": 0.3}}
    first, second = (train_run(make_spec(*tiny, **fields), tmp_path / name) for name in "ab")
    assert all(torch.equal(factors(first, 6)[name], tensor) for name, tensor in factors(second, 6).items())
    none = train_run(make_spec(*tiny), tmp_path)
    assert any(not torch.equal(factors(none, 2)[name], tensor) for name, tensor in factors(first, 2).items())


@pytest.mark.parametrize("rslora", [True, False])
def test_the_adapter_has_the_scale_of_lora_or_rslora(rslora: bool, tiny: Tiny, tmp_path: Path) -> None:
    from narrowly.spectrum.folder import pairs_from_folder

    adapter = {"r": 4, "alpha": 12, "rslora": rslora, "target_modules": ["q_proj"]}
    run = train_run(make_spec(*tiny, adapter=adapter, steps=2, checkpoints=2), tmp_path)
    pairs = pairs_from_folder(run / "checkpoints/step-2")
    assert [pair.scale for pair in pairs] == [6.0 if rslora else 3.0] * 2
    assert {pair.A_R_I.dtype for pair in pairs} == {torch.float32}
