"""Give each run a model of its own with a fresh adapter; of small bases a copy of one that was made before.

A study trains hundreds of runs on a few bases. Loading such a base and wrapping it in PEFT takes a tenth of the CPU
time of a short run, a copy a fraction of that; every tensor of it is the same.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING

from narrowly.models.base import Base, load_model
from narrowly.models.lora import attach_adapter
from narrowly.records.canonical import canonical_json
from narrowly.records.run_spec import AdapterSpec, BaseDtype

if TYPE_CHECKING:
    from torch import nn

KEPT_MODELS = 4
"""Models kept per process: cells come base by base, so few are in use at a time."""

LARGEST_KEPT = 32 << 20
"""Bytes of the weights of a model that is kept; of a larger one training takes far longer than loading."""

_kept: OrderedDict[str, nn.Module] = OrderedDict()


def fresh_model(base: Base, spec: AdapterSpec, seed: int, dtype: BaseDtype, device: str) -> nn.Module:
    """Return a base with a fresh adapter, which the caller may change.

    Args:
        base: the base.
        spec: the adapter's.
        seed: draws its factors.
        dtype: of the base.
        device: as in `load_model`.

    Raises:
        NarrowlyError: as `load_model` and `attach_adapter`.
    """
    made_of = [str(base.folder), base.name, base.sha256, base.config_sha256, spec.model_dump(mode="json"), seed, dtype]
    key = canonical_json([*made_of, device])
    if key in _kept:
        _kept.move_to_end(key)
        return copy.deepcopy(_kept[key])
    model = attach_adapter(load_model(base, dtype, device), spec, seed, base.name)
    if device == "cpu" and sum(one.nbytes for one in model.parameters()) <= LARGEST_KEPT:
        _kept[key] = copy.deepcopy(model)
        while len(_kept) > KEPT_MODELS:
            _kept.popitem(last=False)
    return model
