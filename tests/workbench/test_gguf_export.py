"""`publish --gguf`: the file holds the whole strength of the adapter, which the public converter would drop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.records.errors import AdapterError
from narrowly.spectrum import pairs_from_folder
from narrowly.spectrum.folder.gguf_file import GgufFile
from narrowly.workbench.gguf_export import GGUF_ADAPTER, write_gguf_adapter
from tiny_adapters import saved

pytestmark = pytest.mark.filterwarnings("ignore")

HEADS, KEY_HEADS, HEAD_SIZE = 2, 1, 12
"""Of the tiny base: q has 24 outputs, k 12."""


def base(folder: Path, model_type: str, **more: Any) -> Path:
    folder.mkdir()
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS}
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **heads, **more}))
    return folder


def served(path: Path) -> dict[str, torch.Tensor]:
    """What llama.cpp adds, by llama.cpp's names: alpha / rank (1 where alpha is 0) times lora_b lora_a."""
    file = GgufFile(path)
    alpha = file.fields["adapter.lora.alpha"]
    changes = {}
    for name in file.shapes:
        if name.endswith(".lora_b"):
            b, a = file.get_tensor(name), file.get_tensor(f"{name.removesuffix('b')}a")
            changes[name.removesuffix(".weight.lora_b")] = (alpha / b.shape[1] if alpha else 1.0) * b @ a
    return changes


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": False},
        {"alpha_pattern": {"v_proj": 3.5, "layers.1.mlp.up_proj": 1}},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 1}},
    ],
    ids=["rslora", "plain", "alphas", "ranks"],
)
def test_a_server_applies_what_the_adapter_is(fields: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", **fields)
    write_gguf_adapter(folder, base(tmp_path / "base", "qwen3"), tmp_path / GGUF_ADAPTER)
    found = {pair.name: pair.scale * pair.B_O_R @ pair.A_R_I for pair in pairs_from_folder(tmp_path / GGUF_ADAPTER)}
    expected = {pair.name: pair.scale * pair.B_O_R @ pair.A_R_I for pair in pairs_from_folder(folder)}
    assert found.keys() == expected.keys()
    assert len(served(tmp_path / GGUF_ADAPTER)) == len(expected)
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, rtol=1e-5, atol=1e-6)


def test_rows_of_queries_and_keys_stand_in_the_order_of_the_architecture(tmp_path: Path) -> None:
    """Row 2j + half of a head in llama.cpp is row half * size / 2 + j in Transformers."""
    folder = saved(tmp_path / "a")
    write_gguf_adapter(folder, base(tmp_path / "base", "llama"), tmp_path / GGUF_ADAPTER)
    found = served(tmp_path / GGUF_ADAPTER)
    for pair in pairs_from_folder(folder):
        kind = pair.name.rpartition(".")[2]
        if kind not in ("q_proj", "k_proj", "v_proj"):
            continue
        change = pair.scale * pair.B_O_R @ pair.A_R_I
        expected = change.clone()
        for head in range({"q_proj": HEADS, "k_proj": KEY_HEADS, "v_proj": 0}[kind]):
            for j in range(HEAD_SIZE // 2):
                for half in (0, 1):
                    row = head * HEAD_SIZE
                    expected[row + 2 * j + half] = change[row + half * HEAD_SIZE // 2 + j]
        layer = pair.name.split(".")[2]
        torch.testing.assert_close(found[f"blk.{layer}.attn_{kind[0]}"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "fields", "words"),
    [
        ("gpt2", {}, r"the base has model_type 'gpt2', accepted: llama, mistral, qwen2, qwen3"),
        ("qwen3", {"modules_to_save": ["lm_head"]}, r"lm_head\.weight has no place in a GGUF adapter"),
        ("qwen3", {"target_modules": ["lm_head"]}, r"has no place in a GGUF adapter|is tied to the embedding"),
    ],
)
def test_what_a_server_cannot_take_is_refused_with_the_reason(
    model_type: str, fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "a", **fields)
    with pytest.raises(AdapterError, match=words):
        write_gguf_adapter(folder, base(tmp_path / "base", model_type, tie_word_embeddings=True), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
