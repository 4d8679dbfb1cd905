"""Find the adapter of a job: PEFT's LoraConfig, Unsloth's get_peft_model, a configuration's own class."""

from __future__ import annotations

from collections.abc import Iterable

from narrowly.audit.defaults.read import default_field
from narrowly.audit.python.fields import ADAPTER_FIELDS, NO_ADAPTER, is_none, is_true, objects_in, set_field
from narrowly.audit.python.values import Const, Object, Unknown, Value, why_unknown
from narrowly.audit.record import Job, default, explicit, unknown
from narrowly.audit.versions import Version

_CONFIGS = ("LoraConfig", "AdaLoraConfig", "LoKrConfig", "LoHaConfig", "IA3Config", "PromptTuningConfig",
"PrefixTuningConfig",
            "VeraConfig", "OFTConfig", "BOFTConfig", "RandLoraConfig", "PromptEncoderConfig")  # fmt: skip
_KEYS = {
    "r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "target_modules": "lora_targets",
    "use_rslora": "use_rslora", "use_dora": "use_dora", "init_lora_weights": "lora_init",
}  # fmt: skip
_POSITIONS = {"r": 1, "target_modules": 2, "lora_alpha": 3, "lora_dropout": 4}


def is_adapter_config(made: Object) -> bool:
    """Tell whether an object is a configuration of an adapter."""
    name = made.path.rsplit(".", 1)[-1]
    return (
        name in _CONFIGS or is_unsloth_adapter(made) or made.path.endswith(("trl.get_peft_config", "?.get_peft_config"))
    )


def is_unsloth_adapter(made: Object) -> bool:
    """Tell whether an object is a model with an adapter made by Unsloth."""
    return made.path.endswith(".get_peft_model") and "Fast" in made.path


def adapter_of(parts: Iterable[Value | None], trace_objects: list[Object]) -> Object | None:
    """Return the configuration of the adapter in the parts of a job, else the only one of the script."""
    for part in parts:
        found = next((made for made in objects_in(part) if is_adapter_config(made)), None)
        if found is not None:
            return found
    everywhere = [made for made in trace_objects if is_adapter_config(made)]
    return everywhere[-1] if everywhere and len({made.at for made in everywhere}) == 1 else None


def set_adapter(job: Job, config: Object | None, version: Version | None) -> None:
    """Set the fields of the adapter from its configuration; without one they are known to be empty."""
    if config is None:
        for name in ADAPTER_FIELDS:
            job.set(name, default(None, NO_ADAPTER))
        job.set("adapter", default("full", NO_ADAPTER))
        return
    name = config.path.rsplit(".", 1)[-1]
    if name.endswith("get_peft_config"):
        _from_model_config(job, config)
        return
    unsloth = is_unsloth_adapter(config)
    if not unsloth and name not in ("LoraConfig", "AdaLoraConfig"):
        for field in ADAPTER_FIELDS:
            job.set(field, default(None, f"the adapter is {name}, not LoRA"))
        job.set("adapter", explicit(name.removesuffix("Config").lower(), config.at))
        return
    for key, field in _KEYS.items():
        set_field(job, field, config.get(key, _POSITIONS.get(key) if unsloth else None))
        if config.rest and field not in job.fields:
            job.set(field, unknown(config.rest, config.at))
    tool = "unsloth" if unsloth else "peft"
    for field in (*ADAPTER_FIELDS, "use_dora", "lora_init"):
        if field not in job.fields:
            job.set(field, default_field(tool, field, version, of="get_peft_model" if unsloth else name))
    kind = "dora" if is_true(config.get("use_dora")) else "lora"
    job.set("adapter", explicit(kind, config.at))


def unknown_adapter(job: Job, given: Value) -> None:
    """Say that an adapter may be configured by something that is not followed."""
    reason = f"the trainer is given a peft_config that is not known: {why_unknown(given)}"[:300]
    for name in (*ADAPTER_FIELDS, "adapter"):
        job.set(name, unknown(reason, given.at))


def _from_model_config(job: Job, config: Object) -> None:
    """Set the adapter from TRL's ModelConfig: `get_peft_config(model_args)` gives None unless `use_peft`."""
    arguments = config.args[0] if config.args else None
    if not isinstance(arguments, Object):
        for name in ADAPTER_FIELDS:
            job.set(name, unknown("the adapter comes from arguments that are not known", config.at))
        return
    use = arguments.get("use_peft")
    if is_none(use) or (isinstance(use, Const) and not use.value):
        for name in ADAPTER_FIELDS:
            job.set(
                name, default(None, "ModelConfig.use_peft is False unless the command line says --use_peft", config.at)
            )
        job.set("adapter", default("full", NO_ADAPTER))
        job.cli_overridable = True
        return
    keys = {"lora_r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout",
            "lora_target_modules": "lora_targets", "use_rslora": "use_rslora", "use_dora": "use_dora"}  # fmt: skip
    for key, field in keys.items():
        set_field(job, field, arguments.get(key))
        if field not in job.fields:
            job.set(field, default_field("trl", field, None, of="ModelConfig"))
    job.set(
        "adapter",
        unknown("use_peft is not known", use.at)
        if isinstance(use, Unknown)
        else explicit("lora", use.at if use else None),
    )
