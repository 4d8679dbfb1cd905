"""Unsloth YAML of `unsloth train --config` and of its Studio: `training`, `lora`, `data` sections.

Sources: unsloth 2026.10.9 `unsloth_cli/config.py`, `unsloth_cli/commands/train.py` (no key for the optimiser:
adamw_8bit on CUDA), `studio/backend/assets/configs/lora_text.yaml`.
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import (
    Keys,
    datasets_of,
    fill_defaults,
    new_job,
    no_lora,
    note_version,
    said,
    take,
    trained_in,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job
from narrowly.audit.trees import Document

TOOL = "unsloth"
KINDS = ("yaml", "json")
TRIGGERS = (b"training_type", b"finetune_language_layers", b"unsloth")

KEYS: Keys = {
    "optimiser": ("training.optim", "training.optimizer"),
    "learning_rate": ("training.learning_rate",),
    "weight_decay": ("training.weight_decay",),
    "scheduler": ("training.lr_scheduler_type",),
    "epochs": ("training.num_epochs", "training.num_train_epochs"),
    "max_steps": ("training.max_steps",),
    "warmup_steps": ("training.warmup_steps",),
    "batch_size": ("training.batch_size", "training.per_device_train_batch_size"),
    "accumulation": ("training.gradient_accumulation_steps",),
    "lora_r": ("lora.lora_r", "lora.r"),
    "lora_alpha": ("lora.lora_alpha", "lora.alpha"),
    "lora_dropout": ("lora.lora_dropout", "lora.dropout"),
    "lora_targets": ("lora.target_modules",),
    "use_rslora": ("lora.use_rslora",),
    "use_dora": ("lora.use_dora",),
    "base_model": ("model",),
    "adapter": ("training.training_type",),
    "seed": ("training.random_seed",),
}


def is_unsloth(document: Document) -> bool:
    """Say whether a document is a config of Unsloth's command or Studio."""
    if not isinstance(document.value, dict) or not isinstance(document.value.get("training"), dict):
        return False
    ours = said(
        document, "training.training_type", "lora.finetune_language_layers", "lora.use_loftq", "lora.vision_all_linear"
    )
    return (
        ours is not None
        and said(document, "training.learning_rate", "training.num_epochs", "training.max_steps") is not None
    )


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_unsloth)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that `unsloth train` would run with these settings."""
    job = new_job(TOOL, document, "training", name="unsloth train")
    job.cli_overridable = True
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "data.dataset", "data.local_dataset"))
    adapter = word(document, "training.training_type") or "lora"
    if adapter == "full":
        no_lora(job, reason="training_type is full")
    fill_defaults(job, "unsloth-cli", version, adapter=adapter)
    return job
