"""Axolotl YAML: `base_model` with data sets and hyperparameters.

Sources: axolotl 0.5.0, 0.21.0 `utils/schemas/training.py`, `peft.py`, `core/builders/base.py`; axolotl-contribs-mit
0.0.6 (`muon.py` on one process: 0.2 sqrt(max), parameters of fewer than two dimensions left out; `dist_muon.py` on a
device mesh: sqrt(out/in)).
"""

from __future__ import annotations

from narrowly.audit.detectors.deepspeed import join
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
from narrowly.audit.record import Job, default, explicit, unknown
from narrowly.audit.trees import Document
from narrowly.audit.versions import parts

TOOL = "axolotl"
KINDS = ("yaml", "json")
TRIGGERS = (b"base_model",)

KEYS: Keys = {
    "optimiser": ("optimizer",),
    "learning_rate": ("learning_rate",),
    "weight_decay": ("weight_decay",),
    "scheduler": ("lr_scheduler",),
    "epochs": ("num_epochs",),
    "max_steps": ("max_steps",),
    "lora_r": ("lora_r",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "use_rslora": ("peft_use_rslora",),
    "use_dora": ("peft_use_dora",),
    "lora_init": ("peft_init_lora_weights",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "eps": ("adam_epsilon",),
    "optim_args": ("optim_args",),
    "lora_plus_ratio": ("loraplus_lr_ratio",),
    "warmup_steps": ("warmup_steps",),
    "warmup_ratio": ("warmup_ratio",),
    "batch_size": ("micro_batch_size",),
    "accumulation": ("gradient_accumulation_steps",),
    "max_grad_norm": ("max_grad_norm",),
    "base_model": ("base_model",),
    "seed": ("seed",),
    "adapter": ("adapter",),
}
_DATA = ("datasets", "pretraining_dataset", "test_datasets")
_OURS = (
    "micro_batch_size sequence_len adapter num_epochs lora_r val_set_size sample_packing flash_attention lr_scheduler "
    "dataset_prepared_path load_in_8bit load_in_4bit rl chat_template special_tokens wandb_project bf16 output_dir"
).split()
_MESH = ("fsdp", "fsdp_config", "fsdp_version", "dp_shard_size", "tensor_parallel_size", "context_parallel_size")


def is_axolotl(document: Document) -> bool:
    """Say whether a document is an Axolotl config of a training run."""
    if not isinstance(document.value, dict) or not isinstance(document.value.get("base_model"), str):
        return False
    if any(key in document.value for key in ("merge_method", "params", "task", "models", "slices")):
        return False  # mergekit, AutoTrain
    ours = sum(key in document.value for key in _OURS)
    if isinstance(document.value.get("adapter"), str) and said(document, "optimizer", "learning_rate") is not None:
        return True  # no other tool has both keys at the top
    trains = any(said(document, key) for key in ("learning_rate", "num_epochs", "micro_batch_size", "optimizer"))
    return trains and (ours >= 3 or (ours >= 1 and any(key in document.value for key in _DATA)))


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_axolotl)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that Axolotl would run with these settings."""
    saved = file.name in ("axolotl_config.yml", "axolotl_config.yaml")
    job = new_job(TOOL, document, "base_model", kind="saved" if saved else "config")
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    job.set("datasets", datasets_of(document, *_DATA))
    adapter = word(document, "adapter")
    if adapter in ("", "none", "false"):
        job.set("adapter", explicit("full", place(document, "adapter"), reason="no adapter: every weight is trained"))
        no_lora(job)
    else:
        _targets(job, document)
    _evaluation(job, document)
    fill_defaults(job, TOOL, version, adapter="lora" if adapter not in ("", "none", "false") else "full")
    if "learning_rate" not in job.fields:
        job.set("learning_rate", unknown("not stated; axolotl refuses a config without it"))
    if adapter and word(document, "peft_autocast_adapter_dtype") in ("false", "no", "0"):
        reason = "the factors keep the base's precision"
        job.set("adapter_dtype", explicit("bf16", place(document, "peft_autocast_adapter_dtype"), False, reason))
    _muon(job, document, adapter)
    _loraplus(job, document)
    join(job, document, file, repository)
    if job.value("optimiser") in ("muon", "muon_8bit") and "deepspeed" in job.fields:
        job.mark("rejected", "Muon with DeepSpeed", job["deepspeed"].at, "axolotl 0.21.0 refuses it at start")
    if any(said(document, key) for key in ("fsdp", "fsdp_config")):
        job.set("distributed", explicit("fsdp", place(document, "fsdp", "fsdp_config")))
    return job


def _targets(job: Job, document: Document) -> None:
    if said(document, "lora_target_modules") is not None:
        job.set("lora_targets", document.field("lora_targets", "lora_target_modules"))
    elif truth(document, "lora_target_linear"):
        job.set("lora_targets", explicit("all-linear", place(document, "lora_target_linear"), "lora_target_linear"))


def _evaluation(job: Job, document: Document) -> None:
    size = said(document, "val_set_size")
    tested = said(document, "test_datasets")
    if tested is not None:
        job.set("evaluation", explicit(True, place(document, "test_datasets")))
    elif size is not None:
        job.set(
            "evaluation", explicit(str(size.value) not in ("0", "0.0"), place(document, "val_set_size"), size.value)
        )


def _muon(job: Job, document: Document, adapter: str) -> None:
    asked = job.value("optimiser")
    if asked not in ("muon", "muon_8bit"):
        return
    mesh = [key for key in _MESH if said(document, key) is not None]
    at = place(document, *mesh) if mesh else job["optimiser"].at
    if mesh:
        why = (
            f"{mesh[0]} makes a device mesh: axolotl's dist_muon scales by sqrt(out/in), its one-process Muon does not"
        )
        job.set("muon_scale", default("spectral_norm", why, at))
    else:
        why = "axolotl's Muon on one process scales by 0.2 sqrt(max(out, in))"
        job.set("muon_scale", default("match_rms_adamw", why, at))
        if adapter and (truth(document, "peft_use_dora") or word(document, "lora_bias") in ("all", "lora_only")):
            job.mark("muon_drops", "vectors", place(document, "peft_use_dora", "lora_bias"),
                     "the one-process factory gives parameters of fewer than two dimensions no optimiser")  # fmt: skip


def _loraplus(job: Job, document: Document) -> None:
    decay = job["weight_decay"]
    version = job.tool_version.value
    old = version is not None and parts(str(version)) < (0, 20)
    if old and "lora_plus_ratio" in job.fields and decay.provenance == "explicit" and decay.value:
        job.mark("weight_decay_ignored", decay.value, decay.at, "PEFT's LoRA+ takes its own decay, 0 (axolotl#4010)")
