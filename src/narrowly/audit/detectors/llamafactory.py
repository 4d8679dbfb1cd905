"""LLaMA-Factory YAML and JSON: v0 (`stage`, `finetuning_type`) and v1 (`model_class`, `peft_config`, `dist_config`).

Sources: llamafactory 0.9.0, 0.9.5 `hparams/finetuning_args.py`, `train/trainer_utils.py::create_custom_optimizer` (the
order of the switches), `v1/config/training_args.py`, `v1/core/base_trainer.py`; the v1 Muon plugin at the repository's
head (factors whose name has "lora" go to AdamW).
"""

from __future__ import annotations

from narrowly.audit.detectors.deepspeed import join
from narrowly.audit.detectors.keys import (
    TRAINER_KEYS,
    Keys,
    adafactor_flag,
    datasets_of,
    fill_defaults,
    galore_of,
    new_job,
    no_lora,
    note_version,
    place,
    said,
    said_field,
    take,
    trained_in,
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, default, explicit, overridden, unknown
from narrowly.audit.trees import Document

TOOL = "llamafactory"
KINDS = ("yaml", "json")
TRIGGERS = (b"finetuning_type", b"stage", b"train_dataset", b"peft_config", b"model_class", b"template")

KEYS: Keys = {
    **TRAINER_KEYS,
    "lora_r": ("lora_rank",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "lora_targets": ("lora_target",),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
    "lora_plus_ratio": ("loraplus_lr_ratio",),
    "base_model": ("model_name_or_path",),
    "adapter": ("finetuning_type",),
}
V1_KEYS: Keys = {
    "learning_rate": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "max_steps": ("max_steps",),
    "scheduler": ("lr_scheduler_config.name",),
    "batch_size": ("micro_batch_size",),
    "max_grad_norm": ("max_grad_norm",),
    "base_model": ("model",),
    "adapter": ("peft_config.name",),
    "lora_r": ("peft_config.r",),
    "lora_alpha": ("peft_config.lora_alpha",),
    "lora_dropout": ("peft_config.lora_dropout",),
    "lora_targets": ("peft_config.target_modules",),
    "use_rslora": ("peft_config.use_rslora",),
    "use_dora": ("peft_config.use_dora",),
    "seed": ("seed",),
}
_STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto", "orpo")
_METHODS = ("lora", "oft", "freeze", "full", "qlora")
_SWITCHES = (
    # in the order in which create_custom_optimizer asks; the optimiser that follows, None: the one of `optim`
    ("use_galore", "galore_adamw"),
    ("use_apollo", "apollo_adamw"),
    ("loraplus_lr_ratio", None),
    ("use_badam", "badam"),
    ("use_adam_mini", "adam_mini"),
    ("use_muon", "muon"),
)


def is_v0(document: Document) -> bool:
    """Say whether a document is a v0 config that trains."""
    if not isinstance(document.value, dict) or said(document, "tuner_type", "train_type", "sft_type", "rlhf_type"):
        return False
    stage, method = word(document, "stage") in _STAGES, word(document, "finetuning_type") in _METHODS
    by_template = (
        truth(document, "do_train") and said(document, "template") and said(document, "dataset", "dataset_dir")
    )
    if not (stage or method or by_template) or not said(
        document, "model_name_or_path", "dataset", "do_train", "template"
    ):
        return False
    if truth(document, "do_train"):
        return True
    if said(document, "do_train", "export_dir", "do_predict", "infer_backend", "task", "vllm_enforce_eager"):
        return False  # prediction, merging, serving
    return bool(said(document, "learning_rate", "num_train_epochs", "per_device_train_batch_size", "output_dir"))


def is_v1(document: Document) -> bool:
    """Say whether a document is a v1 config that trains."""
    if not isinstance(document.value, dict) or said(document, "train_dataset") is None or not said(document, "model"):
        return False
    ours = ("model_class", "peft_config", "dist_config", "kernel_config", "init_config", "optim_config", "cutoff_len",
            "sample_backend")  # fmt: skip
    return any(key in document.value for key in ours) and bool(
        said(document, "micro_batch_size", "learning_rate", "output_dir")
    )


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file."""
    return [
        job_of(one, file, repository)
        for document in file.documents
        for one in trained_in(document, lambda one: is_v0(one) or is_v1(one))
    ]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that LLaMA-Factory would run with these settings."""
    return _v1(document, file, repository) if is_v1(document) else _v0(document, file, repository)


def _v0(document: Document, file: SourceFile, repository: Repository) -> Job:
    saved = file.name in ("training_args.yaml", "llamaboard_config.yaml")
    job = new_job(TOOL, document, "stage", "finetuning_type", kind="saved" if saved else "config")
    version = note_version(job, TOOL, file, repository)
    take(job, document, KEYS)
    adafactor_flag(job, document)
    job.set("datasets", datasets_of(document, "dataset"))
    method = word(document, "finetuning_type") or "lora"
    lora = method in ("lora", "qlora")
    if not lora:
        no_lora(job, reason=f"finetuning_type is {method}")
    if not lora and said(document, "lora_rank") is not None:
        job.mark("ignored_key", "lora_rank", place(document, "lora_rank"), f"finetuning_type is {method}")
    _alpha(job, document, lora)
    fill_defaults(job, TOOL, version, "v0", adapter="lora" if lora else method)
    evaluated = said(document, "val_size", "eval_dataset")
    if evaluated is not None:
        job.set("evaluation", explicit(str(evaluated.value) not in ("0", "0.0"), f"{document.file}:{evaluated.line}"))
    if lora and truth(document, "pure_bf16"):
        job.set(
            "adapter_dtype", explicit("bf16", place(document, "pure_bf16"), True, "the factors are not cast to float32")
        )
    _switches(job, document, lora)
    join(job, document, file, repository)
    if said(document, "fsdp") is not None:
        job.set("distributed", explicit("fsdp", place(document, "fsdp")))
    return job


def _alpha(job: Job, document: Document, lora: bool) -> None:
    """Set alpha where it is not stated: twice the rank, as FinetuningArguments does after parsing."""
    rank = job.fields.get("lora_r")
    if lora and "lora_alpha" not in job.fields and rank is not None and isinstance(rank.value, int):
        job.set("lora_alpha", default(2 * rank.value, "default of llamafactory: lora_rank * 2", rank.at))


def _switches(job: Job, document: Document, lora: bool) -> None:
    """Follow create_custom_optimizer: the first switch that is on decides, and later ones are silently ignored."""
    on = [
        (key, optimiser)
        for key, optimiser in _SWITCHES
        if (said(document, key) is not None if key == "loraplus_lr_ratio" else truth(document, key))
    ]
    if not on:
        return
    (key, optimiser), *ignored = on
    at = place(document, key)
    for other, _ in ignored:
        job.mark("ignored_key", other, place(document, other), f"{key} comes first in create_custom_optimizer")
    if optimiser is not None:
        declared = job["optimiser"]
        optimiser = galore_of(declared.value) if key == "use_galore" else optimiser
        if declared.provenance == "explicit":
            job.mark_declared(declared, f"loses to {key}")
            job.set(
                "optimiser", overridden(optimiser, at, f"{key} wins over optim {declared.raw or declared.value}", key)
            )
        else:
            job.set("optimiser", explicit(optimiser, at, key))
    if optimiser == "muon":
        job.set("muon_scale", default("match_rms_adamw", "third_party/muon of llamafactory 0.9.5", at))
    elif ignored and ignored[-1][0] == "use_muon":
        job.mark("declared_optimiser", "muon", place(document, "use_muon"), f"{key} comes first")
    if lora and key in ("use_galore", "use_apollo", "use_badam"):
        job.mark("rejected", f"{key} with LoRA", at, "FinetuningArguments refuses it at start")


def _v1(document: Document, file: SourceFile, repository: Repository) -> Job:
    job = new_job(TOOL, document, "model", name="v1")
    version = note_version(job, TOOL, file, repository)
    take(job, document, V1_KEYS)
    job.set("datasets", datasets_of(document, "train_dataset"))
    method = word(document, "peft_config.name")
    if method != "lora":
        no_lora(job, reason=f"peft_config is {method}" if method else "no peft_config: every weight is trained")
    job.fields.setdefault("adapter", explicit("full", None, reason="no peft_config"))
    asked = word(document, "optim_config.name")
    lr = said(document, "optim_config.lr")
    if lr is not None:
        job.mark("ignored_key", "optim_config.lr", place(document, "optim_config.lr"), "learning_rate counts")
    if asked == "muon" and method == "lora":
        at = place(document, "optim_config.name")
        job.set(
            "optimiser",
            overridden("adamw", at, "v1's Muon hands every factor with 'lora' in its name to AdamW", "muon"),
        )
        job.mark("muon_not_on_lora", "adamw", at, "names with 'lora' go to AdamW (0.9, 0.95)")
        job.mark("declared_optimiser", "muon", at, "no parameter of a LoRA run is trained by it")
    elif asked:
        job.set("optimiser", said_field("optimiser", document, "optim_config.name"))
    if asked == "muon":
        job.set("weight_decay", said_field("weight_decay", document, "optim_config.wd", "optim_config.weight_decay"))
        if "weight_decay" not in job.fields:
            job.set(
                "weight_decay",
                unknown("the v1 Muon plugin is in no release that was read", place(document, "optim_config")),
            )
    fill_defaults(job, TOOL, version, "v1", adapter=method or "full")
    return job
