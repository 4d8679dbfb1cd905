"""torchtune YAML: `_component_` names the class of everything, the optimiser too.

Sources: torchtune 0.6.1 recipes and configs; `training/memory.py` (optimizer_in_bwd), `models/*/_component_builders.py`
(lora_dropout 0.0, use_dora False). Defaults of a class are those of its own library.
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
    trained_in,
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit
from narrowly.audit.trees import Document
from narrowly.audit.versions import version_of

TOOL = "torchtune"
KINDS = ("yaml",)
TRIGGERS = (b"_component_",)

KEYS: Keys = {
    "optimiser": ("optimizer._component_",),
    "learning_rate": ("optimizer.lr",),
    "weight_decay": ("optimizer.weight_decay",),
    "momentum": ("optimizer.momentum",),
    "beta1": ("optimizer.betas.0",),
    "beta2": ("optimizer.betas.1",),
    "eps": ("optimizer.eps",),
    "scheduler": ("lr_scheduler._component_",),
    "warmup_steps": ("lr_scheduler.num_warmup_steps",),
    "epochs": ("epochs",),
    "max_steps": ("max_steps_per_epoch",),
    "lora_r": ("model.lora_rank",),
    "lora_alpha": ("model.lora_alpha",),
    "lora_dropout": ("model.lora_dropout",),
    "use_dora": ("model.use_dora",),
    "batch_size": ("batch_size",),
    "accumulation": ("gradient_accumulation_steps",),
    "max_grad_norm": ("clip_grad_norm",),
    "precision": ("dtype",),
    "base_model": ("model._component_",),
    "seed": ("seed",),
}


def is_torchtune(document: Document) -> bool:
    """Say whether a document is a torchtune recipe's config that trains."""
    return isinstance(document.value, dict) and bool(word(document, "optimizer._component_"))


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_torchtune)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that a torchtune recipe would run with these settings."""
    job = new_job(TOOL, document, "optimizer")
    job.cli_overridable = True
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "dataset.source", "dataset._component_", "dataset"))
    if said(document, "dataset_val", "run_val_every_n_steps") is not None:
        job.set("evaluation", explicit(True, place(document, "dataset_val", "run_val_every_n_steps")))
    if said(document, "model.lora_rank", "model.lora_attn_modules") is None:
        no_lora(job, reason="the model's component has no LoRA")
        job.set("adapter", explicit("full", place(document, "model")))
        adapter = "full"
    else:
        _targets(job, document)
        adapter = "lora"
        job.set(
            "adapter",
            explicit("qlora" if "qlora" in word(document, "model._component_") else "lora", place(document, "model")),
        )
    found = said(document, "optimizer._component_")
    of = str(found.value).rsplit(".", 1)[-1] if found is not None else ""
    library = "torch"
    fill_defaults(job, library, version_of(library, repository, file), of)
    fill_defaults(job, TOOL, version, adapter=adapter)
    return job


def _targets(job: Job, document: Document) -> None:
    attention = said(document, "model.lora_attn_modules")
    if attention is None or not isinstance(attention.value, list):
        return
    targets = [str(one) for one in attention.value]
    targets += ["mlp"] if truth(document, "model.apply_lora_to_mlp") else []
    targets += ["output"] if truth(document, "model.apply_lora_to_output") else []
    job.set("lora_targets", explicit(targets, f"{document.file}:{attention.line}", attention.value))
