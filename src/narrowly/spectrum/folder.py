"""Read pairs from an adapter folder a few at a time, with a reason for every tensor that is no factor.

A whole adapter of an 8B model is 350 MB in float32. The file is mapped anew for every few modules, so that the pages
that were read can leave memory again. Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowly.records.errors import AdapterError, MissingExtraError
from narrowly.records.install import install_hint
from narrowly.spectrum.pairs import (
    ACCEPTED,
    EMBEDDING,
    EXPERTS,
    LoraPair,
    Skipped,
    Survey,
    check_pairs,
    pair_fault,
    plain_name,
    refuse_changed_base,
    some_pairs,
)
from narrowly.spectrum.peft_fields import DORA, KASA, LORA_BIAS, not_plain

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

CHUNK = 16
"""Modules per mapping of the file: 22 MB of an 8B adapter at rank 32, and 16 headers of 60 kB parsed instead of 252."""

LONGEST_PATTERN = 120
"""Characters of a rank or alpha pattern from a foreign config."""

MOST_REPEATS = 3
"""Repeats in such a pattern: matching may take as many steps as a name has characters to this power."""

LONGEST_NAME = 200
"""Characters of a module's name that a pattern with repeats is matched against."""

_FACTOR_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight$")
_KINDS = (
    (re.compile(r"^(.+)\.lora_magnitude_vector(?:\..+)?$"), DORA),
    (re.compile(r"^(.+)\.lora_embedding_[AB](?:\..+)?$"), EMBEDDING),
    (re.compile(r"^(.+)\.lora_[AB](?:\.[^.]+)?\.bias$"), LORA_BIAS),
    (re.compile(r"^(.+)\.lora_diag(?:\..+)?$"), KASA),
    (re.compile(r"^(.+\.lora_velora_embed)(?:\..+)?$"), "VeLoRA's projection, for the backward pass alone; no factor"),
    (re.compile(r"^(.+)\.lora_(?![AB]\.)\w+(?:\..+)?$"), "a tensor of a kind of LoRA that is not known here"),
)
_BASE_COPY = "a copy of the base's own weight, as PEFT saves it beside adapted embeddings; no factor"
_NO_FACTOR = "no LoRA factor: a module saved in full beside the adapter, or a kind of adapter that is not known here"


class _Layout(NamedTuple):
    """What the keys of a file say, before any tensor is read: modules with the keys of their factors, and the rest.

    `parameters` has the whole name of the parameter where an adapted module is one of `target_parameters`.
    """

    config: dict[str, Any]
    file: Path
    modules: dict[str, dict[str, str]]
    reasons: dict[str, str]
    parameters: dict[str, str]


def survey_folder(path: Path | str) -> Survey:
    """Return the pairs of a saved PEFT adapter, and by name what has no usable pair.

    The pairs are in the file's order, on the CPU, in the dtype of the file. Reads `adapter_config.json` (r, lora_alpha,
    use_rslora, rank_pattern, alpha_pattern, target_parameters, and what must be empty: `peft_fields`) and the
    safetensors file.

    Raises:
        AdapterError: no such folder, no or broken config, a pickle, a corrupt file, not one pair.
        MissingExtraError: where safetensors is not installed.
    """
    survey = Survey([], [])
    for chunk in survey_chunks(path):
        survey.pairs.extend(chunk.pairs)
        survey.skipped.extend(chunk.skipped)
    return some_pairs(survey, f"{path}: ")


def survey_chunks(path: Path | str, modules: int = CHUNK) -> Iterator[Survey]:
    """Yield the survey of a folder a few modules at a time; a chunk that is let go leaves memory.

    Args:
        path: the adapter folder.
        modules: modules per chunk.

    Raises:
        AdapterError, MissingExtraError: as `survey_folder`, but for a folder without pairs.
    """
    layout = _layout(Path(path))
    yield Survey([], [Skipped(name, reason) for name, reason in layout.reasons.items()])
    names = [name for name in layout.modules if name not in layout.reasons]
    for start in range(0, len(names), modules):
        survey = Survey([], [])
        with _opened(layout.file) as tensors:
            for name in names[start : start + modules]:
                found = _folder_pair(layout, name, tensors)
                fault = pair_fault(found) if isinstance(found, LoraPair) else None
                if isinstance(found, Skipped) or fault:
                    survey.skipped.append(found if isinstance(found, Skipped) else Skipped(name, str(fault)))
                else:
                    survey.pairs.append(found)
        yield survey


def pairs_from_folder(path: Path | str) -> list[LoraPair]:
    """Return the pairs of a saved PEFT adapter, all of whose tensors must belong to one.

    Raises:
        AdapterError: as `survey_folder`, and for the first module or tensor that has no usable pair.
        MissingExtraError: where safetensors is not installed.
    """
    pairs: list[LoraPair] = []
    for chunk in survey_chunks(path):
        if chunk.skipped:
            first = chunk.skipped[0]
            raise AdapterError(f"{path}: {first.name}: {first.reason}; {ACCEPTED}")
        pairs.extend(chunk.pairs)
    return check_pairs(pairs)


def factor_place(key: str) -> tuple[str, str] | None:
    """Return (plain module name, "A" or "B") of a saved tensor's key, or None where it is no LoRA factor."""
    match = _FACTOR_KEY.match(key)
    return (plain_name(match["module"]), match["side"]) if match else None


def _layout(folder: Path) -> _Layout:
    config = read_adapter_config(folder)
    file = _weights_file(folder)
    modules: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    with _opened(file) as tensors:
        keys = list(tensors.keys())
    for key in keys:
        place = factor_place(key)
        if place is None:
            name, reason = _kind(key)
            reasons.setdefault(name, reason)
            continue
        module, side = place
        if side in modules.setdefault(module, {}):
            reasons[module] = f"two tensors for lora_{side}, accepted: one adapter per folder"
        modules[module][side] = key
    variant = not_plain(config)
    parameters: dict[str, str] = {}
    for module in modules:
        if variant:  # says more than a tensor that is not known
            reasons[module] = variant
        owner = re.sub(r"(\.base_layer)+$", "", module)
        found = [name for name in _target_parameters(config) if f".{owner}".endswith(f".{name[0]}")]
        if len(found) > 1:  # nested wrappers, in an order that the file does not say
            reasons[module] = EXPERTS
        elif found:
            parameters[module] = f"{owner}.{found[0][1]}"
    return _Layout(config, file, modules, reasons, parameters)


def _target_parameters(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return module and parameter of every entry of `target_parameters`."""
    parts = [str(name).rpartition(".") for name in config.get("target_parameters") or ()]
    return [(module, parameter) for module, _, parameter in parts]


def _kind(key: str) -> tuple[str, str]:
    for pattern, reason in _KINDS:
        match = pattern.match(key)
        if match:
            return plain_name(match[1]), reason
    return plain_name(key), _BASE_COPY if key.endswith(".base_layer.weight") else _NO_FACTOR


def _folder_pair(layout: _Layout, module: str, tensors: Any) -> LoraPair | Skipped:
    keys, folder = layout.modules[module], layout.file.parent
    for side in ("A", "B"):
        if side not in keys:
            return Skipped(module, f"no lora_{side}.weight, needed are both factors of a module")
    name = layout.parameters.get(module, module)
    rank = _number(folder, layout.config, "r", "rank_pattern", name)
    alpha = _number(folder, layout.config, "lora_alpha", "alpha_pattern", name)
    A_R_I, B_O_R = (_tensor(layout.file, tensors, keys[side]) for side in ("A", "B"))
    if A_R_I.ndim == 2 and A_R_I.shape[0] != rank:
        if module in layout.parameters and A_R_I.shape[0] % rank == 0:  # one block of rows for each expert
            return Skipped(module, EXPERTS)
        return Skipped(
            module, f"rank mismatch, {ADAPTER_CONFIG} says r = {rank:g} but lora_A has {A_R_I.shape[0]} rows"
        )
    return LoraPair(module, A_R_I, B_O_R, alpha / (math.sqrt(rank) if layout.config.get("use_rslora") else rank))


# ------------------------------------------------------------------------------------------------- files


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read and check `adapter_config.json` of a LoRA adapter.

    Raises:
        AdapterError: no such folder, a pickle, no config, broken JSON, another PEFT method, a PiSSA-like start.
    """
    if not folder.is_dir():
        if folder.suffix in PICKLE_SUFFIXES and folder.exists():
            raise AdapterError(_refuse_pickle(folder))
        found = "a file" if folder.exists() else "nothing"
        raise AdapterError(
            f"{folder}: found {found}, accepted: an adapter folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        )
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        raise AdapterError(f"{folder}: {ADAPTER_CONFIG} is missing, so this is no adapter folder")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # ValueError: bad UTF-8 or JSON, endless digits
        raise AdapterError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{file} holds a {type(config).__name__}, accepted: a JSON object")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{file}: peft_type is {config.get('peft_type')!r}, accepted: 'LORA'")
    if not isinstance(config.get("target_parameters") or [], list):
        found = type(config["target_parameters"]).__name__
        raise AdapterError(f"{file}: target_parameters is a {found}, accepted: a list")
    refuse_changed_base(config.get("init_lora_weights", True))
    return config


def read_adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all of `adapter_model.safetensors`; a pickle beside or instead of it is never opened.

    Raises:
        AdapterError: no weights, only a pickle, or a file that is not valid safetensors.
        MissingExtraError: where safetensors is not installed.
    """
    file = _weights_file(folder)
    with _opened(file) as tensors:
        return {key: _tensor(file, tensors, key) for key in tensors.keys()}  # noqa: SIM118 - no mapping


def _weights_file(folder: Path) -> Path:
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        pickles = sorted(entry for entry in folder.iterdir() if entry.suffix in PICKLE_SUFFIXES)
        weights = [entry for entry in pickles if entry.name != "training_args.bin"]
        raise AdapterError(_refuse_pickle(weights[0]) if weights else f"{folder}: {ADAPTER_WEIGHTS} is missing")
    return file


def _opened(file: Path) -> Any:
    """Return a context that maps a safetensors file and reads single tensors of it."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError(f"safetensors is not installed; add it with: {install_hint('spectral')}") from error
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise AdapterError(f"{file} is not a valid safetensors file ({error})") from error


def _tensor(file: Path, tensors: Any, key: str) -> Tensor:
    from safetensors import SafetensorError

    try:
        tensor: Tensor = tensors.get_tensor(key)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError, AttributeError) as error:
        raise AdapterError(f"{file}: tensor {key!r} cannot be read ({error})") from error
    return tensor


def _refuse_pickle(file: Path) -> str:
    return (
        f"{file} is a pickle, which can run code when it is opened, so it was refused and not loaded; accepted: "
        f"{ADAPTER_WEIGHTS} (convert it to safetensors where you trust it: save_pretrained with peft does)"
    )


def _number(folder: Path, config: Mapping[str, Any], field: str, pattern_field: str, module: str) -> float:
    """Return r or lora_alpha of one module: the first matching pattern, else the general one (PEFT 0.21)."""
    value = config.get(field)
    patterns = config.get(pattern_field) or {}
    if not isinstance(patterns, Mapping):
        raise AdapterError(f"{folder}: {pattern_field} is a {type(patterns).__name__}, accepted: an object")
    for pattern, special in patterns.items():
        if _matches(folder, pattern, module):
            value = special
            break
    # JSON may hold integers beyond every float, hence a bound instead of math.isfinite
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise AdapterError(f"{folder}: {field} of {module} is {value!r}, accepted: a number above 0")
    return float(value)


def _matches(folder: Path, pattern: str, module: str) -> bool:
    if re.fullmatch(r"[\w.]+", pattern):  # the usual case needs no regular expression from a foreign file
        return module == pattern or module.endswith(f".{pattern}")
    repeats = len(re.findall(r"[*+{]|(?<!\()\?", pattern))
    if (
        len(pattern) > LONGEST_PATTERN
        or repeats > MOST_REPEATS
        or (repeats and len(module) > LONGEST_NAME)
        or re.search(r"\)[*+?{]|[*+}][*+{]|\\\d", pattern)
    ):
        raise AdapterError(
            f"{folder}: pattern {pattern[:60]!r} could run for ever; accepted: up to {LONGEST_PATTERN} characters and "
            f"{MOST_REPEATS} repeats, no repeated groups, no back references, names up to {LONGEST_NAME} characters"
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise AdapterError(f"{folder}: pattern {pattern!r} is not a regular expression ({error})") from error
