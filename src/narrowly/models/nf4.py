"""A base in 4 bits under an adapter in float32: NF4 with double quantisation, computing in bfloat16.

QLoRA (Dettmers et al. 2023, arXiv 2305.14314, section 3) through bitsandbytes. Only the linear layers of the blocks are
quantised; embeddings, norms and output layer are what they are under base_dtype bfloat16. PEFT's
`prepare_model_for_kbit_training` is not used: it would turn the latter into float32, which doubles the embeddings and,
without autocast, every activation behind the first norm. Frozen bfloat16 weights gain nothing by it (a norm computes in
float32 inside of itself), the base is frozen by PEFT, and checkpointing without reentrance needs no gradient of inputs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from narrowly.records.errors import MissingExtraError, SpecError
from narrowly.records.install import install_hint

if TYPE_CHECKING:
    from torch import nn

PACKAGE = "bitsandbytes"

# PEFT imports it in every run, and it then warns that a kernel for weights packed anew is not there (settle_quantised)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def check_nf4(device: str) -> None:
    """Check that bases can be quantised here.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        SpecError: it does not support the device.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingExtraError(
            f"base_dtype nf4 needs {PACKAGE}, which is not installed; add it with: {install_hint('nf4')}"
        )
    import bitsandbytes

    # a set since 0.44; before that there was CUDA alone
    devices = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    if device not in devices:
        raise SpecError(
            f"base_dtype is nf4 on device {device}, but {PACKAGE} {importlib.metadata.version(PACKAGE)} supports "
            f"{', '.join(sorted(devices))}; accepted: one of these devices, or {PACKAGE} 0.50, which supports the CPU"
        )


def nf4_options(device: str) -> dict[str, Any]:
    """Return what `from_pretrained` needs to quantise a base while it loads it.

    Raises:
        MissingExtraError, SpecError: as `check_nf4`.
    """
    import torch
    from transformers import BitsAndBytesConfig

    check_nf4(device)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    # without a map, transformers would take a GPU wherever there is one
    return {"quantization_config": config, "device_map": {"": device}, "dtype": torch.bfloat16}


def settle_quantised(model: nn.Module, base_name: str) -> None:
    """Check that a loaded base is in 4 bits as it was asked for, and keep its weights as they are.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 packs the weights anew in the first forward pass in eval mode, for good.
    That rounds their scales to bfloat16, and no gradient passes through such a layer any more (seen with 0.50.2,
    findings/nf4_eval_stops_gradients.sh). An observer would change the run, so it is switched off.

    Raises:
        SpecError: it has no linear layer that bitsandbytes quantises, or one of them stayed as it was.
    """
    import torch
    from bitsandbytes.nn import Linear4bit

    head = model.get_output_embeddings()  # type: ignore[operator]
    linear: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    plain = [name for name, module in linear.items() if not isinstance(module, Linear4bit) and module is not head]
    if plain or all(module is head for module in linear.values()):
        found = f"{plain[0]} stays in bfloat16" if plain else "no linear layer is in 4 bits"
        raise SpecError(f"base_dtype is nf4, but in base {base_name} {found}; accepted: bfloat16 or float32")
    for module in linear.values():
        if module is not head:
            module.support_avx512bf16_for_cpu = False
