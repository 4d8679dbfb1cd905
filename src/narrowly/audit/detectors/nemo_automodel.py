"""NeMo Automodel YAML: `optimizer` by `_target_` or short name, beside `step_scheduler` and `model._target_`.

Sources: nemo-automodel 0.7.0 `components/optim/optimizer.py`, `components/_peft/lora.py`,
`components/training/step_scheduler.py`.
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
    take,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit
from narrowly.audit.trees import Document
from narrowly.audit.versions import version_of

TOOL = "nemo-automodel"
KINDS = ("yaml",)
TRIGGERS = (b"nemo_automodel", b"recipe_args", b"step_scheduler", b"NeMoAutoModel")

KEYS: Keys = {
    "optimiser": ("optimizer._target_", "optimizer.name", "optimizer.type", "optimizer"),
    "learning_rate": ("optimizer.lr",),
    "weight_decay": ("optimizer.weight_decay",),
    "beta1": ("optimizer.betas.0",),
    "beta2": ("optimizer.betas.1",),
    "eps": ("optimizer.eps",),
    "momentum": ("optimizer.momentum",),
    "muon_scale": ("optimizer.adjust_lr",),
    "scheduler": ("lr_scheduler.lr_decay_style",),
    "warmup_steps": ("lr_scheduler.lr_warmup_steps",),
    "epochs": ("step_scheduler.num_epochs", "recipe_args.num_epochs"),
    "max_steps": ("step_scheduler.max_steps", "recipe_args.max_steps"),
    "batch_size": ("step_scheduler.local_batch_size", "recipe_args.micro_batch_size"),
    "lora_r": ("peft.dim",),
    "lora_alpha": ("peft.alpha",),
    "lora_dropout": ("peft.dropout",),
    "lora_targets": ("peft.target_modules",),
    "use_dora": ("peft.use_dora",),
    "max_grad_norm": ("clip_grad_norm.max_norm", "max_grad_norm"),
    "base_model": ("model.pretrained_model_name_or_path", "model.config.pretrained_model_name_or_path"),
    "seed": ("rng.seed", "seed"),
}


def is_automodel(document: Document) -> bool:
    """Say whether a document is an Automodel recipe's config that trains."""
    if not isinstance(document.value, dict) or said(document, "optimizer") is None:
        return False
    if said(document, "optimizer._component_") is not None:
        return False
    ours = "nemo_automodel" in word(document, "model._target_", "rng._target_", "loss_fn._target_", "dataset._target_")
    recipe = word(document, "recipe").startswith("train") and isinstance(document.value.get("recipe_args"), dict)
    return ours or said(document, "step_scheduler") is not None or recipe


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file."""
    return [job_of(document, file, repository) for document in file.documents if is_automodel(document)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that an Automodel recipe would run with these settings."""
    job = new_job(TOOL, document, "optimizer")
    job.cli_overridable = True
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "dataset.dataset_name", "dataset.path_or_dataset", "dataset._target_"))
    if said(document, "validation_dataset") is not None:
        job.set("evaluation", explicit(True, place(document, "validation_dataset")))
    adapter = "lora" if said(document, "peft") is not None else "full"
    job.set("adapter", explicit(adapter, place(document, "peft")))
    if adapter == "full":
        no_lora(job, reason="no peft section")
    elif word(document, "peft.match_all_linear") == "true":
        job.set("lora_targets", explicit("all-linear", place(document, "peft.match_all_linear"), "match_all_linear"))
    target = said(document, "optimizer._target_")
    if target is not None:
        of = str(target.value).rsplit(".", 1)[-1]
        fill_defaults(job, "torch", version_of("torch", repository, file), of)
    short = word(document, "optimizer.name", "optimizer.type", "optimizer")
    if said(document, "recipe_args") is not None and not short:
        short = "recipe_args"
    fill_defaults(job, TOOL, version, short, adapter=adapter)
    return job
