"""What finished runs leave behind: `trainer_state.json` and PEFT's `adapter_config.json`.

Neither names an optimiser. Sources: transformers 5.23 `trainer_callback.py::TrainerState`; peft 0.21 `LoraConfig`
(r 8, lora_alpha 8, lora_dropout 0).
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import Keys, new_job, note_version, said, take, word
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit, unknown
from narrowly.audit.trees import Document
from narrowly.audit.values import number

TOOL = "peft"
KINDS = ("json",)
TRIGGERS = (b"log_history", b"peft_type")

_ADAPTER: Keys = {
    "lora_r": ("r",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "lora_targets": ("target_modules",),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
    "lora_init": ("init_lora_weights",),
    "base_model": ("base_model_name_or_path",),
}
_STATE: Keys = {
    "epochs": ("num_train_epochs",),
    "max_steps": ("max_steps",),
    "batch_size": ("train_batch_size",),
}


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the job of a saved state or adapter."""
    document = file.documents[0]
    if not isinstance(document.value, dict):
        return []
    if isinstance(document.value.get("log_history"), list) and said(document, "global_step") is not None:
        return [state_of(document)]
    if word(document, "peft_type") == "lora" and said(document, "r") is not None:
        return [adapter_of(document, file, repository)]
    return []


def state_of(document: Document) -> Job:
    """Return what a Trainer's state says: its length, and of the rate only what was logged."""
    job = new_job("transformers", document, name="trainer_state", kind="saved")
    take(job, document, _STATE)
    job.set("optimiser", unknown("a trainer_state.json names no optimiser; training_args.bin does, and is a pickle"))
    rates = [number(one.get("learning_rate")) for one in document.value["log_history"] if isinstance(one, dict)]
    logged = [rate for rate in rates if rate is not None]
    peak = f"; the highest rate that was logged is {max(logged):g}" if logged else ""
    job.set(
        "learning_rate",
        unknown("the state keeps rates by step, not the setting" + peak, raw=max(logged) if logged else None),
    )
    evaluated = any(isinstance(one, dict) and "eval_loss" in one for one in document.value["log_history"])
    job.set("evaluation", explicit(evaluated, f"{document.file}:1"))
    return job


def adapter_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return what an adapter's config says: LoRA, and nothing of how it was trained."""
    job = new_job(TOOL, document, "peft_type", name="adapter", kind="saved")
    note_version(job, TOOL, file, repository)
    take(job, document, _ADAPTER)
    job.set("adapter", explicit("lora", f"{document.file}:{job.line}"))
    for name in ("optimiser", "learning_rate", "weight_decay", "scheduler", "epochs", "max_steps"):
        job.set(name, unknown("an adapter_config.json does not say how the adapter was trained"))
    return job
