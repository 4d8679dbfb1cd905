"""ms-swift YAML, JSON and the `args.json` of its runs; the command line has the same keys.

Sources: ms-swift 2.6.1 `llm/utils/argument.py`, 3.0.0, 3.9.0 `llm/argument/train_args.py`, 4.6.0
`arguments/sft_args.py`, `arguments/tuner_args.py`, `trainers/arguments.py`, `optimizers/mapping.py` (the registry that
counts before `optim`), `megatron/arguments/megatron_args.py`.
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
    megatron_adam,
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
from narrowly.audit.record import Job, default, explicit, overridden, unknown
from narrowly.audit.trees import Document

TOOL = "ms-swift"
KINDS = ("yaml", "json")
TRIGGERS = (b"tuner_type", b"train_type", b"sft_type", b"rlhf_type", b"model_id_or_path", b"torch_dtype", b"lora_rank")

KEYS: Keys = {
    **TRAINER_KEYS,
    "lora_r": ("lora_rank",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout", "lora_dropout_p"),
    "lora_targets": ("target_modules", "lora_target_modules", "target_regex"),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
    "lora_init": ("init_weights",),
    "lora_plus_ratio": ("lorap_lr_ratio", "lora_lr_ratio"),
    "base_model": ("model", "model_id_or_path"),
    "adapter": ("tuner_type", "train_type", "sft_type"),
    "epochs": ("num_train_epochs", "max_epochs"),
    "batch_size": ("per_device_train_batch_size", "batch_size"),
}
MEGATRON_KEYS: Keys = {
    "learning_rate": ("lr",),
    "optimiser": ("optimizer",),
    "scheduler": ("lr_decay_style",),
    "epochs": ("num_train_epochs", "max_epochs"),
    "max_steps": ("train_iters",),
    "batch_size": ("micro_batch_size",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "eps": ("adam_eps",),
    "max_grad_norm": ("clip_grad",),
}
_TYPES = (
    "lora",
    "full",
    "longlora",
    "adalora",
    "llamapro",
    "vera",
    "boft",
    "fourierft",
    "reft",
    "lora_llm",
    "qlora",
    "bone",
    "adapter",
    "ia3",
    "lisa",
)
_REGISTRY = {"galore": "galore_adamw", "muon": "muon", "muonclip": "muonclip"}


def is_swift(document: Document) -> bool:
    """Say whether a document holds arguments of a training run of ms-swift."""
    if (
        not isinstance(document.value, dict)
        or said(document, "stage", "finetuning_type", "iters", "lora_parameters", "train_mode") is not None
    ):
        return False
    kind = word(document, "tuner_type", "train_type", "sft_type") in _TYPES
    # the args.json of an inference run keeps `train_type` too
    if said(document, "infer_backend", "load_args", "ckpt_dir") is not None and not said(
        document, "output_dir", "learning_rate"
    ):
        return False
    preference = word(document, "rlhf_type") != ""
    models = said(document, "model", "model_id_or_path", "model_type", "mcore_model", "load") is not None
    data = said(document, "dataset", "cached_dataset", "custom_train_dataset_path", "train_dataset") is not None
    trains = said(
        document,
        "learning_rate",
        "lr",
        "num_train_epochs",
        "max_epochs",
        "train_iters",
        "output_dir",
        "lora_rank",
        "max_steps",
    )
    return (kind or preference) and models and (data or kind) and trains is not None


def is_megatron(document: Document) -> bool:
    """Say whether the settings are those of `megatron sft` and its kin."""
    return said(
        document, "lr", "train_iters", "micro_batch_size", "tensor_model_parallel_size", "mcore_model"
    ) is not None and (said(document, "learning_rate", "per_device_train_batch_size") is None)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file."""
    return [job_of(one, file, repository) for document in file.documents for one in trained_in(document, is_swift)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that `swift sft`, `swift rlhf` or `megatron sft` would run with these settings."""
    saved = file.name in ("args.json", "sft_args.json")
    job = new_job(
        TOOL, document, "tuner_type", "train_type", "sft_type", "rlhf_type", kind="saved" if saved else "config"
    )
    version = note_version(job, TOOL, file, repository)
    megatron = is_megatron(document)
    take(job, document, {**KEYS, **MEGATRON_KEYS} if megatron else KEYS)
    inner = document.section("train")
    if megatron and inner is not None:  # the ray layout keeps the tuner in a section
        take(
            job,
            inner,
            {name: KEYS[name] for name in ("adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_targets")},
        )
    adafactor_flag(job, document)
    job.set("datasets", datasets_of(document, "dataset", "custom_train_dataset_path"))
    adapter = str(job.value("adapter") or "").lower()
    if "adapter" not in job.fields:
        adapter = "full" if megatron else "lora"
    if adapter == "full":
        no_lora(job, reason="the tuner is full")
    fill_defaults(
        job, TOOL, version, "megatron" if megatron else "sft", adapter="full" if adapter == "full" else "lora"
    )
    if megatron:
        megatron_adam(job)
    else:
        _registry(job, document)
        join(job, document, file, repository)
    return job


def _registry(job: Job, document: Document) -> None:
    """Follow the registry `optimizer`, which counts before `optim`; LoRA+ and multimodal keep the one of `optim`."""
    asked = word(document, "optimizer")
    key = "optimizer"
    if not asked:
        key = next(
            (
                one
                for one in ("lorap_lr_ratio", "use_galore")
                if truth(document, one) or (one[0] == "l" and said(document, one))
            ),
            "",
        )
        asked = {"lorap_lr_ratio": "lorap", "use_galore": "galore"}.get(key, "")
    if asked in ("", "default", "lorap", "multimodal"):
        return
    at = place(document, key)
    found = _REGISTRY.get(asked)
    declared = job["optimiser"]
    if asked == "galore":
        quantised = truth(document, "galore_quantization") and declared.value in (None, "adamw")
        found = "q_galore_adamw_8bit" if quantised else galore_of(declared.value)
    if found is None:
        reason = f"{asked!r} is no entry of ms-swift's registry; a plugin must define it"
        job.set("optimiser", unknown(reason, at, asked))
        job.mark("custom_optimiser", asked, at, reason)
        return
    if declared.provenance == "explicit":
        if declared.value != found:
            job.mark_declared(declared, f"loses to {key}: {asked}")
        job.set(
            "optimiser", overridden(found, at, f"{key} counts before optim {declared.raw or declared.value}", asked)
        )
    else:
        job.set("optimiser", explicit(found, at, asked))
    if found == "muon":
        job.set(
            "muon_scale",
            default("match_rms_adamw", "ms-swift runs Moonlight's Muon", at),
        )
