"""NeMo 1 YAML: `model.optim` beside `trainer` or `exp_manager`.

Sources: nemo_toolkit 1.23.0 `core/optim/optimizers.py` (names of the registry;
FusedAdam of apex with its AdamW mode on).
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

TOOL = "nemo"
KINDS = ("yaml",)
TRIGGERS = (b"optim:", b"optimizer:")

KEYS: Keys = {
    "optimiser": ("model.optim.name",),
    "learning_rate": ("model.optim.lr",),
    "weight_decay": ("model.optim.weight_decay",),
    "beta1": ("model.optim.betas.0",),
    "beta2": ("model.optim.betas.1",),
    "eps": ("model.optim.eps",),
    "momentum": ("model.optim.momentum",),
    "scheduler": ("model.optim.sched.name",),
    "warmup_steps": ("model.optim.sched.warmup_steps",),
    "epochs": ("trainer.max_epochs",),
    "max_steps": ("trainer.max_steps",),
    "max_grad_norm": ("trainer.gradient_clip_val",),
    "batch_size": ("model.micro_batch_size",),
    "base_model": ("model.restore_from_path",),
    "lora_r": ("model.peft.lora_tuning.adapter_dim",),
    "lora_alpha": ("model.peft.lora_tuning.alpha",),
    "lora_dropout": ("model.peft.lora_tuning.adapter_dropout",),
    "lora_targets": ("model.peft.lora_tuning.target_modules",),
    "adapter": ("model.peft.peft_scheme",),
}


def is_nemo(document: Document) -> bool:
    """Say whether a document is a NeMo 1 or NeMo-RL config that trains."""
    if not isinstance(document.value, dict):
        return False
    one = word(document, "model.optim.name") != "" and said(document, "trainer", "exp_manager") is not None
    return one or word(document) != ""


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_nemo)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that NeMo would run with these settings."""
    job = new_job(TOOL, document, "model.optim")
    job.cli_overridable = True
    version = note_version(job, "nemo-toolkit", file, repository)
    take(job, document, KEYS)
    job.set(
        "datasets",
        datasets_of(document, "model.data.train_ds.file_names", "model.data.data_prefix", "data.dataset_name"),
    )
    scheme = word(document, "model.peft.peft_scheme")
    if scheme not in ("lora", "qlora"):
        no_lora(job, reason=f"peft_scheme is {scheme}" if scheme else "no adapter is configured")
    fill_defaults(job, TOOL, version, str(job.value("optimiser") or ""), adapter=scheme or "full")
    return job
