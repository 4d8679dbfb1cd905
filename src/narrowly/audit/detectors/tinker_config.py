"""The `config.json` that tinker-cookbook writes beside its logs, and configs of that shape.

Sources: tinker-cookbook 0.6.1 `supervised/train.py::Config`, `rl/train.py::Config`, `utils/ml_log.py`; tinker 0.38
`types/optimizer.py` (AdamParams: decoupled decay).
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import Keys, fill_defaults, new_job, note_version, said, take, trained_in, word
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, default, unknown
from narrowly.audit.trees import Document

TOOL = "tinker"
KINDS = ("json", "yaml")
TRIGGERS = (b"dataset_builder", b"renderer_name", b"adam_beta1")

KEYS: Keys = {
    "learning_rate": ("learning_rate",),
    "weight_decay": ("adam_weight_decay", "weight_decay"),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "eps": ("adam_eps",),
    "scheduler": ("lr_schedule",),
    "epochs": ("num_epochs",),
    "max_steps": ("max_steps",),
    "lora_r": ("lora_rank",),
    "base_model": ("model_name",),
}


def is_tinker(document: Document) -> bool:
    """Say whether a document is a configuration of tinker-cookbook's training loops."""
    value = document.value
    if not isinstance(value, dict) or said(document, "model_name", "lora_rank", "learning_rate") is None:
        return False
    ours = (
        "dataset_builder",
        "log_path",
        "renderer_name",
        "lora_rank",
        "lr_schedule",
        "base_url",
        "evaluator_builders",
        "save_every",
    )
    return ("dataset_builder" in value or "renderer_name" in value) and sum(key in value for key in ours) >= 4


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a JSON or YAML file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_tinker)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that tinker-cookbook would run with these settings."""
    job = new_job(TOOL, document, "model_name", kind="saved" if file.name == "config.json" else "config")
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    family = said(document, "optimizer_config.type", "optim_params.type")
    if family is not None:
        job.set("optimiser", document.field("optimiser", "optimizer_config.type", "optim_params.type"))
    else:
        job.set(
            "optimiser", default("adamw", "tinker steps with AdamParams unless told otherwise: Adam, decoupled decay")
        )
    rl = word(document, "loss_fn") != "" or said(document, "kl_penalty_coef", "max_tokens") is not None
    for name in ("lora_alpha", "lora_dropout", "lora_targets", "use_rslora"):
        job.set(name, unknown("tinker's service decides and does not say"))
    fill_defaults(job, TOOL, version, "rl" if rl else "supervised")
    return job
