"""Sort the fields of PEFT's LoraConfig: those that are read, those without effect, and those that must be empty.

Written for PEFT 0.21.2. A test compares the three groups with the fields of the installed LoraConfig, so that a new
variant of LoRA cannot be read as plain LoRA. A field that is in none of them and is set is refused likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrowly.records.adapter_files import ADAPTER_CONFIG

DORA = "DoRA: a magnitude vector rescales the weight, so s*B*A is not the update"
LORA_BIAS = "lora_bias: the adapter adds a bias beside s*B*A"
KASA = "KaSA: a diagonal stands between B and A, and the start cut a part out of the base weight"

READ = frozenset({
    "alpha_pattern", "base_model_name_or_path", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern",
    "target_parameters", "use_rslora",
})  # fmt: skip
"""Fields whose value the readers use (`spectrum.folder`, `cli.diff`)."""

HARMLESS = frozenset({
    "auto_mapping", "bias", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type", "trainable_token_indices", "velora_config",
})  # fmt: skip
"""Fields under which the update of a module with factors is `s*B*A`, whatever they hold.

Biases, modules saved in full and single tokens are tensors of their own, which the readers name. The configs of starts
act through `init_lora_weights`. VeLoRA changes the backward pass alone.
"""

NOT_PLAIN: Mapping[str, str] = {
    "alora_invocation_tokens": "aLoRA: the update acts behind its invocation tokens only",
    "arrow_config": "Arrow: a router mixes the updates of several adapters",
    "kasa_config": KASA,
    "lora_bias": LORA_BIAS,
    "monteclora_config": "MonteCLoRA: in training A is drawn at random around the stored factor",
    "use_bdlora": "BD-LoRA: one factor is block-diagonal and stored by blocks",
    "use_dora": DORA,
    "use_qalora": "QA-LoRA: the inputs are pooled in groups before A",
}
"""Fields that must be empty for an update to be `s*B*A`, each with what it means where it is set."""

PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Values of `init_lora_weights` beside true and false that leave the base weight as it is."""

STARTS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of those under which PEFT 0.21 subtracts from, or quantises, the base weight."""


def not_plain(config: Mapping[str, Any]) -> str | None:
    """Return why no module of an adapter can be read as `s*B*A`, or None where its config has no such field set.

    Args:
        config: adapter_config.json.
    """
    for field, reason in NOT_PLAIN.items():
        # an empty object is a variant with its defaults, as PEFT reads it
        if config.get(field) not in (None, False, []):
            return reason
    for field in sorted(config.keys() - READ - HARMLESS - NOT_PLAIN.keys()):
        if config[field]:
            return f"{field} in {ADAPTER_CONFIG} is not known here, so s*B*A need not be the update"
    return None
