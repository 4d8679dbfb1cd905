"""A base in 4 bits: what is quantised and what is not, whole runs on it, and every combination that is refused."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.cli.app import execute
from narrowly.data.rows import Row, collate
from narrowly.models.base import load_model, open_base
from narrowly.models.lora import attach_adapter
from narrowly.models.nf4 import check_nf4, nf4_options, settle_quantised
from narrowly.models.organism import load_organism
from narrowly.records.errors import SpecError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.install import install_hint
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import load_inputs
from narrowly.train.run import resolve_inputs, run_directory, train_run
from small_chat_base import conversations, make_chat_base, text_spec, write_jsonl

Chat = tuple[Path, Path]

real = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (pip install '.[nf4]'): no base is quantised here",
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = tmp_path_factory.mktemp("chat")
    return make_chat_base(folder / "chat-base"), write_jsonl(folder / "talk.jsonl", conversations())


def column(run: Path, name: str) -> list[Any]:
    return [row.get(name) for row in read_jsonl(run / "trajectory.jsonl")]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable bitsandbytes 0.50 that supports what `supported_torch_devices` says."""
    module = types.ModuleType("bitsandbytes")
    module.__spec__ = importlib.machinery.ModuleSpec("bitsandbytes", None)
    module.supported_torch_devices = {"cuda", "cpu"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.50.2" if name == "bitsandbytes" else version(name)
    )
    return module


def test_the_base_is_quantised_as_in_qlora_and_on_the_device_of_the_run(stand_in: types.ModuleType) -> None:
    options = nf4_options("cpu")
    config = options["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == options["dtype"] == torch.bfloat16
    assert options["device_map"] == {"": "cpu"}


def test_a_device_that_bitsandbytes_does_not_support_is_refused(stand_in: types.ModuleType) -> None:
    check_nf4("cpu")
    stand_in.supported_torch_devices = {"cuda", "xpu"}  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match=r"nf4 on device cpu, but bitsandbytes 0\.50\.2 supports cuda, xpu; accepted"):
        check_nf4("cpu")


def test_without_bitsandbytes_one_line_names_the_extra_and_nothing_is_written(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    spec = tmp_path / "spec.json"
    spec.write_text(text_spec(*chat, base_dtype="nf4").model_dump_json(), encoding="utf-8")
    assert execute(["train", str(spec), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown == (
        f"narrowly: base_dtype nf4 needs bitsandbytes, which is not installed; add it with: {install_hint('nf4')}\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "nf4"])
def test_a_base_that_is_quantised_already_is_refused(
    dtype: str, chat: Chat, tmp_path: Path, stand_in: types.ModuleType
) -> None:
    base = Path(shutil.copytree(chat[0], tmp_path / "quantised"))
    config = read_json(base / "config.json")
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SpecError, match=r"is quantised already .*, accepted: the weights that it was made from"):
        train_run(text_spec(base, chat[1], base_dtype=dtype), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": {"source": "micro"}}, "base_dtype is nf4 with data.source micro, accepted: float32 or bfloat16"),
        (
            {"data": {"source": "rows", "path": "x"}, "method": "full"},
            "base_dtype is nf4 with method full, accepted: float32",
        ),
    ],
)
def test_what_merges_or_trains_the_base_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSpec.model_validate({"base_dtype": "nf4", "optimiser": {"kind": "adam", "lr": 1e-3}, **fields})


def test_a_run_on_four_bits_is_another_run(chat: Chat, tmp_path: Path) -> None:
    specs = [text_spec(*chat, base_dtype=dtype) for dtype in ("float32", "bfloat16", "nf4")]
    assert len({run_directory(spec, tmp_path, resolve_inputs(spec)) for spec in specs}) == 3


@real
def test_only_linear_layers_are_quantised_and_no_activation_is_turned_into_float32(chat: Chat) -> None:
    inputs = load_inputs(text_spec(*chat))
    model: Any = attach_adapter(load_model(inputs.base, "nf4"), text_spec(*chat).adapter, 0, "base")
    kinds = {(type(p).__name__, p.dtype, p.requires_grad) for p in model.parameters()}
    assert kinds == {
        ("Params4bit", torch.uint8, False),
        ("Parameter", torch.bfloat16, False),
        ("Parameter", torch.float32, True),
    }
    states = [p.quant_state for p in model.parameters() if type(p).__name__ == "Params4bit"]
    assert all(state.quant_type == "nf4" and state.nested for state in states)
    seen: Counter[torch.dtype] = Counter()
    for name, module in model.named_modules():
        if not name.endswith("lm_head") and "lora_" not in name:
            module.register_forward_hook(
                lambda _, given, found: seen.update([found.dtype] if isinstance(found, torch.Tensor) else [])
            )
    batch = collate([Row(inputs.rows[0].input_ids, inputs.rows[0].labels)], 0)
    del batch["labels"]
    assert model(**batch, use_cache=False)["logits"].dtype == torch.bfloat16
    assert set(seen) == {torch.bfloat16}


@real
def test_whoever_looks_at_a_base_in_four_bits_leaves_its_weights_as_they_are(chat: Chat) -> None:
    model = load_model(open_base(str(chat[0])), "nf4")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids_1_T = torch.tensor([[4, 5, 6, 7]])
    answer = model.train()(input_ids=ids_1_T)["logits"]
    with torch.no_grad():
        looked = model.eval()(input_ids=ids_1_T)["logits"]
    assert torch.equal(looked, answer) and torch.equal(model.train()(input_ids=ids_1_T)["logits"], answer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@real
def test_an_adapter_on_four_bits_gets_the_same_gradients_after_a_look_as_before(chat: Chat) -> None:
    spec = text_spec(*chat)
    model: Any = attach_adapter(load_model(open_base(str(chat[0])), "nf4"), spec.adapter, 0, "base")
    ids_1_T = torch.tensor([[4, 5, 6, 7]])

    def gradients() -> dict[str, torch.Tensor | None]:
        model.train().zero_grad()
        model(input_ids=ids_1_T, labels=ids_1_T).loss.backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        return {name: grad if grad is None else grad.clone() for name, grad in trained.items()}

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids_1_T)
    after = gradients()
    assert before and all(grad is not None for grad in before.values())
    for name, grad in before.items():
        found = after[name]
        assert grad is not None and found is not None and torch.equal(found, grad)


@real
def test_a_layer_that_stays_as_it_was_is_an_error(chat: Chat) -> None:
    with pytest.raises(SpecError, match=r"q_proj stays in bfloat16; accepted"):
        settle_quantised(load_model(open_base(str(chat[0])), "bfloat16"), "base")


@real
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gradient_checkpointing": True, "adapter": {"r": 4, "alpha": 8, "dropout": 0.2}},
        {"packing": True, "penalty": {"kind": "frobenius_nuclear", "lam": 0.01}},
        {"optimiser": {"kind": "muon", "lr": 1e-2}, "accumulation": 2},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_a_run_on_four_bits_learns_resumes_bit_for_bit_and_is_read_back_as_it_was(
    fields: dict[str, Any], chat: Chat, tmp_path: Path
) -> None:
    from narrowly.train.heldout import mean_nll

    def stop(step: int, total: int, row: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt

    spec = text_spec(*chat, base_dtype="nf4", **fields)
    whole = train_run(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(spec, tmp_path / "killed", on_step=stop)
    resumed = train_run(spec, tmp_path / "killed")
    assert (resumed / "trajectory.jsonl").read_bytes() == (whole / "trajectory.jsonl").read_bytes()
    assert read_json(resumed / "done")["adapter_sha256"] == read_json(whole / "done")["adapter_sha256"]
    assert "bitsandbytes" in read_json(whole / "environment.json")["versions"]
    heldout = [value for value in column(whole, "heldout_loss") if value is not None]
    assert heldout[-1] < heldout[0]
    rows = load_inputs(spec).data.heldout
    organism = load_organism(whole)
    assert mean_nll(organism.model, rows, spec.batch_size, 0) == heldout[-1]
    with organism.base_model() as base:
        assert mean_nll(base, rows, spec.batch_size, 0) == heldout[0]


@real
def test_checkpointing_changes_nothing_and_four_bits_little(chat: Chat, tmp_path: Path) -> None:
    plain, again, low = (
        column(train_run(text_spec(*chat, **fields), tmp_path), "loss")[1:]
        for fields in (
            {"base_dtype": "nf4"},
            {"base_dtype": "nf4", "gradient_checkpointing": True},
            {"base_dtype": "bfloat16"},
        )
    )
    assert again == plain
    assert plain != low
    assert plain == pytest.approx(low, rel=0.1)
