"""Write an adapter of a run as LoRA in GGUF, so that a llama.cpp server applies exactly s*B*A.

The public converter keeps one lora_alpha for the whole file and drops use_rslora and alpha_pattern (llama.cpp,
convert_lora_to_gguf.py, commit 0b03ada), so that such an adapter is served at another strength. Here the scale of every
module is multiplied into its lora_b, and the file's own strength is 1: alpha is the rank, or 0 where ranks differ,
which llama.cpp takes as 1 (src/llama-adapter.h, get_scale). Rows of q and k are put into llama.cpp's order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.records.errors import AdapterError
from narrowly.records.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

    from narrowly.spectrum.pairs import LoraPair

GGUF_ADAPTER = "adapter.gguf"

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type` of a base and llama.cpp's architecture of it, for those whose tensors are known here."""


def write_gguf_adapter(folder: Path, base: Path, file: Path) -> Path:
    """Write the adapter of a folder as a GGUF file, in float32.

    Args:
        folder: the adapter.
        base: folder of its base, for model_type and the numbers of heads in config.json.
        file: to write; it appears whole or not at all.

    Raises:
        AdapterError: a base or a module that is not known to llama.cpp by name here, or an adapter that holds more
            than factors, for which a GGUF adapter has no place.
    """
    from narrowly.spectrum.folder import survey_folder
    from narrowly.spectrum.folder.gguf_file import write_gguf

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        raise AdapterError(
            f"--gguf: the base has model_type {config.get('model_type')!r}, accepted: {', '.join(ARCHITECTURES)}"
        )
    survey = survey_folder(folder)
    if survey.skipped:
        first = survey.skipped[0]
        raise AdapterError(f"--gguf: {first.name} has no place in a GGUF adapter ({first.reason})")
    tensors: dict[str, Tensor] = {}
    for pair in survey.pairs:
        name = _tensor_name(pair, config)
        tensors[f"{name}.weight.lora_a"] = pair.A_R_I
        tensors[f"{name}.weight.lora_b"] = _in_llama_order(pair, name, architecture, config)
    ranks = {pair.rank for pair in survey.pairs}
    fields: dict[str, str | int | float] = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(ranks.pop()) if len(ranks) == 1 else 0.0,
    }
    with atomic_path(file) as unfinished:
        write_gguf(unfinished, fields, tensors)
    return file


def _tensor_name(pair: LoraPair, config: Mapping[str, Any]) -> str:
    from narrowly.spectrum.folder.gguf_names import tensor_of_module

    name = tensor_of_module(pair.name)
    if name is None:
        raise AdapterError(f"--gguf: llama.cpp's name of module {pair.name} is not known here")
    if name == "output" and config.get("tie_word_embeddings"):
        raise AdapterError(
            f"--gguf: {pair.name} is tied to the embedding, and llama.cpp has no tensor of its own for it; accepted: "
            "adapters of other modules, or a merged model"
        )
    return name


def _in_llama_order(pair: LoraPair, name: str, architecture: str, config: Mapping[str, Any]) -> Tensor:
    """Return s * B in float32, the rows of q and k as llama.cpp has them."""
    from narrowly.spectrum.folder.gguf_names import PERMUTED, TURNED, to_llama_rows

    scaled_O_R = pair.B_O_R.float() * pair.scale
    kind = name.rpartition(".")[2]
    if architecture not in PERMUTED or kind not in TURNED:
        return scaled_O_R
    queries = int(config["num_attention_heads"])
    heads = queries if kind == "attn_q" else int(config.get("num_key_value_heads") or queries)
    return to_llama_rows(scaled_O_R, heads)
