"""LoRA and rsLoRA on a base through PEFT: float32 factors, initialised from the run seed and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spectralign.records.errors import AdapterError, unknown_name
from spectralign.records.run_spec import AdapterSpec
from spectralign.train.order import stream_seed

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "default"
"""The one adapter of a run, under the name PEFT gives it."""


def lora_config(spec: AdapterSpec) -> Any:
    """Return PEFT's config of the adapter, still without the name of its base."""
    from peft import LoraConfig

    return LoraConfig(
        r=spec.r,
        # other readers of adapter_config.json (vLLM, llama.cpp) want an integer where it is one
        lora_alpha=int(spec.alpha) if spec.alpha.is_integer() else spec.alpha,
        use_rslora=spec.rslora,
        lora_dropout=spec.dropout,
        target_modules=list(spec.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Silence one warning that nobody here can mend: PEFT 0.21 asks transformers 5.23 for an attribute's old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def attach_adapter(model: nn.Module, spec: AdapterSpec, seed: int, base_name: str) -> nn.Module:
    """Wrap a base in PEFT with a fresh adapter: A from PEFT's Kaiming-uniform draw, B = 0, the base frozen.

    The draw is made on the CPU from one stream of the run seed, so that every arm of one base and seed starts
    from the same factors on every device.

    Raises:
        UnknownNameError: a target module that the base does not have.
        AdapterError: factors that are not float32.
    """
    import torch
    from peft import get_peft_model

    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for target in spec.target_modules:
        if target not in linear:
            raise unknown_name("target module", target, linear)
    with torch.random.fork_rng(devices=[]), without_peft_warnings():
        torch.manual_seed(stream_seed(seed, "lora"))
        adapted = get_peft_model(model, lora_config(spec), adapter_name=ADAPTER)
    # PEFT puts the folder that the base was loaded from here; a machine path belongs in no file of ours
    adapted.peft_config[ADAPTER].base_model_name_or_path = base_name
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise AdapterError(f"{name} has dtype {parameter.dtype}, accepted: torch.float32")
    return adapted  # type: ignore[no-any-return]
