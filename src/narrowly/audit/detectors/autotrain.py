"""AutoTrain YAML: `task`, `base_model` and `params`.

Sources: autotrain-advanced 0.7.77, 0.8.36 `trainers/*/params.py`, `parser.py`.
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
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit
from narrowly.audit.trees import Document

TOOL = "autotrain"
KINDS = ("yaml", "json")
TRIGGERS = (b"params", b"autotrain", b"project_name")

KEYS: Keys = {
    "optimiser": ("params.optimizer", "optimizer"),
    "learning_rate": ("params.lr", "lr"),
    "weight_decay": ("params.weight_decay", "weight_decay"),
    "scheduler": ("params.scheduler", "scheduler"),
    "epochs": ("params.epochs", "epochs"),
    "warmup_ratio": ("params.warmup_ratio", "warmup_ratio"),
    "batch_size": ("params.batch_size", "batch_size"),
    "accumulation": ("params.gradient_accumulation", "gradient_accumulation"),
    "max_grad_norm": ("params.max_grad_norm", "max_grad_norm"),
    "lora_r": ("params.lora_r", "lora_r"),
    "lora_alpha": ("params.lora_alpha", "lora_alpha"),
    "lora_dropout": ("params.lora_dropout", "lora_dropout"),
    "lora_targets": ("params.target_modules", "target_modules"),
    "base_model": ("base_model", "model"),
    "seed": ("params.seed", "seed"),
}
_LANGUAGE = ("llm", "lm_training", "llm-sft", "llm-generic", "llm-reward", "llm-dpo", "llm-orpo", "llm-default")
_OF = {
    "text-classification": "text-classification",
    "text_multi_class_classification": "text-classification",
    "text_binary_classification": "text-classification",
    "text-regression": "text-regression",
    "seq2seq": "seq2seq",
    "token-classification": "token-classification",
    "image-classification": "image-classification",
    "image_classification": "image-classification",
    "vlm": "vlm",
    "sentence-transformers": "sentence-transformers",
    "extractive-question-answering": "extractive-question-answering",
    "image-object-detection": "object-detection",
    "object-detection": "object-detection",
    "image-regression": "image-regression",
}


def is_autotrain(document: Document) -> bool:
    """Say whether a document is an AutoTrain config, or the `training_params.json` of its runs."""
    if not isinstance(document.value, dict):
        return False
    config = (
        word(document, "task") != ""
        and isinstance(document.value.get("params"), dict)
        and said(document, "base_model") is not None
    )
    saved = (
        said(document, "project_name") is not None
        and said(document, "lr") is not None
        and said(document, "model") is not None
    )
    return config or (saved and said(document, "trainer", "push_to_hub", "username") is not None)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_autotrain)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that AutoTrain would run with these settings."""
    job = new_job(
        TOOL, document, "task", "project_name", kind="saved" if file.name == "training_params.json" else "config"
    )
    version = note_version(job, "autotrain-advanced", file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "data.path", "data_path"))
    task = word(document, "task")
    language = task.startswith("llm") or task in _LANGUAGE or said(document, "task") is None
    of = "llm" if language else next((name for key, name in _OF.items() if task.startswith(key)), task)
    adapter = "lora" if truth(document, "params.peft", "peft") else "full"
    if adapter == "full":
        no_lora(job, reason="peft is off")
    job.set("adapter", explicit(adapter, job["lora_r"].at))
    fill_defaults(job, TOOL, version, of, adapter=adapter)
    return job
