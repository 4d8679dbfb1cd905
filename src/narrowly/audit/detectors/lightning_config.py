"""Lightning in YAML: LightningCLI (`trainer`, `model`, `optimizer.class_path`) and LitGPT (`train`, `optimizer`).

Sources: lightning 2.6 `pytorch/cli.py` (an `optimizer` section wins over the model's `configure_optimizers`); litgpt
`finetune/lora.py`, `pretrain.py` (AdamW where a config names none), `args.py`.
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
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit, unknown
from narrowly.audit.trees import Document
from narrowly.audit.versions import version_of

TOOL = "lightning"
KINDS = ("yaml",)
TRIGGERS = (b"class_path", b"lora_query", b"micro_batch_size", b"init_args")

_SECTIONS = ("optimizer", "model.init_args.optimizer", "model.optimizer", "model.init_args.optim")
_COMMON = {
    "learning_rate": ("init_args.lr", "lr"),
    "weight_decay": ("init_args.weight_decay", "weight_decay"),
    "momentum": ("init_args.momentum", "momentum"),
    "beta1": ("init_args.betas.0", "betas.0"),
    "beta2": ("init_args.betas.1", "betas.1"),
    "eps": ("init_args.eps", "eps"),
    "optimiser": ("class_path",),
}
_TRAINER: Keys = {
    "epochs": ("trainer.max_epochs", "train.epochs"),
    "max_steps": ("trainer.max_steps", "train.max_steps"),
    "accumulation": ("trainer.accumulate_grad_batches",),
    "max_grad_norm": ("trainer.gradient_clip_val", "train.max_norm"),
    "scheduler": ("lr_scheduler.class_path",),
    "warmup_steps": ("train.lr_warmup_steps",),
    "precision": ("trainer.precision", "precision"),
    "batch_size": ("train.micro_batch_size", "data.init_args.batch_size"),
    "base_model": ("checkpoint_dir", "model_name", "model.class_path"),
    "seed": ("seed_everything", "seed"),
}


def is_litgpt(document: Document) -> bool:
    """Say whether a document is a LitGPT config that trains."""
    return (
        isinstance(document.value, dict)
        and isinstance(document.value.get("train"), dict)
        and (said(document, "train.micro_batch_size", "train.global_batch_size", "train.max_tokens") is not None)
        and said(document, "checkpoint_dir", "model_name", "out_dir") is not None
    )


def is_lightning(document: Document) -> bool:
    """Say whether a document is a LightningCLI config that trains."""
    if not isinstance(document.value, dict) or said(document, "trainer") is None:
        return False
    cli = said(document, "model.class_path", "data.class_path", "model.init_args", "optimizer.class_path") is not None
    stated = any(said(document, f"{section}.class_path") is not None for section in _SECTIONS)
    rate = said(document, "model.init_args.lr", "model.init_args.learning_rate", "optimizer.init_args.lr") is not None
    return cli and (stated or rate or said(document, "model.class_path") is not None)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file."""
    return [
        job_of(one, file, repository)
        for document in file.documents
        for one in trained_in(document, lambda one: is_lightning(one) or is_litgpt(one))
    ]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that LightningCLI or LitGPT would run with these settings."""
    litgpt = is_litgpt(document)
    section = next((one for one in _SECTIONS if said(document, f"{one}.class_path") is not None), None)
    job = new_job(TOOL, document, *((section,) if section else ()), "model", "train", name="litgpt" if litgpt else "")
    job.cli_overridable = True
    note_version(job, "litgpt" if litgpt else TOOL, file, repository)
    if section is not None:
        take(job, document, {name: tuple(f"{section}.{key}" for key in keys) for name, keys in _COMMON.items()})
    elif litgpt:
        take(job, document, {"optimiser": ("optimizer",), "learning_rate": ("train.learning_rate", "learning_rate")})
    take(job, document, _TRAINER)
    job.set("datasets", datasets_of(document, "data.class_path", "data"))
    if litgpt:
        _litgpt(job, document)
    else:
        _hidden(job, document)
        no_lora(job)
    of = str(job["optimiser"].raw or job.value("optimiser") or "").rsplit(".", 1)[-1]
    fill_defaults(job, "torch", version_of("torch", repository, file), of)
    return job


def _hidden(job: Job, document: Document) -> None:
    """Say what the module decides: its `configure_optimizers` is code, in another file."""
    if "optimiser" in job.fields:
        return
    at = place(document, "model.class_path", "model")
    reason = "the LightningModule's configure_optimizers decides; it is code that this file only names"
    job.set("optimiser", unknown(reason, at))
    job.mark("custom_optimiser", "configure_optimizers", at, reason)
    job.set("learning_rate", unknown("a parameter of the LightningModule; " + reason, at))
    rate = said(document, "model.init_args.lr", "model.init_args.learning_rate")
    if rate is not None:
        job.set("learning_rate", document.field("learning_rate", "model.init_args.lr", "model.init_args.learning_rate"))


_LITGPT_TARGETS = ("query", "key", "value", "projection", "mlp", "head")


def _litgpt(job: Job, document: Document) -> None:
    if said(document, "lora_r") is None:
        no_lora(job, reason="no lora_r")
        return
    take(job, document, {"lora_r": ("lora_r",), "lora_alpha": ("lora_alpha",), "lora_dropout": ("lora_dropout",)})
    targets = [name for name in _LITGPT_TARGETS if truth(document, f"lora_{name}")]
    job.set("lora_targets", explicit(targets, place(document, "lora_query", "lora_r")))
    job.set("use_rslora", explicit(False, place(document, "lora_r"), reason="litgpt scales by alpha / r"))
    job.set("adapter", explicit("lora", place(document, "lora_r")))
