"""MLX-LM YAML of `mlx_lm.lora --config`, and the `adapter_config.json` that it writes (all its arguments).

Sources: mlx-lm 0.18.2, 0.26.0, 0.32.2 `lora.py` (CONFIG_DEFAULTS); `scale` multiplies B A: there is no alpha.
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
    said_field,
    take,
    trained_in,
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, default, unknown
from narrowly.audit.trees import Document

TOOL = "mlx-lm"
KINDS = ("yaml", "json")
TRIGGERS = (b"iters", b"lora_parameters", b"fine_tune_type")

KEYS: Keys = {
    "optimiser": ("optimizer",),
    "learning_rate": ("learning_rate",),
    "scheduler": ("lr_schedule.name",),
    "warmup_steps": ("lr_schedule.warmup",),
    "max_steps": ("iters",),
    "adapter": ("fine_tune_type",),
    "lora_r": ("lora_parameters.rank",),
    "lora_alpha": ("lora_parameters.alpha",),
    "lora_dropout": ("lora_parameters.dropout",),
    "lora_targets": ("lora_parameters.keys",),
    "batch_size": ("batch_size",),
    "accumulation": ("grad_accumulation_steps",),
    "base_model": ("model",),
    "seed": ("seed",),
}


def is_mlx(document: Document) -> bool:
    """Say whether a document holds arguments of a training run of MLX-LM."""
    if not isinstance(document.value, dict) or (
        said(document, "train") is not None and word(document, "train") != "true"
    ):
        return False
    ours = (
        "iters",
        "lora_parameters",
        "fine_tune_type",
        "lora_layers",
        "num_layers",
        "adapter_path",
        "adapter_file",
        "val_batches",
        "steps_per_eval",
        "steps_per_report",
        "mask_prompt",
        "grad_checkpoint",
    )
    count = sum(key in document.value for key in ours)
    return (
        isinstance(document.value.get("model"), str)
        and count >= (2 if truth(document, "train") else 3)
        and (said(document, "iters", "lora_parameters") is not None)
    )


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_mlx)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that MLX-LM would run with these settings."""
    job = new_job(TOOL, document, "model", kind="saved" if file.name == "adapter_config.json" else "config")
    job.cli_overridable = True
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, "data", "hf_dataset.path", "hf_dataset.name"))
    adapter = word(document, "fine_tune_type") or "lora"
    if adapter == "full":
        no_lora(job, reason="fine_tune_type is full")
    else:
        where = job["lora_r"].at
        if "lora_alpha" not in job.fields:
            job.set("lora_alpha", default(None, "MLX-LM has no alpha: lora_parameters.scale multiplies B A", where))
        if "lora_targets" not in job.fields:
            job.set("lora_targets", unknown("every linear layer of the last num_layers blocks"))
    inner = word(document, "optimizer") or "adam"
    job.set("weight_decay", said_field("weight_decay", document, f"optimizer_config.{inner}.weight_decay"))
    fill_defaults(job, TOOL, version, inner, adapter=adapter)
    return job
