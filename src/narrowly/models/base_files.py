"""Read what lies in a base's folder, and refuse what must not be loaded. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from narrowly.records.adapter_files import ADAPTER_CONFIG, GGUF_SUFFIX
from narrowly.records.canonical import cached_sha256, canonical_json, sha256_text
from narrowly.records.errors import IntegrityError, SpecError, nearest
from narrowly.records.files import read_json

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
CONFIG, TOKENIZER, TEMPLATE_FILE = "config.json", "tokenizer.json", "chat_template.jinja"

LOCAL_CONFIG_FIELDS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map"})
"""Fields of config.json that say where a file came from or how it is stored, not what the model computes in float32.

`auto_map` names code beside the weights; it is never run, and the class of transformers computes the same without it.
"""

GGUF_WAY_OUT = (
    'GGUF is dequantised once into a folder of safetensors (docs/real-models.md, "A base from a GGUF file"), which is '
    "a base like any other"
)


def refuse_adapter(folder: Path) -> None:
    """Refuse a base folder that also holds an adapter, which Transformers would load on top without a word.

    Its adapter_config.json alone decides (`find_adapter_config_file`, Transformers 5.23); others stay unread.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        found = sorted(path.name for path in folder.iterdir() if path.name.startswith("adapter_"))
        raise SpecError(
            f"base {folder} also holds an adapter ({', '.join(found)}), which would be loaded on top of its weights; "
            "accepted: a folder without adapter files (a copy without them, or the adapter merged into the weights)"
        )


def read_object(file: Path) -> dict[str, Any]:
    """Read a file that must hold a JSON object.

    Raises:
        IntegrityError: it holds something else, or no JSON.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        raise IntegrityError(f"{file} holds a {type(value).__name__}, accepted: a JSON object")
    return value


def weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights file, or of the names and hashes of all shards.

    Raises:
        SpecError: no safetensors.
        IntegrityError: a shard of the index is missing, or lies elsewhere.
    """
    if (folder / WEIGHTS).is_file():
        return cached_sha256(folder / WEIGHTS)
    if (folder / WEIGHTS_INDEX).is_file():
        index = read_object(folder / WEIGHTS_INDEX)
        shards = sorted(set(index.get("weight_map", {}).values()))
        if any(Path(shard).name != shard for shard in shards):
            raise IntegrityError(f"{folder / WEIGHTS_INDEX} names files outside of its folder; it is refused")
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise IntegrityError(f"{folder} lacks {', '.join(missing) or 'every shard'} of {WEIGHTS_INDEX}")
        return sha256_text(canonical_json({shard: cached_sha256(folder / shard) for shard in shards}))
    found = sorted(path.name for path in folder.iterdir())
    way_out = f"; {GGUF_WAY_OUT}" if any(name.endswith(GGUF_SUFFIX) for name in found) else ""
    raise SpecError(
        f"base {folder} has no {WEIGHTS} (found: {', '.join(found)}); other weight formats are never loaded{way_out}"
    )


def template_text(folder: Path) -> str:
    """Return the chat template as it is stored, `""` in JSON where there is none."""
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = read_object(settings).get("chat_template") if settings.is_file() else None
    # older folders hold a list of named templates inside the settings; its JSON is as good a text to hash as any
    return template if isinstance(template, str) else json.dumps(template or "")


def default_template(stored: str) -> str | None:
    """Return the template that is used of what `template_text` found: of several, the one called `default`."""
    try:
        value = json.loads(stored)
    except ValueError:  # a template, and no JSON
        return stored if stored.strip() else None
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default")
    return value if isinstance(value, str) and value.strip() else None


def model_config(folder: Path) -> dict[str, Any]:
    """Return config.json without the fields that say only where it came from.

    Raises:
        SpecError: no config.json, or one that asks for code outside of transformers, for another weights file or for
            weights that are quantised already.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise SpecError(f"base {folder} has no config.json; accepted: a folder that save_pretrained wrote")
    config = read_object(file)
    if "auto_map" in config:
        _refuse_unknown_class(folder, config.get("model_type"))
    if "transformers_weights" in config:
        raise SpecError(
            f"base {folder} names a weights file of its own (transformers_weights in config.json: "
            f"{config['transformers_weights']!r}), accepted: {WEIGHTS} or {WEIGHTS_INDEX}, and no such field"
        )
    if "quantization_config" in config:
        raise SpecError(
            f"base {folder} is quantised already (quantization_config in config.json), accepted: the weights that it "
            "was made from; base_dtype nf4 quantises them"
        )
    return {key: value for key, value in config.items() if key not in LOCAL_CONFIG_FIELDS}


def _refuse_unknown_class(folder: Path, model_type: Any) -> None:
    """Refuse a base with code of its own, unless transformers has a class for its model_type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        raise SpecError(
            f"base {folder} needs code of its own (auto_map in config.json, and transformers has no model_type "
            f"{model_type!r}); it is never run; accepted: a model_type that the installed transformers knows"
            f"{nearest(str(model_type), CONFIG_MAPPING_NAMES)}"
        )
