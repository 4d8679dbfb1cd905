"""LoRA pairs: two factors and a scale per adapted module, from a live PEFT model or an adapter folder.

Both readers speak to names and shapes only, so neither `peft` nor `transformers` is imported. Adapters whose
update is not `scale * B @ A` (DoRA, embedding LoRA, convolutions, experts, PiSSA starts) are refused by name,
because a spectrum of the factors would not be the spectrum of their update.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from spectralign.records.errors import AdapterError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

LONGEST_PATTERN = 120
"""Characters of a rank or alpha pattern from a foreign config; with no repeated group, matching stays quick."""

_FACTOR_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight$")
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)*(?:base_model\.model\.)?(?:(?:module|_orig_mod)\.)*")
_STARTS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` under which PEFT 0.21 subtracts from, or quantises, the base weight."""


class LoraPair(NamedTuple):
    """One adapted module; its update of the base weight is `scale * B_O_R @ A_R_I`.

    Attributes:
        name: module path without the PEFT wrappers, such as `model.layers.0.self_attn.q_proj`.
        A_R_I: the factor that reads the input, rank x inputs.
        B_O_R: the factor that writes the output, outputs x rank.
        scale: effective scale, alpha/r (LoRA) or alpha/sqrt(r) (rsLoRA; Kalajdzievski, arXiv 2312.03732).
    """

    name: str
    A_R_I: Tensor
    B_O_R: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Return the rank of the factors (rows of A)."""
        return int(self.A_R_I.shape[0])


def plain_name(path: str) -> str:
    """Return a module path without the prefixes that PEFT, DDP and torch.compile put in front."""
    return _WRAPPERS.sub("", path, count=1)


def check_pairs(pairs: Iterable[LoraPair]) -> list[LoraPair]:
    """Return the pairs as a list after checking shapes, ranks and finiteness.

    Raises:
        AdapterError: no pair, a factor that is not a matrix, ranks of A and B that differ, NaN or infinity.
    """
    checked = list(pairs)
    if not checked:
        raise AdapterError("no LoRA pairs: found 0 modules with lora_A and lora_B, accepted: at least 1")
    for name, A_R_I, B_O_R, scale in checked:
        for side, factor in (("lora_A", A_R_I), ("lora_B", B_O_R)):
            # torch has neither sums nor comparisons for floats of one byte
            if factor.ndim != 2 or not factor.is_floating_point() or factor.element_size() < 2:
                raise AdapterError(
                    f"{name}: {side} has shape {tuple(factor.shape)} and dtype {factor.dtype}, "
                    "accepted: a matrix of floats of at least 16 bits (convolution, expert and integer factors are not "
                    "supported)"
                )
        if A_R_I.shape[0] != B_O_R.shape[1]:
            raise AdapterError(
                f"{name}: rank mismatch, lora_A has {A_R_I.shape[0]} rows but lora_B {B_O_R.shape[1]} columns"
            )
        if A_R_I.numel() == 0 or B_O_R.numel() == 0:
            raise AdapterError(f"{name}: empty factor, lora_A {tuple(A_R_I.shape)}, lora_B {tuple(B_O_R.shape)}")
        for side, factor in (("lora_A", A_R_I), ("lora_B", B_O_R)):
            # A sum is NaN or infinite if any element is, and costs no mask; only a suspicious one is looked
            # at closely.
            if not bool(torch.isfinite(factor.detach().sum())) and not bool(torch.isfinite(factor.detach()).all()):
                bad = int((~torch.isfinite(factor.detach())).sum())
                raise AdapterError(f"{name}: {side} holds {bad} NaN or infinite values, accepted: finite values only")
        if not math.isfinite(scale):
            raise AdapterError(f"{name}: scale is {scale}, accepted: a finite number")
    return checked


# ------------------------------------------------------------------------------------------------- live model


def pairs_from_model(model: nn.Module) -> list[LoraPair]:
    """Return the pairs of the active adapter of a PEFT model, in module order, holding the live parameters.

    The scale is read from the layer, so that rsLoRA, rank patterns and alpha patterns are already in it. Full
    modules that PEFT trains beside the adapter (`modules_to_save`) are no pairs and are left out.

    Args:
        model: a PeftModel, its inner LoraModel, or any module that holds PEFT LoRA layers.

    Raises:
        AdapterError: no pairs, several active adapters, a missing factor, NaN, or an unsupported kind of
            adapter.
    """
    _refuse_changed_bases(model)
    return check_pairs(_live_pairs(model))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any, str]]:
    """Yield (plain module name, LoRA layer, its active adapter) for every layer that the adapter touches.

    Raises:
        AdapterError: where a layer has more than one active adapter.
    """
    for path, layer in model.named_modules():
        if not (hasattr(layer, "lora_A") and hasattr(layer, "lora_B") and hasattr(layer, "scaling")):
            continue
        name = plain_name(path)
        present = set(layer.lora_A) | set(layer.lora_B) | set(getattr(layer, "lora_embedding_A", ()))
        active = [adapter for adapter in layer.active_adapters if adapter in present]
        if len(active) > 1:
            raise AdapterError(f"{name}: {len(active)} adapters are active ({', '.join(active)}), accepted: one")
        if active:
            yield name, layer, active[0]


def _live_pairs(model: nn.Module) -> Iterator[LoraPair]:
    for name, layer, adapter in lora_layers(model):
        kind = _unsupported_kind(layer, adapter)
        if kind:
            raise AdapterError(f"{name}: {kind} is not supported, accepted: plain LoRA or rsLoRA on linear layers")
        for side in ("lora_A", "lora_B"):
            if adapter not in getattr(layer, side):
                raise AdapterError(f"{name}: {side} of adapter {adapter!r} is missing")
        yield LoraPair(name, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, float(layer.scaling[adapter]))


def _unsupported_kind(layer: Any, adapter: str) -> str | None:
    """Return the name of the adapter kind where the layer's update is not scale * B @ A, else None."""
    if adapter in getattr(layer, "lora_embedding_A", ()):
        return "LoRA on an embedding"
    if adapter in getattr(layer, "lora_magnitude_vector", ()):
        return "DoRA (a magnitude vector)"
    if hasattr(layer, "lora_E"):
        return "AdaLoRA"
    if hasattr(layer, "parameter_name"):
        return "LoRA on a bare parameter (3-D factors of experts)"
    if getattr(layer, "lora_variant", {}).get(adapter) is not None:
        return f"the LoRA variant {type(layer.lora_variant[adapter]).__name__}"
    if getattr(layer, "lora_bias", {}).get(adapter):
        return "lora_bias"
    return None


def _refuse_changed_bases(model: nn.Module) -> None:
    configs = getattr(model, "peft_config", {})
    for config in configs.values() if isinstance(configs, Mapping) else ():
        _refuse_changed_base(getattr(config, "init_lora_weights", True))


def _refuse_changed_base(start: object) -> None:
    if isinstance(start, str) and start.lower().startswith(_STARTS_THAT_CHANGE_THE_BASE):
        raise AdapterError(
            f"init_lora_weights is {start!r}, which changes the base weights too: B @ A is not the update; "
            "accepted: adapters saved after conversion to plain LoRA"
        )


# ------------------------------------------------------------------------------------------------- folder


def pairs_from_folder(path: Path | str, *, skip_unsupported: bool = False) -> list[LoraPair]:
    """Return the pairs of a saved PEFT adapter, in the file's order, on the CPU, in the dtype of the file.

    Reads `adapter_config.json` (r, lora_alpha, use_rslora, rank_pattern, alpha_pattern) and
    `adapter_model.safetensors`. Nothing is unpickled.

    Args:
        path: the adapter folder.
        skip_unsupported: leave out tensors that are no LoRA matrix factors (magnitudes, embedding factors,
            saved modules) instead of refusing the adapter. The pairs then describe only a part of the update.

    Raises:
        AdapterError: no such folder, no or broken config, a pickle, a corrupt safetensors file, no pairs, a
            missing factor, ranks that differ, NaN, or an unsupported kind of tensor.
        MissingExtraError: where safetensors is not installed.
    """
    folder = Path(path)
    config = read_adapter_config(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_adapter_tensors(folder).items():
        place = factor_place(key)
        if place is None:
            if skip_unsupported:
                continue
            raise AdapterError(
                f"{folder}: tensor {key!r} is no LoRA factor, accepted: *.lora_A.weight and *.lora_B.weight "
                "(DoRA magnitudes, embedding factors, expert factors and saved modules are not supported)"
            )
        module, side = place
        if side in factors.setdefault(module, {}):
            raise AdapterError(f"{folder}: {module} has two tensors for lora_{side}, accepted: one adapter per folder")
        factors[module][side] = tensor
    return check_pairs(_folder_pair(folder, config, module, sides) for module, sides in factors.items())


def factor_place(key: str) -> tuple[str, str] | None:
    """Return (plain module name, "A" or "B") of a saved tensor's key, or None where it is no LoRA factor."""
    match = _FACTOR_KEY.match(key)
    return (plain_name(match["module"]), match["side"]) if match else None


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read and check `adapter_config.json` of a LoRA adapter.

    Raises:
        AdapterError: no such folder, a pickle, no config, broken JSON, another PEFT method, DoRA, a
            PiSSA-like start.
    """
    if not folder.is_dir():
        if folder.suffix in PICKLE_SUFFIXES and folder.exists():
            raise AdapterError(_refuse_pickle(folder))
        found = "a file" if folder.exists() else "nothing"
        raise AdapterError(
            f"{folder}: found {found}, accepted: an adapter folder with {CONFIG_NAME} and {WEIGHTS_NAME}"
        )
    file = folder / CONFIG_NAME
    if not file.is_file():
        raise AdapterError(f"{folder}: {CONFIG_NAME} is missing, so this is no adapter folder")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # ValueError: bad UTF-8 or JSON, endless digits
        raise AdapterError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{file} holds a {type(config).__name__}, accepted: a JSON object")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{file}: peft_type is {config.get('peft_type')!r}, accepted: 'LORA'")
    if config.get("use_dora"):
        raise AdapterError(f"{file}: use_dora is true, but DoRA is not supported, accepted: plain LoRA or rsLoRA")
    _refuse_changed_base(config.get("init_lora_weights", True))
    return config


def read_adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """Read `adapter_model.safetensors`; a pickle beside or instead of it is never opened.

    Raises:
        AdapterError: no weights, only a pickle, or a file that is not valid safetensors.
        MissingExtraError: where safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors is not installed; run pip install 'spectralign[spectral]'") from error
    file = folder / WEIGHTS_NAME
    if not file.is_file():
        pickles = sorted(entry for entry in folder.iterdir() if entry.suffix in PICKLE_SUFFIXES)
        weights = [entry for entry in pickles if entry.name != "training_args.bin"]
        raise AdapterError(_refuse_pickle(weights[0]) if weights else f"{folder}: {WEIGHTS_NAME} is missing")
    try:
        tensors: dict[str, Tensor] = load_file(file, device="cpu")
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise AdapterError(f"{file} is not a valid safetensors file ({error})") from error
    return tensors


def _refuse_pickle(file: Path) -> str:
    return (
        f"{file} is a pickle, which can run code when it is opened, so it was refused and not loaded; accepted: "
        f"{WEIGHTS_NAME} (convert it to safetensors where you trust it: save_pretrained with peft does)"
    )


def _folder_pair(folder: Path, config: Mapping[str, Any], module: str, sides: Mapping[str, Tensor]) -> LoraPair:
    for side in ("A", "B"):
        if side not in sides:
            raise AdapterError(f"{folder}: {module} has no lora_{side}.weight, accepted: both factors of every module")
    rank = _number(folder, config, "r", "rank_pattern", module)
    alpha = _number(folder, config, "lora_alpha", "alpha_pattern", module)
    A_R_I, B_O_R = sides["A"], sides["B"]
    if A_R_I.ndim == 2 and A_R_I.shape[0] != rank:
        raise AdapterError(
            f"{folder}: rank mismatch in {module}, {CONFIG_NAME} says r = {rank:g} but lora_A has {A_R_I.shape[0]} rows"
        )
    return LoraPair(module, A_R_I, B_O_R, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


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
    if len(pattern) > LONGEST_PATTERN or re.search(r"\)[*+?{]|[*+}][*+{]|\\\d", pattern):
        raise AdapterError(
            f"{folder}: pattern {pattern[:60]!r} could run for ever; accepted: up to {LONGEST_PATTERN} characters, no "
            "repeated groups and no back references"
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise AdapterError(f"{folder}: pattern {pattern!r} is not a regular expression ({error})") from error
