"""Edits of adapters that hold more than factors: the rest is carried over byte for byte and named, or refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from narrowly.cli.app import execute
from narrowly.records.errors import AdapterError
from narrowly.spectrum import (
    apply_edit,
    apply_edit_to_model,
    edit_adapter_folder,
    pairs_from_folder,
    singular_values,
    survey_folder,
)
from spectrum_cases import dense
from tiny_adapters import CONFIG, WEIGHTS, adapted, change_config, moe, saved, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore")

EDIT = "clip:limit=0.9"
TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
KINDS: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "modules_to_save": (tiny_base, TARGETS | {"modules_to_save": ["lm_head"]}, ["lm_head.weight"]),
    "trainable tokens": (
        tiny_base,
        TARGETS | {"trainable_token_indices": [1, 2]},
        ["model.embed_tokens.token_adapter.trainable_tokens_delta"],
    ),
    "an adapted embedding": (tiny_base, {"target_modules": ["embed_tokens", "q_proj"]}, [
        "model.embed_tokens.base_layer.weight",
    ]),
    "experts": (
        moe,
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
        [],
    ),
}  # fmt: skip
"""Name -> base, fields, and what lies in the file beside the factors."""


def whole(names: list[str]) -> list[str]:
    return [f"base_model.model.{name}" for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_the_factors_alone_and_names_what_it_carries_over(kind: str, tmp_path: Path) -> None:
    base, fields, beside = KINDS[kind]
    adapted(base(), **fields).save_pretrained(tmp_path / "a")
    edit_adapter_folder(tmp_path / "a", tmp_path / "b", EDIT)
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in "ab")
    assert list(before) == list(after)
    same = [key for key in before if torch.equal(before[key], after[key])]
    assert sorted(same) == sorted(whole(beside))
    record = json.loads((tmp_path / "b" / "edit.json").read_text())
    assert record.get("carried_over", {}).get("tensors", []) == whole(beside)
    for old, new in zip(*(pairs_from_folder(tmp_path / name) for name in "ab"), strict=True):
        torch.testing.assert_close(dense(new), dense(apply_edit(old, EDIT)), rtol=0, atol=1e-6)
        assert float(singular_values(new)[0]) < float(singular_values(old)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_a_folder_is_the_edit_of_the_live_model(kind: str, tmp_path: Path) -> None:
    """PEFT itself loads the edited folder and computes with it what an edit in place gives."""
    base, fields, _ = KINDS[kind]
    untouched = base()
    model = adapted(copy.deepcopy(untouched), **fields)
    model.save_pretrained(tmp_path / "a")
    edit_adapter_folder(tmp_path / "a", tmp_path / "b", EDIT)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        unedited = model(tokens).logits
        apply_edit_to_model(model, EDIT)
        loaded = PeftModel.from_pretrained(untouched, tmp_path / "b").eval()
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(unedited, model(tokens).logits, atol=1e-4)


def test_embeddings_that_were_saved_after_resizing_are_carried_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The field case: no field of the config names them, only their keys do."""
    monkeypatch.chdir(tmp_path)
    adapted(tiny_base(), **TARGETS).save_pretrained("a", save_embedding_layers=True)
    keys = whole(["lm_head.weight", "model.embed_tokens.weight"])
    assert set(keys) <= load_file(f"a/{WEIGHTS}").keys()
    capsys.readouterr()
    Path("a/tokenizer.json").write_text("{}")  # of the vocabulary that was resized
    Path("a/README.md").write_text("# what the adapter was before the edit")
    assert execute(["repair", "a", "--edit", "scale:factor=.5", "--out", "b"]) == 0
    assert sorted(path.name for path in Path("b").iterdir()) == [CONFIG, WEIGHTS, "edit.json", "tokenizer.json"]
    said = " ".join(capsys.readouterr().out.split())
    assert "neither edited nor scaled: lm_head.weight, model.embed_tokens.weight, tokenizer.json" in said
    record = json.loads(Path("b/edit.json").read_text())
    assert sorted(record["carried_over"]["tensors"]) == keys
    assert "scale does not scale them" in record["carried_over"]["note"]
    for key in keys:
        assert torch.equal(load_file(f"a/{WEIGHTS}")[key], load_file(f"b/{WEIGHTS}")[key])


def test_diff_says_whether_what_lies_beside_the_factors_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted(tiny_base(), **TARGETS).save_pretrained(tmp_path / "a", save_embedding_layers=True)
    edit_adapter_folder(tmp_path / "a", tmp_path / "b", EDIT)
    tensors = load_file(tmp_path / "b" / WEIGHTS)
    tensors["base_model.model.lm_head.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "b" / WEIGHTS)
    capsys.readouterr()
    assert execute(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["beside"]
    assert {one["name"]: one["same"] for one in found} == {"lm_head.weight": False, "model.embed_tokens.weight": True}
    assert execute(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "beside the factors of both, not the same: lm_head.weight" in said
    assert "beside the factors of both, the same: model.embed_tokens.weight" in said
    assert "skipped" not in said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_what_is_carried_over_keeps_its_dtype_and_its_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    strange = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    key = "base_model.model.lm_head.weight"
    save_file(load_file(folder / WEIGHTS) | {key: strange}, folder / WEIGHTS)
    edit_adapter_folder(folder, tmp_path / "b", EDIT)
    after = load_file(tmp_path / "b" / WEIGHTS)[key]
    assert after.dtype == dtype
    assert torch.equal(after.view(torch.uint8), strange.view(torch.uint8))


@pytest.mark.parametrize(
    ("key", "beside"),
    [
        ("score.weight", True),
        ("score.bias", True),
        ("layers.0.mlp.down_proj.base_layer.bias", True),
        ("model.head.classifier.scale_of_its_own", True),
        ("layers.0.mlp.ia3_l", False),
        ("layers.0.mlp.vera_lambda_b", False),
        ("layers.0.mlp.up_proj.lora_magnitude_vector.weight", False),
        ("layers.0.mlp.up_proj.lora_newfactor", False),
        ("layers.0.attn.output_proj.lora_a.weight", False),
    ],
)
def test_a_tensor_is_beside_the_factors_only_where_it_cannot_change_what_they_mean(
    key: str, beside: bool, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "a")
    change_config(folder, modules_to_save=["head"])
    save_file(load_file(folder / WEIGHTS) | {f"base_model.model.{key}": torch.ones(4)}, folder / WEIGHTS)
    (found,) = survey_folder(folder).skipped
    assert found.beside == beside
    if beside:
        edit_adapter_folder(folder, tmp_path / "b", EDIT)
        assert torch.equal(load_file(tmp_path / "b" / WEIGHTS)[f"base_model.model.{key}"], torch.ones(4))
        return
    with pytest.raises(AdapterError, match=r"accepted: plain LoRA or rsLoRA"):
        edit_adapter_folder(folder, tmp_path / "b", EDIT)
    assert not (tmp_path / "b").exists()
