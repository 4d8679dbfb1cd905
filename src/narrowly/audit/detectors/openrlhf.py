"""OpenRLHF settings in YAML or JSON, with the names of its command line.

Sources: openrlhf 0.5.0 `cli/train_*.py` (flat flags), 0.11.2 `cli/train_*.py` (dotted flags, `--optim adam|muon`),
`utils/deepspeed/deepspeed.py` (FusedAdam or DeepSpeedCPUAdam: AdamW).
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import (
    Keys,
    datasets_of,
    fill_defaults,
    new_job,
    no_lora,
    note_version,
    place,
    said,
    said_field,
    take,
    trained_in,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit
from narrowly.audit.trees import Document

TOOL = "openrlhf"
KINDS = ("yaml", "json")
TRIGGERS = (b"actor_learning_rate", b"openrlhf", b"zero_stage")

KEYS: Keys = {
    "learning_rate": ("actor_learning_rate", "learning_rate", "adam.lr", "actor.adam.lr"),
    "weight_decay": ("l2", "adam.weight_decay", "actor.adam.weight_decay"),
    "beta1": ("adam_betas.0", "adam.betas.0", "actor.adam.betas.0"),
    "beta2": ("adam_betas.1", "adam.betas.1", "actor.adam.betas.1"),
    "scheduler": ("lr_scheduler", "actor.lr_scheduler"),
    "warmup_ratio": ("lr_warmup_ratio",),
    "epochs": ("max_epochs", "train.max_epochs"),
    "lora_r": ("lora_rank", "lora.rank", "ds.lora.rank"),
    "lora_alpha": ("lora_alpha", "lora.alpha", "ds.lora.alpha"),
    "lora_dropout": ("lora_dropout", "lora.dropout", "ds.lora.dropout"),
    "lora_targets": ("target_modules", "lora.target_modules", "ds.lora.target_modules"),
    "batch_size": ("micro_train_batch_size", "train.micro_batch_size"),
    "max_grad_norm": ("max_norm",),
    "base_model": ("pretrain", "model.model_name_or_path", "actor.model_name_or_path"),
    "seed": ("seed", "train.seed"),
}


def is_openrlhf(document: Document) -> bool:
    """Say whether a document holds OpenRLHF's arguments."""
    if not isinstance(document.value, dict):
        return False
    rate = said(document, "actor_learning_rate", "learning_rate", "adam.lr", "actor.adam.lr")
    return (
        rate is not None
        and said(document, "pretrain") is not None
        and (said(document, "micro_train_batch_size", "zero_stage", "actor_learning_rate", "max_epochs") is not None)
    )


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_openrlhf)]


def job_of(document: Document, file: SourceFile, repository: Repository, command: str = "") -> Job:
    """Return the job that OpenRLHF would run with these settings.

    Args:
        document: its arguments.
        file: where they stand.
        repository: what stands beside.
        command: "train_sft", "train_dpo", "train_rm", "train_ppo_ray" ... where it is known.
    """
    job = new_job(TOOL, document, "pretrain", name=command)
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "dataset", "prompt_data", "data.dataset"))
    if word(document, "optim", "actor.optim") == "muon":
        at = place(document, "optim", "actor.optim")
        job.set("optimiser", explicit("muon", at, "muon"))
        job.set("learning_rate", said_field("learning_rate", document, "muon.lr", "actor.muon.lr"))
    if not command:
        command = "train_ppo_ray" if said(document, "actor_learning_rate", "actor.adam.lr") is not None else ""
    rank = job.value("lora_r")
    if not rank:
        no_lora(job, reason="lora_rank is 0, which is OpenRLHF's default")
    fill_defaults(job, TOOL, version, command, optim="muon" if job.value("optimiser") == "muon" else "adam")
    return job
