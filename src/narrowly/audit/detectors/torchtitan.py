"""torchtitan TOML: `[optimizer]`, `[training]`, `[model]`.

Sources: torchtitan 0.1.0 `config_manager.py`, 0.2.2 `config/job_config.py` (defaults), `components/optimizer.py`
(betas 0.9, 0.95; decay 0.1). From 0.3 on configs are Python.
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
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job
from narrowly.audit.trees import Document

TOOL = "torchtitan"
KINDS = ("toml", "json", "yaml")
TRIGGERS = (b"[optimizer]", b'"optimizer"', b"[training]")

KEYS: Keys = {
    "optimiser": ("optimizer.name",),
    "learning_rate": ("optimizer.lr",),
    "weight_decay": ("optimizer.weight_decay",),
    "beta1": ("optimizer.beta1",),
    "beta2": ("optimizer.beta2",),
    "eps": ("optimizer.eps",),
    "scheduler": ("lr_scheduler.decay_type",),
    "warmup_steps": ("lr_scheduler.warmup_steps", "training.warmup_steps"),
    "max_steps": ("training.steps",),
    "batch_size": ("training.local_batch_size", "training.batch_size"),
    "max_grad_norm": ("training.max_norm",),
    "base_model": ("model.flavor",),
    "seed": ("training.seed", "debug.seed"),
}


def is_torchtitan(document: Document) -> bool:
    """Say whether a document is a torchtitan job config."""
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("training"), dict):
        return False
    if document.file.endswith(".toml") and not document.path and isinstance(value.get("optimizer"), dict):
        steps = any(key in value["training"] for key in ("steps", "local_batch_size", "seq_len"))
        if steps and said(document, "optimizer.name", "optimizer.lr") is not None:
            return True
    return (isinstance(value.get("model"), dict) and ("flavor" in value["model"] or "job" in value)) and said(
        document, "optimizer.lr", "optimizer.name", "training.steps"
    ) is not None


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a TOML or JSON file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_torchtitan)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that torchtitan would run with these settings."""
    job = new_job(TOOL, document, "optimizer", "training")
    job.cli_overridable = True
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "training.dataset"))
    no_lora(job)
    fill_defaults(job, TOOL, version)
    return job
