"""Pairs from a live model and from a folder: the same update that PEFT applies, and every refusal in one line."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from narrowly.records.errors import AdapterError
from narrowly.spectrum import pairs_from_folder, pairs_from_model
from tiny_adapters import CONFIG, WEIGHTS, change_config, change_tensors, saved, tiny_model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": False},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 3}, "alpha_pattern": {"k_proj": 5}},
        {"rank_pattern": {r".*\.layers\.0\..*": 2}, "use_rslora": False},
    ],
)
def test_live_and_saved_pairs_give_the_update_that_peft_itself_computes(tmp_path, changes) -> None:
    model = tiny_model(**changes)
    model.save_pretrained(tmp_path)
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    live = {pair.name: pair for pair in pairs_from_model(model)}
    stored = {pair.name: pair for pair in pairs_from_folder(tmp_path)}
    assert len(layers) == len(live) == len(stored) == 14
    for name, layer in layers.items():
        expected = layer.get_delta_weight("default")
        for pair in (live[name.removeprefix("base_model.model.")], stored[name.removeprefix("base_model.model.")]):
            torch.testing.assert_close(pair.scale * pair.B_O_R @ pair.A_R_I, expected)


def test_live_pairs_hold_the_live_parameters_under_plain_names() -> None:
    model = tiny_model()
    pairs = pairs_from_model(model)
    parameters = {id(parameter) for parameter in model.parameters()}
    assert pairs[0].name == "model.layers.0.self_attn.q_proj"
    assert all(id(pair.A_R_I) in parameters and id(pair.B_O_R) in parameters for pair in pairs)
    assert {pair.scale for pair in pairs} == {8 / math.sqrt(4)}
    assert [pair.name for pair in pairs_from_model(torch.nn.Sequential(model))] != []


def test_only_the_active_adapter_is_read_and_two_at_once_are_refused() -> None:
    model = tiny_model()
    model.add_adapter("other", model.peft_config["default"])
    assert all(float(pair.B_O_R.detach().abs().max()) > 0 for pair in pairs_from_model(model))
    model.set_adapter("other")
    assert all(float(pair.B_O_R.detach().abs().max()) == 0 for pair in pairs_from_model(model))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(AdapterError, match="2 adapters are active"):
        pairs_from_model(model)


def test_a_model_without_an_adapter_has_no_pairs() -> None:
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        pairs_from_model(torch.nn.Linear(3, 3))


def test_a_live_nan_names_its_module() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.base_model.model.model.layers[1].mlp.up_proj.lora_A["default"].weight[0, :2] = math.nan
    with pytest.raises(AdapterError, match=r"model\.layers\.1\.mlp\.up_proj: lora_A holds 2 NaN"):
        pairs_from_model(model)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
    ],
)
def test_adapters_whose_update_is_not_b_a_are_refused_by_name_live_and_saved(tmp_path, changes, named) -> None:
    model = tiny_model(**changes)
    with pytest.raises(AdapterError, match=named):
        pairs_from_model(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=f"{named}|is no LoRA factor"):
        pairs_from_folder(tmp_path)


def broken(folder: Path, kind: str) -> None:
    weights, config = folder / WEIGHTS, folder / CONFIG
    match kind:
        case "missing B":
            change_tensors(folder, layers__0__mlp__up_proj__lora_B__weight=None)
        case "missing A":
            change_tensors(folder, layers__0__mlp__up_proj__lora_A__weight=None)
        case "no pairs":
            save_file({}, weights)
        case "NaN":
            change_tensors(folder, layers__1__mlp__up_proj__lora_B__weight=lambda t: t.fill_(math.nan))
        case "infinity":
            change_tensors(folder, layers__1__mlp__up_proj__lora_A__weight=lambda t: t.fill_(math.inf))
        case "ranks differ":
            change_tensors(folder, layers__1__mlp__up_proj__lora_B__weight=lambda t: t[:, :3].clone())
        case "rank not as in the config":
            change_config(folder, r=16)
        case "3-D":
            change_tensors(folder, layers__1__mlp__up_proj__lora_B__weight=lambda t: t[None].clone())
        case "magnitude":
            tensors = load_file(weights)
            save_file(tensors | {"base_model.model.q.lora_magnitude_vector": torch.ones(3)}, weights)
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "not safetensors":
            weights.write_bytes(b"\xff" * 500)
        case "empty":
            weights.write_bytes(b"")
        case "no weights":
            weights.unlink()
        case "no config":
            config.unlink()
        case "config not JSON":
            config.write_text("{")
        case "config a list":
            config.write_text("[]")
        case "another method":
            change_config(folder, peft_type="IA3")
        case "r is text":
            change_config(folder, r="4")
        case "alpha is zero":
            change_config(folder, lora_alpha=0)
        case "bad pattern":
            change_config(folder, rank_pattern={"(": 3})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing B", r"model\.layers\.0\.mlp\.up_proj: no lora_B"),
        ("missing A", r"model\.layers\.0\.mlp\.up_proj: no lora_A"),
        ("no pairs", "no LoRA pairs"),
        ("NaN", r"model\.layers\.1\.mlp\.up_proj: lora_B holds \d+ NaN or infinite"),
        ("infinity", r"model\.layers\.1\.mlp\.up_proj: lora_A holds \d+ NaN or infinite"),
        ("ranks differ", r"model\.layers\.1\.mlp\.up_proj: rank mismatch"),
        ("rank not as in the config", "rank mismatch, .* r = 16"),
        ("3-D", r"model\.layers\.1\.mlp\.up_proj: lora_B has shape \(1, 40, 4\)"),
        ("magnitude", "q: DoRA: a magnitude vector"),
        ("cut short", "not a valid safetensors file"),
        ("not safetensors", "not a valid safetensors file"),
        ("empty", "not a valid safetensors file"),
        ("no weights", r"adapter_model\.safetensors is missing"),
        ("no config", r"adapter_config\.json is missing"),
        ("config not JSON", "not valid JSON"),
        ("config a list", "holds a list, accepted: a JSON object"),
        ("another method", "peft_type is 'IA3', accepted: 'LORA'"),
        ("r is text", "r of .* is '4', accepted: a number above 0"),
        ("alpha is zero", "lora_alpha of .* is 0, accepted: a number above 0"),
        ("bad pattern", "is not a regular expression"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line_that_says_what_was_found(tmp_path, kind, message) -> None:
    broken(saved(tmp_path), kind)
    with pytest.raises(AdapterError, match=message) as caught:
        pairs_from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_and_a_file_are_refused(tmp_path) -> None:
    with pytest.raises(AdapterError, match="found nothing, accepted: an adapter folder"):
        pairs_from_folder(tmp_path / "nowhere")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(AdapterError, match="found a file, accepted: an adapter folder"):
        pairs_from_folder(tmp_path / "file.txt")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.safetensors"])
def test_a_pickle_is_refused_and_never_opened_under_any_name(tmp_path, name) -> None:
    folder, mark = saved(tmp_path / "adapter"), tmp_path / "exploded"
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(AdapterError, match="not a valid safetensors" if name == WEIGHTS else "pickle.*safetensors"):
        pairs_from_folder(folder)
    if name != WEIGHTS:
        with pytest.raises(AdapterError, match=r"pickle.*refused"):
            pairs_from_folder(folder / name)
    assert not mark.exists()
