"""Check that live factors can be penalised: whole matrices on one process, in the optimiser that moves them.

A penalty of a shard is a number too, and a wrong one, so everything here refuses; nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from narrowly.records.errors import AdapterError, TrainingError
from narrowly.spectrum.pairs import LoraPair

_WHOLE = "accepted: whole factors on every process (one device, DDP; under FSDP, an adapter outside the sharding)"


def refuse_sharded(model_or_pairs: nn.Module | Sequence[LoraPair]) -> None:
    """Refuse LoRA factors that are not whole matrices of floats on this process.

    Found are DTensor (FSDP2, tensor parallelism), FSDP1's wrapper and flattened parameters, DeepSpeed ZeRO-3's
    placeholders, transformers' tensor parallelism, factors in a quantised tensor class and factors on the meta device.

    Raises:
        AdapterError: the first factor that is not whole, and why.
    """
    if isinstance(model_or_pairs, nn.Module):
        _refuse_split(model_or_pairs)
        named: Any = ((name, p) for name, p in model_or_pairs.named_parameters() if "lora_" in name)
    else:
        named = ((pair.name, factor) for pair in model_or_pairs for factor in (pair.A_R_I, pair.B_O_R))
    for name, factor in named:
        reason = _not_whole(name, factor)
        if reason:
            raise AdapterError(f"{name} is {reason}; {_WHOLE}")


def _refuse_split(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise AdapterError(f"{name or 'the model'} is wrapped by FSDP, which shards its parameters; {_WHOLE}")
    degree = getattr(model, "tp_size", None)
    if isinstance(degree, int) and degree > 1:
        raise AdapterError(f"the model is split over {degree} processes by tensor parallelism; {_WHOLE}")


def _not_whole(name: str, factor: torch.Tensor) -> str | None:
    if hasattr(factor, "ds_id"):
        return "partitioned by DeepSpeed ZeRO-3"
    if "_flat_param" in name or getattr(factor, "_is_flat_param", False):
        return "flattened by FSDP1"
    # bitsandbytes keeps its own Parameter class, DTensor and torchao their own tensor class
    for kind in (type(factor.data), type(factor)):
        if kind.__name__ == "DTensor":  # its import takes longer than ours
            return "a DTensor (FSDP2 or tensor parallelism), of which this process holds a shard"
        if kind not in (torch.Tensor, nn.Parameter):
            return f"stored as {kind.__module__.partition('.')[0]}.{kind.__name__}, not as plain floats"
    return "on the meta device, without values" if factor.is_meta else None


def refuse_foreign(pairs: Sequence[LoraPair], optimizers: Iterable[Any]) -> None:
    """Refuse a penalty on factors that are not being trained.

    Args:
        pairs: the penalty's live pairs.
        optimizers: every optimiser of the run.

    Raises:
        TrainingError: no factor requires a gradient, or one that does is in no optimiser, as when the penalty was
            built from another copy of the model.
    """
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    live = [(pair.name, factor) for pair in pairs for factor in pair[1:3] if factor.requires_grad]
    if not live:
        raise TrainingError(
            f"none of the {2 * len(pairs)} factors under the penalty requires a gradient, accepted: at least one (an "
            "adapter loaded for inference is frozen; load it with is_trainable=True)"
        )
    foreign = [name for name, factor in live if id(factor) not in trained]
    if foreign:
        raise TrainingError(
            f"{len(foreign)} of {len(live)} factors under the penalty are in no optimiser of this run, the first of "
            f"{foreign[0]}; accepted: a penalty built from the model that is trained, once its adapter is in place"
        )
