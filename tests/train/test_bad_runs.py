"""Bad input: one clear line, and nothing lost or half written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from narrowly.data.rows import Row, write_rows
from narrowly.engines.worker import problem_of
from narrowly.evaluate.banks import bank_of
from narrowly.microworld.cards import SHIPPED
from narrowly.models.base import open_base
from narrowly.models.lora import AdapterWeights
from narrowly.models.organism import load_organism
from narrowly.records.errors import (
    IntegrityError,
    RunDirectoryError,
    SpecError,
    TrainingError,
    UnknownNameError,
)
from narrowly.records.files import read_json, read_jsonl, write_json
from narrowly.records.run_spec import RunSpec
from narrowly.train.objectives import supervised
from narrowly.train.run import resolve_inputs, run_directory, train_run
from tiny_base import make_base, make_rows, make_spec, only_run

Tiny = tuple[Path, Path]


def poisoned(step: int, kind: str) -> Any:
    """The loss, but NaN, or with a gradient of NaN, in one step."""
    calls = 0
    true_loss = supervised.token_mean_loss

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = true_loss(outputs, labels, num_items_in_batch)
        if calls != step:
            return value
        # the root of zero has value 0 and an infinite slope
        return value * float("nan") if kind == "loss" else value + (value * 0.0).sqrt()

    return loss


def test_memory_that_is_short_in_the_optimiser_is_one_line_and_keeps_the_last_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, original = list[int](), torch.optim.Adam.step

    def step(self: Any, closure: Any = None) -> Any:
        steps.append(len(steps) + 1)
        if len(steps) == 4:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of"
            )
        return original(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    spec = make_spec(*tiny)
    with pytest.raises(
        TrainingError, match=r"does not help \(CUDA out of memory. Tried to allocate 2.32 GiB\); accepted"
    ):
        train_run(spec, tmp_path)
    run = run_directory(spec, tmp_path)
    assert read_json(run / "failed.json")["step"] == 3
    assert read_json(run / "resume.json")["step"] == 2


@pytest.mark.parametrize(
    ("kind", "message"), [("loss", "the loss is nan in step 4"), ("gradient", "the gradient's norm is nan in step 4")]
)
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    kind: str, message: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(supervised, "token_mean_loss", poisoned(4, kind))
        with pytest.raises(TrainingError, match=message) as caught:
            train_run(make_spec(*tiny), tmp_path)
    run = only_run(tmp_path)
    assert read_json(run / "failed.json") == {"error": "TrainingError", "message": str(caught.value), "step": 3}
    assert not (run / "done").exists()
    assert [row["step"] for row in read_jsonl(run / "trajectory.jsonl")] == [0, 1, 2, 3]
    assert not load_organism(run, 2).model.training  # the last good checkpoint can be loaded
    assert (train_run(make_spec(*tiny), tmp_path) / "done").is_file()  # and resumed from
    assert not (run / "failed.json").exists()


def test_a_base_whose_weights_are_not_those_of_its_card_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    from narrowly.records.canonical import sha256_file

    base = shutil.copytree(tiny[0], tmp_path / "base")
    write_json(base / "card.json", {"name": "micro-x", "sha256": sha256_file(base / "model.safetensors")})
    run = train_run(make_spec(base, tiny[1], steps=1, checkpoints=2), tmp_path / "runs")
    assert read_json(run / "checkpoints/step-1/adapter_config.json")["base_model_name_or_path"] == "micro-x"
    write_json(base / "card.json", {"name": "micro-x", "sha256": "0" * 64})
    with pytest.raises(IntegrityError, match=f"base micro-x: .* its card says {'0' * 64}"):
        train_run(make_spec(base, tiny[1], steps=2, checkpoints=2), tmp_path / "runs")
    assert only_run(tmp_path / "runs") == run


def test_an_unknown_base_is_named_with_the_nearest_one(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="micro-O"):
        train_run(make_spec(Path("micro-O"), tiny[1]), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_unknown_target_module_is_named_with_the_nearest_one(tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, adapter={"r": 2, "target_modules": ["q_porj"]})
    with pytest.raises(UnknownNameError, match="unknown target module 'q_porj'; did you mean 'q_proj'"):
        train_run(spec, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row([1, 70], [-100, 70]), r"row 1: token 70, accepted: below the vocabulary size of the base \(60\)"),
        (Row([1] * 80, [1] * 80), r"row 1: 80 tokens, accepted: at most the positions of the base \(64\)"),
    ],
)
def test_rows_that_do_not_fit_the_base_are_refused(row: Row, message: str, tiny: Tiny, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(SpecError, match=message):
        train_run(make_spec(tiny[0], tmp_path / "rows.jsonl"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_rows_that_are_not_the_recorded_ones_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    data = {"source": "rows", "path": str(tiny[1]), "sha256": "a" * 64}
    with pytest.raises(IntegrityError, match=r"data\.sha256 is aaa"):
        train_run(make_spec(*tiny, data=data), tmp_path / "runs")


def test_microworld_data_need_a_base_with_a_world(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no card\.json and so no world"):
        train_run(make_spec(*tiny, data={"source": "micro"}), tmp_path / "runs")


def test_a_base_that_wants_its_own_code_run_or_has_pickled_weights_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    base = shutil.copytree(tiny[0], tmp_path / "base")
    config = read_json(base / "config.json")
    write_json(
        base / "config.json", {**config, "model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    )
    with pytest.raises(SpecError, match="code of its own"):
        train_run(make_spec(base, tiny[1]), tmp_path / "runs")
    write_json(base / "config.json", config)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(SpecError, match=r"no model\.safetensors \(found: .*pytorch_model\.bin"):
        train_run(make_spec(base, tiny[1]), tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\x00" * 64, "cannot be loaded as a causal language model"),
        ("config.json", b"[]", r"config\.json holds a list, accepted: a JSON object"),
        ("config.json", b'{"model_type": "qwen33"}', "cannot be loaded as a causal language model"),
        ("config.json", b"{", r"config\.json is not valid JSON"),
        ("card.json", b"3", r"card\.json holds a int, accepted: a JSON object"),
    ],
)
def test_a_broken_base_is_one_clear_error(name: str, content: bytes, message: str, tiny: Tiny, tmp_path: Path) -> None:
    base = shutil.copytree(tiny[0], tmp_path / "base")
    (base / name).write_bytes(content)
    with pytest.raises((SpecError, IntegrityError), match=message):
        train_run(make_spec(base, tiny[1]), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_base_with_missing_weights_is_refused_instead_of_drawn_at_random(tiny: Tiny, tmp_path: Path) -> None:
    base = shutil.copytree(tiny[0], tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match=r"1 weights are missing .*layers\.1\.mlp\.up_proj"):
        train_run(make_spec(base, tiny[1]), tmp_path / "runs")


def test_a_directory_with_files_of_something_else_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    folder = run_directory(make_spec(*tiny), tmp_path)
    folder.mkdir()
    (folder / "thesis.tex").write_text("only copy")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex.* nothing was changed"):
        train_run(make_spec(*tiny), tmp_path)
    assert {path.name for path in folder.iterdir()} == {"thesis.tex"}


def test_the_directory_of_another_run_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    other = train_run(make_spec(*tiny, seed=3, steps=1, checkpoints=2), tmp_path / "other")
    (other / "done").unlink()
    folder = run_directory(make_spec(*tiny), tmp_path / "runs")
    shutil.copytree(other, folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(RunDirectoryError, match=f"holds run {other.name}, not run {folder.name}: a foreign directory"):
        train_run(make_spec(*tiny), tmp_path / "runs")
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_a_folder_with_the_lock_file_of_older_runs_is_accepted(tiny: Tiny, tmp_path: Path) -> None:
    folder = run_directory(make_spec(*tiny), tmp_path)
    folder.mkdir()
    (folder / ".lock").touch()
    assert train_run(make_spec(*tiny), tmp_path) == folder
    assert (folder / ".lock").is_file()


class FullDisk:
    """Lets `allowed` writes through, then answers every further one as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        write_bytes, write_text, open_ = Path.write_bytes, Path.write_text, Path.open

        def checked(original: Any) -> Any:
            def write(path: Path, *args: Any, **kwargs: Any) -> Any:
                if original is open_ and "a" not in str(args[:1]):
                    return original(path, *args, **kwargs)
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                return original(path, *args, **kwargs)

            return write

        monkeypatch.setattr(Path, "write_bytes", checked(write_bytes))
        monkeypatch.setattr(Path, "write_text", checked(write_text))
        monkeypatch.setattr(Path, "open", checked(open_))


@pytest.mark.parametrize("allowed", [0, 1, 3, 5, 8, 11, 13, 17])
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(
    allowed: int, tiny: Tiny, tmp_path: Path
) -> None:
    spec = make_spec(*tiny)
    with pytest.MonkeyPatch.context() as monkeypatch:
        FullDisk(monkeypatch, allowed)
        with pytest.raises(RunDirectoryError, match=r"cannot write .*No space left on device"):
            train_run(spec, tmp_path / "full")
    run = run_directory(spec, tmp_path / "full")
    assert not (run / "done").exists()
    for path in run.rglob("*.json"):
        json.loads(path.read_text())  # nothing is half written
    assert not list(run.parent.rglob(".*.json*")) and not list((run / "checkpoints").glob(".*"))
    train_run(spec, tmp_path / "full")
    whole = train_run(spec, tmp_path / "whole")
    for name in ("trajectory.jsonl", "checkpoints/step-6/adapter_model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "told", ["I/O error: No space left on device (os error 28)", "basic_ios::clear: iostream error"]
)
def test_a_disk_that_is_full_for_a_checkpoint_stops_a_whole_study(
    told: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise (SafetensorError if "28" in told else RuntimeError)(told)

    monkeypatch.setattr(AdapterWeights, "write", full)
    if "28" not in told:
        with pytest.raises(RunDirectoryError, match=r"cannot write .*step-0: basic_ios") as other:
            train_run(make_spec(*tiny), tmp_path)
        assert not problem_of(other.value).fatal
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 4096))
    with pytest.raises(RunDirectoryError, match=r"cannot write .*step-0: .*No space left on device") as caught:
        train_run(make_spec(*tiny), tmp_path)
    found = problem_of(caught.value)
    assert found.fatal and found.user


def test_mixed_precision_from_the_environment_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        with pytest.raises(TrainingError, match="mixed precision bf16 is set in the environment"):
            train_run(make_spec(*tiny), tmp_path)
    assert (train_run(make_spec(*tiny), tmp_path) / "done").is_file()


def test_a_path_is_no_part_of_the_id_but_content_is(tiny: Tiny, tmp_path: Path) -> None:
    base, rows = shutil.copytree(tiny[0], tmp_path / "elsewhere"), shutil.copy(tiny[1], tmp_path / "other.jsonl")
    spec = make_spec(*tiny)
    moved = make_spec(base, Path(rows))
    assert run_directory(moved, tmp_path) == run_directory(spec, tmp_path)
    write_rows(Path(rows), make_rows(seed=9))
    assert resolve_inputs(moved).data_sha256 != resolve_inputs(spec).data_sha256
    other = make_base(tmp_path / "other-base", seed=9)
    assert resolve_inputs(make_spec(other, tiny[1])).base_sha256 != resolve_inputs(spec).base_sha256
    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_inputs(make_spec(base, tiny[1])).template_sha256 != resolve_inputs(spec).template_sha256


def test_a_plain_name_means_the_shipped_base_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, local = tmp_path / "package" / "micro-0", tmp_path / "here" / "micro-0"
    for folder in (shipped, local):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    monkeypatch.chdir(local.parent)
    monkeypatch.setattr("narrowly.microworld.cards.SHIPPED", shipped.parent)
    (shipped / "card.json").write_text('{"name": "micro-0"}')
    assert open_base("micro-0").folder == shipped
    assert open_base("./micro-0").folder.resolve() == local


def test_a_folder_called_like_a_shipped_base_has_its_own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SHIPPED / "micro-1", tmp_path / "micro-0")
    monkeypatch.chdir(tmp_path)
    data = {"source": "micro", "rows": 8}
    optimiser = {"kind": "adam", "lr": 1e-3}
    bases = ("./micro-0", "micro-1")
    local, shipped = (RunSpec.model_validate({"base": base, "data": data, "optimiser": optimiser}) for base in bases)
    assert resolve_inputs(local) == resolve_inputs(shipped)
    banks = [bank_of(spec, open_base(spec.base)) for spec in (local, shipped)]
    assert banks[0] is not None and banks[1] is not None and banks[0].record == banks[1].record
