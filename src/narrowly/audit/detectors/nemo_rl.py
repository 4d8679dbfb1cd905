"""NeMo-RL YAML: `policy.optimizer`, or Megatron's under `policy.megatron_cfg`; a recipe names its base in `defaults`.

Source: NeMo-RL `examples/configs` and `utils/config.py` (a recipe is laid over its base, key by key; null takes a key
away). Megatron decouples the decay, so its "adam" is AdamW.
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import (
    Keys,
    bases_of,
    megatron_adam,
    new_job,
    no_lora,
    note_version,
    said,
    take,
    take_bases,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, unknown
from narrowly.audit.trees import Document

TOOL = "nemo"
KINDS = ("yaml",)
TRIGGERS = (b"policy:", b"grpo:", b"megatron_cfg")

_ALGORITHMS = ("grpo", "sft", "dpo", "rm", "distillation", "ppo")
_COMMON: Keys = {
    "epochs": tuple(f"{name}.max_num_epochs" for name in _ALGORITHMS),
    "max_steps": tuple(f"{name}.max_num_steps" for name in _ALGORITHMS),
    "max_grad_norm": ("policy.max_grad_norm",),
    "batch_size": ("policy.train_micro_batch_size",),
    "base_model": ("policy.model_name",),
}
_TORCH: Keys = {
    "optimiser": ("policy.optimizer.name",),
    "learning_rate": ("policy.optimizer.kwargs.lr",),
    "weight_decay": ("policy.optimizer.kwargs.weight_decay",),
    "beta1": ("policy.optimizer.kwargs.betas.0",),
    "beta2": ("policy.optimizer.kwargs.betas.1",),
    "eps": ("policy.optimizer.kwargs.eps",),
    "lora_r": ("policy.dtensor_cfg.lora_cfg.dim",),
    "lora_alpha": ("policy.dtensor_cfg.lora_cfg.alpha",),
}
_MEGATRON: Keys = {
    "optimiser": ("policy.megatron_cfg.optimizer.optimizer",),
    "learning_rate": ("policy.megatron_cfg.optimizer.lr",),
    "weight_decay": ("policy.megatron_cfg.optimizer.weight_decay",),
    "beta1": ("policy.megatron_cfg.optimizer.adam_beta1",),
    "beta2": ("policy.megatron_cfg.optimizer.adam_beta2",),
    "eps": ("policy.megatron_cfg.optimizer.adam_eps",),
    "scheduler": ("policy.megatron_cfg.scheduler.lr_decay_style",),
    "lora_r": ("policy.megatron_cfg.peft.dim",),
    "lora_alpha": ("policy.megatron_cfg.peft.alpha",),
}


def is_nemo_rl(document: Document) -> bool:
    """Say whether a document is a NeMo-RL config, or a recipe that names its base."""
    value = document.value
    if not isinstance(value, dict) or not any(isinstance(value.get(name), dict) for name in (*_ALGORITHMS, "policy")):
        return False
    own = said(document, "policy.optimizer.name", "policy.megatron_cfg.optimizer.optimizer") is not None
    recipe = str(value.get("defaults", "")).endswith((".yaml", ".yml"))
    return own or (recipe and said(document, "policy", "cluster", "checkpointing", "logger") is not None)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file."""
    return [job_of(document, file, repository) for document in file.documents if is_nemo_rl(document)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that NeMo-RL would run with these settings."""
    bases = bases_of(document, file, repository)
    layers = [document, *(base for base, _ in bases)]
    megatron = _first(layers, "policy.megatron_cfg.enabled") == "true"
    keys: Keys = {**_COMMON, **(_MEGATRON if megatron else _TORCH)}
    section = "policy.megatron_cfg.optimizer" if megatron else "policy.optimizer"
    job = new_job(TOOL, document, section, "policy", "defaults", name="nemo-rl")
    job.cli_overridable = True
    note_version(job, "nemo-rl", file, repository)
    take(job, document, keys)
    take_bases(job, bases, keys)
    named = said(document, "defaults")
    if "optimiser" not in job.fields and named is not None:
        reason = f"{named.value} is not beside this file" if not bases else "neither this file nor its bases state it"
        for name in ("optimiser", "learning_rate"):
            job.set(name, unknown(reason, f"{document.file}:{named.line}"))
    if megatron:
        megatron_adam(job)
    lora = "policy.megatron_cfg.peft.enabled" if megatron else "policy.dtensor_cfg.lora_cfg.enabled"
    if _first(layers, lora) != "true":
        no_lora(job, reason=f"{lora} is not set")
    return job


def _first(layers: list[Document], key: str) -> str:
    """Return what the nearest layer says of a key, lower case; empty where none does."""
    return next((said_here for layer in layers if (said_here := word(layer, key))), "")
