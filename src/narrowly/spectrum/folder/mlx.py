"""Read adapters of mlx-lm 0.32.2: its adapter_config.json has PEFT's name and every argument of its command in it.

A linear layer has lora_a of inputs x rank and lora_b of rank x outputs, both the other way round than PEFT's; experts
(`switch_mlp`) have stacks, experts x rank x inputs and experts x outputs x rank; an embedding has lora_a of tokens x
rank. The update is `scale * (lora_a @ lora_b)^T`: scale is not divided by the rank. Source: mlx_lm/tuner/lora.py, the
`fuse` methods; files and config: mlx_lm/lora.py. Early versions had `alpha` too: `self.scale = scale * (alpha / r)`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from narrowly.records.adapter_files import ADAPTER_CONFIG, MLX_WEIGHTS
from narrowly.records.errors import AdapterError
from narrowly.spectrum.experts import MOST_EXPERTS, expert_name, matrix_of_expert
from narrowly.spectrum.folder.layout import Factor, Layout, Place, transposed
from narrowly.spectrum.folder.tensor_files import weights_file
from narrowly.spectrum.pairs import Skipped
from narrowly.spectrum.peft_fields import DORA

_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[ab])$")
_MAGNITUDE = re.compile(r"^(?P<module>.+)\.m$")


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter_config.json is mlx-lm's and not PEFT's."""
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def read_mlx(folder: Path, config: Mapping[str, Any]) -> Layout:
    """Return where the factors of an mlx-lm folder lie.

    Args:
        folder: with adapters.safetensors; numbered copies of earlier iterations beside it are not read.
        config: its adapter_config.json, of which fine_tune_type, lora_parameters and model are read.

    Raises:
        AdapterError: a full fine-tune, no scale, no weights, a corrupt file.
    """
    place = folder / ADAPTER_CONFIG
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise AdapterError(f"{place}: fine_tune_type is {kind!r}, accepted: 'lora'")
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise AdapterError(f"{place}: lora_parameters is {parameters!r}, accepted: an object with rank and scale")
    scale, rank = _number(place, parameters, "scale"), _number(place, parameters, "rank")
    if "alpha" in parameters and parameters["alpha"] != rank:
        raise AdapterError(
            f"{place}: lora_parameters has alpha {parameters['alpha']!r} beside scale {scale:g} at rank {rank:g}; "
            "early mlx-lm multiplied scale by alpha / rank, today's reads scale alone, and the file does not say "
            "which trained it; accepted: no alpha, and the scale that is meant"
        )
    file = weights_file(folder, MLX_WEIGHTS)
    modules: dict[str, dict[str, str]] = {}
    skipped: dict[str, Skipped] = {}
    for key in file.shapes:
        match = _KEY.match(key)
        if match:
            modules.setdefault(match["module"], {})[match["side"]] = key
        elif magnitude := _MAGNITUDE.match(key):
            skipped[magnitude["module"]] = Skipped(magnitude["module"], DORA)
        else:
            skipped[key] = Skipped(key, "no lora_a or lora_b of a layer that is known here")
    places: list[Place] = []
    for module, keys in modules.items():
        if kind == "dora":
            skipped[module] = Skipped(module, DORA)
        if module in skipped:
            continue
        for found in _places(module, keys, {side: file.shapes[key] for side, key in keys.items()}, rank, scale):
            if isinstance(found, Skipped):
                skipped[module] = found
            else:
                places.append(found)
    base = config.get("model")
    return Layout("mlx-lm", file, place, places, list(skipped.values()), base if isinstance(base, str) else "")


def _places(
    module: str, keys: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], rank: float, scale: float
) -> Iterator[Place | Skipped]:
    missing = [side for side in "ab" if side not in keys]
    if missing:
        yield Skipped(module, f"no lora_{missing[0]}, needed are both factors of a module")
        return
    a, b = shapes["a"], shapes["b"]
    if len(a) == len(b) == 2 and a[1] == b[0] == rank:
        yield Place(module, Factor(keys["a"], transposed), Factor(keys["b"], transposed), scale)
    elif len(a) == len(b) == 3 and a[0] == b[0] <= MOST_EXPERTS and a[1] == b[2] == rank:
        for expert in range(a[0]):
            view = partial(matrix_of_expert, expert=expert)
            yield Place(expert_name(module, expert), Factor(keys["a"], view), Factor(keys["b"], view), scale)
    else:
        yield Skipped(
            module,
            f"lora_a has shape {a} and lora_b {b} at rank {rank:g}, accepted: inputs x rank and rank x outputs, or "
            "experts x rank x inputs and experts x outputs x rank",
        )


def _number(file: Path, parameters: Mapping[str, Any], field: str) -> float:
    value = parameters.get(field)
    # JSON may hold integers beyond every float, hence a bound instead of math.isfinite
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise AdapterError(f"{file}: {field} in lora_parameters is {value!r}, accepted: a number above 0")
    return float(value)
