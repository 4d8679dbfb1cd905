"""Find LoRA pairs, two factors and a scale per adapted module, and what a live PEFT model has beside them.

Names and shapes are all that is looked at, so neither `peft` nor `transformers` is imported. Where an adapter's update
is not `scale * B @ A` (DoRA, convolutions, PiSSA starts), a spectrum of the factors would not be the spectrum of the
update: whoever changes a model refuses such modules, whoever only reads leaves them out by name (`survey_model`).

Embeddings and experts have pairs too, but not such as a penalty can train: an embedding has no inputs that are
multiplied, and the factors of all experts are slices of two parameters. `pairs_from_model`, which serves training,
refuses both; `survey_model` and `editable_pairs` have them.

What is handled as it is: a fused projection (`qkv_proj`) is one module with one pair. PEFT's Conv1D layers
(`fan_in_fan_out`, GPT-2) store the base weight transposed; their pair is outputs x rank and rank x inputs as ever.
A module that a model calls in two places is one module with one pair. A pair on a module whose base weight is tied to
another module's (`lm_head` and `embed_tokens`) acts where the adapted module is called and nowhere else, until somebody
merges it into the weight that both share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from narrowly.records.errors import AdapterError
from narrowly.spectrum.experts import columns_of_expert, expert_name, rows_of_expert
from narrowly.spectrum.peft_fields import DORA, LORA_BIAS, PLAIN_STARTS, STARTS_THAT_CHANGE_THE_BASE

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)*(?:base_model\.model\.)?(?:(?:module|_orig_mod)\.)*")
EMBEDDING = "LoRA on an embedding: its factors are looked up by token, not multiplied"
EXPERTS = "LoRA on a 3-D parameter of experts: the factors of all experts are stacked in two matrices"
ACCEPTED = "accepted: plain LoRA or rsLoRA on linear layers"

_PLAIN_VARIANTS = ("MiCALinearVariant", "MiCAEmbeddingVariant", "VeloraLinearVariant")
"""Variants of PEFT 0.21 whose update is s*B*A: two fix B, the other changes the backward pass alone."""

_BESIDE = {
    "ModulesToSaveWrapper": "trained in full beside the adapter (modules_to_save), so there are no factors",
    "TrainableTokensWrapper": "single tokens trained beside the adapter, so there are no factors",
}


class LoraPair(NamedTuple):
    """One adapted module; its update of the base weight is `scale * B_O_R @ A_R_I`.

    An embedding's inputs are tokens (the update is that of its weight, transposed), and there A is the factor that
    training begins at zero. Each expert of a mixture is a module of its own (`mlp.experts.3.down_proj`).

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


class Skipped(NamedTuple):
    """A module or tensor of an adapter that has no pair, and why.

    Attributes:
        name: of the module or tensor.
        reason: why it has no pair.
        beside: whether it stands beside the factors and leaves their meaning alone, so that they can be edited and it
            carried over.
    """

    name: str
    reason: str
    beside: bool = False


class Survey(NamedTuple):
    """What an adapter holds: the pairs whose update is `scale * B @ A`, and everything else with its reason."""

    pairs: list[LoraPair]
    skipped: list[Skipped]


def plain_name(path: str) -> str:
    """Return a module path without the prefixes that PEFT, DDP and torch.compile put in front."""
    return _WRAPPERS.sub("", path, count=1)


def pair_fault(pair: LoraPair) -> str | None:
    """Return why a pair cannot be used (shapes, dtypes, ranks, NaN, scale), or None where it can."""
    _, A_R_I, B_O_R, scale = pair
    if A_R_I.numel() == 0 or B_O_R.numel() == 0:
        shapes = f"lora_A {tuple(A_R_I.shape)}, lora_B {tuple(B_O_R.shape)}"
        return f"empty factor, {shapes}: shards (ZeRO-3, FSDP) that were not gathered before saving look like this"
    for side, factor in (("lora_A", A_R_I), ("lora_B", B_O_R)):
        # torch has neither sums nor comparisons for floats of one byte
        if factor.ndim != 2 or not factor.is_floating_point() or factor.element_size() < 2:
            return (
                f"{side} has shape {tuple(factor.shape)} and dtype {factor.dtype}, accepted: a matrix of floats of at "
                "least 16 bits (convolution, expert and integer factors are not supported)"
            )
    if A_R_I.shape[0] != B_O_R.shape[1]:
        return f"rank mismatch, lora_A has {A_R_I.shape[0]} rows but lora_B {B_O_R.shape[1]} columns"
    for side, factor in (("lora_A", A_R_I), ("lora_B", B_O_R)):
        # A sum is NaN or infinite if any element is, and costs no mask; only a suspicious one is looked at closely.
        if not bool(torch.isfinite(factor.detach().sum())) and not bool(torch.isfinite(factor.detach()).all()):
            bad = int((~torch.isfinite(factor.detach())).sum())
            return f"{side} holds {bad} NaN or infinite values, accepted: finite values only"
    return None if math.isfinite(scale) else f"scale is {scale}, accepted: a finite number"


def check_pairs(pairs: Iterable[LoraPair]) -> list[LoraPair]:
    """Return the pairs as a list after checking shapes, ranks and finiteness.

    Raises:
        AdapterError: no pair, a factor that is not a matrix, ranks of A and B that differ, NaN or infinity.
    """
    checked = list(pairs)
    if not checked:
        raise AdapterError("no LoRA pairs: found 0 modules with lora_A and lora_B, accepted: at least 1")
    for pair in checked:
        fault = pair_fault(pair)
        if fault:
            raise AdapterError(f"{pair.name}: {fault}")
    return checked


def pairs_from_model(model: nn.Module) -> list[LoraPair]:
    """Return the pairs of the active adapter of a PEFT model, in module order, holding the live parameters to train.

    The scale is read from the layer, so that rsLoRA, rank patterns and alpha patterns are already in it. Full
    modules that PEFT trains beside the adapter (`modules_to_save`) are no pairs and are left out.

    Args:
        model: a PeftModel, its inner LoraModel, or any module that holds PEFT LoRA layers.

    Raises:
        AdapterError: no pairs, several active adapters, a missing factor, NaN, or an unsupported kind of
            adapter.
    """
    return _all_pairs(model, to_train=True)


def editable_pairs(model: nn.Module) -> list[LoraPair]:
    """Return the pairs of `pairs_from_model` and those of embeddings and experts, as views into the parameters.

    Raises:
        AdapterError: as `pairs_from_model`, but for embeddings and experts.
    """
    return _all_pairs(model, to_train=False)


def _all_pairs(model: nn.Module, to_train: bool) -> list[LoraPair]:
    _refuse_changed_bases(model)
    pairs = []
    for found in _live_pairs(model, to_train):
        if isinstance(found, Skipped):
            raise AdapterError(f"{found.name}: {found.reason}; {ACCEPTED}")
        pairs.append(found)
    return check_pairs(pairs)


def survey_model(model: nn.Module) -> Survey:
    """Return the pairs of a live model as `editable_pairs` does, and by name what has no usable pair.

    Raises:
        AdapterError: several active adapters, a start that changed the base weights, or no pair at all.
    """
    _refuse_changed_bases(model)
    survey = Survey([], [])
    for found in _live_pairs(model, to_train=False):
        fault = pair_fault(found) if isinstance(found, LoraPair) else None
        if isinstance(found, Skipped) or fault:
            survey.skipped.append(found if isinstance(found, Skipped) else Skipped(found.name, str(fault)))
        else:
            survey.pairs.append(found)
    for path, module in model.named_modules():
        if type(module).__name__ in _BESIDE:
            survey.skipped.append(Skipped(plain_name(path), _BESIDE[type(module).__name__], beside=True))
    return some_pairs(survey)


def some_pairs(survey: Survey, where: str = "") -> Survey:
    """Return the survey, which must hold a pair.

    Raises:
        AdapterError: no pairs; the first reason is named.
    """
    if survey.pairs:
        return survey
    if not survey.skipped:
        raise AdapterError(f"{where}no LoRA pairs: found 0 modules with lora_A and lora_B, accepted: at least 1")
    first = survey.skipped[0]
    count = len(survey.skipped)
    raise AdapterError(
        f"{where}no module whose update is s*B*A, {count} skipped; the first is {first.name} ({first.reason})"
    )


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


def _live_pairs(model: nn.Module, to_train: bool) -> Iterator[LoraPair | Skipped]:
    owners: dict[tuple[int, int], str] = {}
    for name, layer, adapter in lora_layers(model):
        kind = _stacked_or_looked_up(layer, adapter)
        reason = _unsupported_kind(layer, adapter) or (kind if to_train else None)
        sides = ("lora_embedding_A", "lora_embedding_B") if kind == EMBEDDING else ("lora_A", "lora_B")
        missing = [side for side in sides if adapter not in getattr(layer, side)]
        if reason or missing:
            yield Skipped(name, reason or f"{missing[0]} of adapter {adapter!r} is missing")
            continue
        held = [getattr(layer, side)[adapter] for side in sides]
        A_R_I, B_O_R = (one if isinstance(one, Tensor) else one.weight for one in held)
        owner = owners.setdefault((id(A_R_I), id(B_O_R)), name)
        if owner != name:
            yield Skipped(name, f"shares both factors with {owner}, whose pair stands for both")
            continue
        pair = LoraPair(name, A_R_I, B_O_R, float(layer.scaling[adapter]))
        if kind == EXPERTS:
            yield from _pairs_of_experts(pair, layer.parameter_name, int(layer.num_experts))
        else:
            yield pair


def _pairs_of_experts(stacked: LoraPair, parameter: str, experts: int) -> Iterator[LoraPair]:
    """Yield the pair of every expert as views into the two matrices of all."""
    owner = re.sub(r"(\.base_layer)+$", "", stacked.name)  # the inner one of two parameters of a module has it
    rank = stacked.rank // experts
    for expert in range(experts):
        yield LoraPair(
            expert_name(f"{owner}.{parameter}", expert),
            rows_of_expert(stacked.A_R_I.detach(), expert, rank),
            columns_of_expert(stacked.B_O_R.detach(), expert, rank),
            stacked.scale,
        )


def _stacked_or_looked_up(layer: Any, adapter: str) -> str | None:
    """Return why a layer's pair is not one of two parameters that are multiplied, or None where it is."""
    if adapter in getattr(layer, "lora_embedding_A", ()):
        return EMBEDDING
    # of a router, whose parameter is a matrix, num_experts is 1
    return EXPERTS if getattr(layer, "num_experts", 1) > 1 else None


def _unsupported_kind(layer: Any, adapter: str) -> str | None:
    """Return why the layer's update is not scale * B @ A, or None where it is."""
    if adapter in getattr(layer, "lora_magnitude_vector", ()):
        return DORA
    if hasattr(layer, "lora_E"):
        return "AdaLoRA: a vector of its own scales every direction"
    variant = getattr(layer, "lora_variant", {}).get(adapter)
    if variant is not None and type(variant).__name__ not in _PLAIN_VARIANTS:
        return f"the LoRA variant {type(variant).__name__}"
    if getattr(layer, "lora_bias", {}).get(adapter):
        return LORA_BIAS
    return None


def _refuse_changed_bases(model: nn.Module) -> None:
    configs = getattr(model, "peft_config", {})
    for config in configs.values() if isinstance(configs, Mapping) else ():
        refuse_changed_base(getattr(config, "init_lora_weights", True))


def refuse_changed_base(start: object) -> None:
    """Refuse an adapter whose start changed the base weights too, or of whose start nothing is known.

    Args:
        start: `init_lora_weights` of its config.

    Raises:
        AdapterError: the value is one of PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, or a word that PEFT 0.21 does not have.
    """
    if not isinstance(start, str) or start.lower() in PLAIN_STARTS:
        return
    what = (
        "changes the base weights too: B @ A is not the update"
        if start.lower().startswith(STARTS_THAT_CHANGE_THE_BASE)
        else "is not known here"
    )
    raise AdapterError(
        f"init_lora_weights is {start!r}, which {what}; accepted: true, false, {', '.join(sorted(PLAIN_STARTS))}, and "
        "adapters saved after conversion to plain LoRA"
    )
