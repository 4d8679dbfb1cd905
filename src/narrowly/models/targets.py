"""Fit the default target modules to a base: the paper's seven where it has them, else every linear layer of its blocks.

In Transformers 5 the experts of a mixture are tensors and no modules, other families fuse several layers into one or
name them otherwise. What is named here is known without the weights, because a run-id holds it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.models.base import Base, empty_model
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import ALL_LINEAR

if TYPE_CHECKING:
    from torch import nn

WITH_ALL_SEVEN = frozenset(
    "cohere cohere2 ernie4_5 exaone4 gemma gemma2 gemma3_text gemma4_text glm4_moe granite llama mistral olmo2 olmo3 "
    "qwen2 qwen2_moe qwen3 seed_oss smollm3 stablelm".split()
)
"""Types of models (config.json) whose blocks have the seven, so that no model need be built to know; held by a test."""

OF_MAMBA = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
NOT_BY_PEFT = frozenset({"out_proj", "conv1d"})
"""Layers that PEFT 0.21 refuses in models of these types: their kernels read the weights past an adapter."""


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of a model by path: `nn.Linear`, and the transposed `Conv1D` of GPT-2 and its kin."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}


def default_targets(model: nn.Module) -> tuple[str, ...]:
    """Return the target modules that a spec means which names none.

    They are `ALL_LINEAR` where the model has all seven. Otherwise they are the linear layers of its blocks, those of
    the seven first, without routers (a mixture's `gate`, `router`, `shared_expert_gate`) and what PEFT refuses.

    Raises:
        SpecError: its blocks have no linear layer at all.
    """
    paths = list(linear_layers(model))
    names = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    if set(ALL_LINEAR) <= set(names):
        return ALL_LINEAR
    kind = str(getattr(getattr(model, "config", None), "model_type", ""))
    of_blocks = dict.fromkeys(
        path.rpartition(".")[2] for path in paths if any(part.isdecimal() for part in path.split("."))
    )
    refused = NOT_BY_PEFT if kind in OF_MAMBA else frozenset()
    found = [name for name in of_blocks if not _is_router(name) and name not in refused]
    if not found:
        raise SpecError(
            f"no linear layer in the blocks of a {kind or type(model).__name__} takes an adapter (its linear layers: "
            f"{', '.join(names) or 'none'}); accepted: adapter.target_modules with names of layers, or method full"
        )
    return (*(name for name in ALL_LINEAR if name in found), *(name for name in found if name not in ALL_LINEAR))


def _is_router(name: str) -> bool:
    return name in ("gate", "router") or name.endswith(("expert_gate", "_router"))


def targets_of_base(base: Base) -> tuple[str, ...]:
    """Return `default_targets` of a base from its config alone: the model is built without weights where it must be.

    Raises:
        SpecError: transformers knows no causal language model for its config.
    """
    config = base.config
    if config.get("model_type") in WITH_ALL_SEVEN:
        return ALL_LINEAR
    return _targets(base.folder, canonical_json(config))


@lru_cache(maxsize=32)
def _targets(folder: Path, _config: str) -> tuple[str, ...]:
    # the config is in the key only: another one in the same folder means another model
    return default_targets(empty_model(folder))
