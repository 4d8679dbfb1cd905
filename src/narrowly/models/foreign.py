"""Put an adapter from elsewhere onto a base through PEFT, and say whether the base is still there beneath it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.models.base_files import read_object
from narrowly.models.lora import ADAPTER
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowly.records.errors import AdapterError
from narrowly.spectrum.peft_fields import STARTS_THAT_CHANGE_THE_BASE

if TYPE_CHECKING:
    from torch import Tensor, nn

EMBEDDINGS = ("embed_tokens", "wte", "embed_in")
"""Names of the embeddings of tokens in Transformers' models."""


def put_foreign_adapter(model: nn.Module, folder: Path, base_name: str) -> tuple[nn.Module, bool]:
    """Put an adapter from elsewhere onto a base, every tensor of it, in eval mode.

    Returns:
        The model, and whether it is the base as it was while the adapter is off: not after a start that takes a part
        out of the base's weights, beside trained biases of the base, or with another vocabulary.

    Args:
        model: the base.
        folder: adapter_config.json, already checked, and adapter_model.safetensors. Where it holds embeddings of
            another vocabulary, the base's are resized first, as they were before training.
        base_name: for adapter_config.json as it is in memory.

    Raises:
        AdapterError: tensors and config do not fit each other or the base.
    """
    import torch
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_fields(folder)
    weights = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise AdapterError(f"{weights} is not a valid safetensors file ({error})") from error
    resized = _resize_vocabulary(model, tensors)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # PEFT's advice on merging and saving, which is not done here
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            adapted = get_peft_model(model, config, adapter_name=ADAPTER)
            config.base_model_name_or_path = base_name
            result = set_peft_model_state_dict(adapted, tensors, adapter_name=ADAPTER)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"the adapter in {folder} does not fit base {base_name}: {reason[:300]}") from error
    if result.unexpected_keys:
        found = ", ".join(sorted(result.unexpected_keys)[:2])
        raise AdapterError(f"{weights} holds tensors that base {base_name} has no place for: {found}")
    absent = _not_loaded(adapted, set(result.missing_keys))
    if absent:
        raise AdapterError(f"{weights} lacks {len(absent)} tensors that {ADAPTER_CONFIG} asks for ({absent[0]} ...)")
    start, bias = str(config.init_lora_weights).lower(), config.bias
    has_base = not (resized or bias != "none" or start.startswith(STARTS_THAT_CHANGE_THE_BASE))
    return adapted.eval(), has_base


def _check_fields(folder: Path) -> None:
    """Refuse fields that the installed PEFT does not know and would leave out with a warning: a newer kind of LoRA."""
    from peft import LoraConfig

    config = read_object(folder / ADAPTER_CONFIG)
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    strange = sorted(name for name, value in config.items() if name not in known and value)
    if strange:
        raise AdapterError(
            f"{folder / ADAPTER_CONFIG}: PEFT as installed does not know {', '.join(strange[:3])}, and would leave "
            "them out; accepted: an adapter without such fields, or a PEFT that knows them"
        )


def _not_loaded(adapted: nn.Module, missing: set[str]) -> list[str]:
    """Return the tensors of the adapter that came from no file, sorted; tied ones come under one of their names."""
    tensors = {**dict(adapted.named_parameters(remove_duplicate=False)), **dict(adapted.named_buffers())}
    loaded = {id(tensor) for name, tensor in tensors.items() if name not in missing}
    return sorted(
        name for name in missing if ADAPTER in name.split(".") and name in tensors and id(tensors[name]) not in loaded
    )


def _resize_vocabulary(model: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Give a base as many embeddings as an adapter that holds them was trained with; return whether it had others."""
    rows = model.get_input_embeddings().weight.shape[0]
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight").removesuffix(".base_layer").removesuffix(".token_adapter")
        if name.endswith(".weight") and module.endswith(EMBEDDINGS) and tensor.shape[0] != rows:
            model.resize_token_embeddings(tensor.shape[0], mean_resizing=False)
            return True
    return False
