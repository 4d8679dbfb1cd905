"""Read adapters in PEFT's layout: PEFT 0.21.2 itself, torchtune 0.6.1's converted folders, and Tinker's.

Sources: peft/tuners/lora/layer.py (Linear, Embedding, ParamWrapper) and peft/utils/save_and_load.py; torchtune
models/convert_weights.py, whose folders hold r, lora_alpha and target_modules alone; tinker-cookbook 0.6.1
weights/_merge_utils.py and _merge.py, whose experts are stacks of matrices under PEFT's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from narrowly.records.adapter_files import ADAPTER_CONFIG
from narrowly.records.errors import AdapterError
from narrowly.spectrum.experts import MOST_EXPERTS, expert_name, matrix_of_expert
from narrowly.spectrum.folder.layout import Factor, Layout, Place, as_it_is
from narrowly.spectrum.folder.peft_numbers import rank_and_scale
from narrowly.spectrum.folder.peft_parameters import Shapes, expert_places, parameter_of
from narrowly.spectrum.folder.tensor_files import SafetensorsFile, weights_file
from narrowly.spectrum.pairs import Skipped, plain_name, refuse_changed_base
from narrowly.spectrum.peft_fields import DORA, KASA, LORA_BIAS, not_plain

_FACTOR_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight$")
_EMBEDDING_KEY = re.compile(r"^(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?$")
_KINDS = (
    (re.compile(r"^(.+)\.lora_magnitude_vector(?:\..+)?$"), DORA),
    (re.compile(r"^(.+)\.lora_[AB](?:\.[^.]+)?\.bias$"), LORA_BIAS),
    (re.compile(r"^(.+)\.lora_diag(?:\..+)?$"), KASA),
    (
        re.compile(r"^(.+)\.lora_[ab](?:\.weight)?$"),
        "a factor under a name that is not PEFT's (torchtune's own, or mlx-lm's)",
    ),
    (
        re.compile(r"^(.+)\.lora_(?![AB]\.)(?!velora_)\w+(?:\..+)?$"),
        "a tensor of a kind of LoRA that is not known here",
    ),
)
"""Tensors that change what the factors beside them mean."""

_BESIDE = (
    (re.compile(r"^(.+\.lora_velora_embed)(?:\..+)?$"), "VeLoRA's projection, which acts in the backward pass alone"),
    (re.compile(r"^(.+\.base_layer\.weight)$"), "a copy of the base's own weight, saved beside adapted embeddings"),
    (re.compile(r"^(.+\.trainable_tokens_(?:delta|original))(?:\..+)?$"), "rows of single tokens, trained in full"),
    (re.compile(r"^(.+\.bias)$"), "a bias, saved in full beside the factors"),
    (re.compile(r"^(.+\.weight)$"), "saved in full beside the factors (modules_to_save, or a resized embedding)"),
)
"""Tensors that stand beside the factors and leave their meaning alone."""

_NO_FACTOR = "no LoRA factor, and of a kind of adapter that is not known here"
_STACK = re.compile(r"\.experts\.[^.]+$")


def read_peft(folder: Path, config: Mapping[str, Any]) -> Layout:
    """Return where the factors of a PEFT folder lie.

    Args:
        folder: with adapter_model.safetensors.
        config: its adapter_config.json, of which r, lora_alpha, use_rslora, rank_pattern, alpha_pattern and
            target_parameters are read, and what must be empty (`peft_fields`).

    Raises:
        AdapterError: another PEFT method, a PiSSA-like start, a pickle, a corrupt file, numbers that are none.
    """
    _check_config(folder, config)
    file = weights_file(folder)
    modules, skipped = _sorted_keys(file, config)
    variant = not_plain(config)
    shapes = {
        module: tuple(file.shapes[keys[side]] for side in ("A", "B") if side in keys)
        for module, keys in modules.items()
    }
    places: list[Place] = []
    unwritable: list[str] = []
    for module, keys in modules.items():
        if variant:  # says more than a tensor that is not known
            skipped[module] = Skipped(module, variant)
        if module in skipped:
            continue
        for found in _places(folder, config, module, keys, shapes):
            if isinstance(found, Skipped):
                skipped[found.name] = found
            else:
                places.append(found)
        if _shared(shapes[module]):
            unwritable.append(f"{module} shares one factor between all of its experts")
    base, revision = (str(config.get(field) or "") for field in ("base_model_name_or_path", "revision"))
    return Layout(
        "PEFT", file, folder / ADAPTER_CONFIG, places, list(skipped.values()), base, revision,
        unwritable[0] if unwritable else None,
    )  # fmt: skip


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    file = folder / ADAPTER_CONFIG
    # Tinker's need not name the method; every config of PEFT does
    named = config.get("peft_type", "LORA" if {"r", "lora_alpha"} <= config.keys() else None)
    if named != "LORA":
        raise AdapterError(f"{file}: peft_type is {named!r}, accepted: 'LORA'")
    if not isinstance(config.get("target_parameters") or [], list):
        found = type(config["target_parameters"]).__name__
        raise AdapterError(f"{file}: target_parameters is a {found}, accepted: a list")
    refuse_changed_base(config.get("init_lora_weights", True))


def _sorted_keys(
    file: SafetensorsFile, config: Mapping[str, Any]
) -> tuple[dict[str, dict[str, str]], dict[str, Skipped]]:
    """Return the keys of the factors by module and side, and every other tensor with its reason."""
    modules: dict[str, dict[str, str]] = {}
    skipped: dict[str, Skipped] = {}
    for key in file.shapes:
        match = _FACTOR_KEY.match(key) or _EMBEDDING_KEY.match(key)
        if match is None:
            other = _kind(key, config)
            skipped.setdefault(other.name, other)
            continue
        module, side = plain_name(match["module"]), match["side"]
        if side in modules.setdefault(module, {}):
            skipped[module] = Skipped(module, f"two tensors for lora_{side}, accepted: one adapter per folder")
        modules[module][side] = key
    return modules, skipped


def _kind(key: str, config: Mapping[str, Any]) -> Skipped:
    for pattern, reason in _KINDS:
        match = pattern.match(key)
        if match:
            return Skipped(plain_name(match[1]), reason)
    for pattern, reason in _BESIDE:
        match = pattern.match(key)
        if match:
            return Skipped(plain_name(match[1]), reason, beside=True)
    saved = config.get("modules_to_save") or ()
    if isinstance(saved, list) and set(key.split(".")) & {str(name) for name in saved}:
        return Skipped(plain_name(key), "saved in full beside the factors (modules_to_save)", True)
    return Skipped(plain_name(key), _NO_FACTOR)


def _places(
    folder: Path,
    config: Mapping[str, Any],
    module: str,
    keys: Mapping[str, str],
    shapes_of: Mapping[str, Shapes],
) -> Iterator[Place | Skipped]:
    """Yield the places of one module, of which stacks of experts have many."""
    for side in ("A", "B"):
        if side not in keys:
            yield Skipped(module, f"no lora_{side}.weight, needed are both factors of a module")
            return
    shapes = shapes_of[module]
    if all(len(shape) == 3 for shape in shapes) and _STACK.search(module):
        yield from _stack(folder, config, module, keys, shapes)
        return
    found = parameter_of(module, config, shapes_of)
    if isinstance(found, Skipped):
        yield found
        return
    rank, scale = rank_and_scale(folder, config, found or module)
    rows = shapes[0][0] if shapes[0] else 0
    if found and len(shapes[0]) == 2 and rank.is_integer() and rows > rank and rows % rank == 0:
        yield from expert_places(found, keys, shapes, int(rank), scale)
    elif len(shapes[0]) == 2 and rows and rows != rank:
        yield Skipped(module, f"rank mismatch, {ADAPTER_CONFIG} says r = {rank:g} but lora_A has {rows} rows")
    else:
        yield Place(module, Factor(keys["A"], as_it_is), Factor(keys["B"], as_it_is), scale)


def _stack(
    folder: Path, config: Mapping[str, Any], module: str, keys: Mapping[str, str], shapes: Shapes
) -> Iterator[Place | Skipped]:
    """Yield the experts of Tinker's stacks, experts x rank x inputs and experts x outputs x rank.

    One of the two may have a single matrix, which all experts share (tinker-cookbook, expand_expert_lora_tensors).
    """
    counts = {shape[0] for shape in shapes}
    if all(0 in shape for shape in shapes):
        yield Skipped(module, "an empty placeholder of a projection that the model does not have", beside=True)
        return
    rank, scale = rank_and_scale(folder, config, module)
    if max(counts) > MOST_EXPERTS or len(counts - {1}) > 1 or shapes[0][1] != rank or shapes[1][2] != rank:
        yield Skipped(
            module,
            f"stacks of experts of shapes {shapes[0]} and {shapes[1]} at r = {rank:g}, accepted: experts x rank x "
            f"inputs and experts x outputs x rank, up to {MOST_EXPERTS} experts",
        )
        return
    for expert in range(max(counts)):
        view = partial(matrix_of_expert, expert=expert)
        yield Place(expert_name(module, expert), Factor(keys["A"], view), Factor(keys["B"], view), scale)


def _shared(shapes: Shapes) -> bool:
    """Return whether one matrix of a stack serves for all experts."""
    return len(shapes) == 2 and all(len(shape) == 3 for shape in shapes) and shapes[0][0] != shapes[1][0]
