"""YAML and JSON of Transformers' and TRL's arguments: recipes, `trl sft --config`, and sections of nested configs.

The keys are those of TrainingArguments and its children; the class, which decides the default rate, is told by keys
that only one has, else by the names of file and folder. Sources: trl 1.16.0 and transformers 5.23.0 dataclasses;
alignment-handbook `recipes/` for the layout.
"""

from __future__ import annotations

import re

from narrowly.audit.detectors.deepspeed import is_deepspeed, join
from narrowly.audit.detectors.keys import (
    TRAINER_KEYS,
    Keys,
    adafactor_flag,
    datasets_of,
    fill_defaults,
    new_job,
    no_lora,
    note_version,
    only_uses,
    place,
    said,
    take,
    take_lora_section,
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit, unknown
from narrowly.audit.trees import Document

TOOL = "trl"
KINDS = ("yaml", "json")
TRIGGERS = (
    b"per_device_train_batch_size",
    b"num_train_epochs",
    b"lr_scheduler_type",
    b"gradient_accumulation_steps",
    b"optim:",
    b'"optim"',
)

KEYS: Keys = {
    **TRAINER_KEYS,
    "scheduler": ("lr_scheduler_type", "lr_scheduler", "scheduler_type"),
    "lora_r": ("lora_r", "lora_rank", "r"),
    "epochs": ("num_train_epochs", "num_epochs", "epochs"),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "lora_targets": ("lora_target_modules", "target_modules"),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
    "base_model": ("model_name_or_path", "model_id", "model_name", "base_model", "model"),
}
_TRAINING = (
    "per_device_train_batch_size num_train_epochs lr_scheduler_type gradient_accumulation_steps optim warmup_ratio "
    "save_strategy logging_steps eval_strategy evaluation_strategy save_total_limit output_dir report_to learning_rate "
    "max_steps weight_decay gradient_checkpointing bf16 adam_beta2 max_grad_norm warmup_steps save_steps ddp_timeout"
).split()
_CLASSES = {
    "GRPOConfig": ("num_generations", "max_completion_length", "reward_funcs", "reward_weights"),
    "DPOConfig": ("dpo_beta", "precompute_ref_log_probs", "rpo_alpha", "loss_type"),
    "KTOConfig": ("desirable_weight", "undesirable_weight"),
    "SFTConfig": (
        "dataset_text_field",
        "packing",
        "max_seq_length",
        "assistant_only_loss",
        "completion_only_loss",
        "neftune_noise_alpha",
    ),
}
_WORDS = {
    "grpo": "GRPOConfig",
    "rloo": "RLOOConfig",
    "kto": "KTOConfig",
    "orpo": "ORPOConfig",
    "cpo": "CPOConfig",
    "simpo": "CPOConfig",
    "dpo": "DPOConfig",
    "reward": "RewardConfig",
    "gkd": "GKDConfig",
    "sft": "SFTConfig",
    "ppo": "PPOConfig",
}
_OTHERS = (
    "finetuning_type",
    "stage",
    "tuner_type",
    "train_type",
    "sft_type",
    "optimizer_type",
    "network_module",
    "pretrain",
)


def is_trainer(document: Document) -> bool:
    """Say whether a mapping holds arguments of a Trainer: three keys of TrainingArguments, one of which trains."""
    value = document.value
    if (
        not isinstance(value, dict)
        or any(key in value for key in _OTHERS)
        or is_deepspeed(document)
        or only_uses(document)
    ):
        return False
    stated = [key for key in _TRAINING if key in value and not isinstance(value[key], dict)]
    trains = any(
        key in value
        for key in ("learning_rate", "optim", "num_train_epochs", "per_device_train_batch_size", "lr_scheduler_type")
    )
    ours = any(
        key in value for key in ("per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "optim")
    )
    return trains and ours and len(stated) >= 3


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML or JSON file: of the whole document, else of each section that holds arguments."""
    jobs: list[Job] = []
    for document in file.documents:
        if is_trainer(document):
            jobs.append(job_of(document, file, repository))
            continue
        for section in document.sections():
            if section.path and len(section.path) <= 4 and is_trainer(section):
                jobs.append(job_of(section, file, repository, document))
            if len(jobs) >= 50:
                break
    return jobs


def config_class(document: Document, path: str) -> str:
    """Return the class whose arguments these are; empty where neither keys nor names tell it."""
    value = document.value
    if isinstance(value, dict):
        for name, keys in _CLASSES.items():
            if any(key in value for key in keys) and not (
                name == "DPOConfig" and "beta" not in value and "dpo_beta" not in value
            ):
                return name
    words = re.findall(r"[a-z]+", path.lower())
    return next((found for word, found in _WORDS.items() if word in words), "")


def job_of(
    document: Document,
    file: SourceFile,
    repository: Repository,
    whole: Document | None = None,
    of: str | None = None,
) -> Job:
    """Return the job that a Trainer would run with these arguments.

    Args:
        document: the mapping with the arguments.
        file: where it stands.
        repository: what stands beside.
        whole: the document around a section, where model and LoRA may stand.
        of: the class of the arguments where it is known; None where keys and names tell it.
    """
    of = config_class(document, repository.relative(file)) if of is None else of
    tool = "trl" if of else "transformers"
    job = new_job(
        tool, document, "learning_rate" if document.path == () else "", name=".".join(map(str, document.path))
    )
    if document.path == ():
        job.line = document.line
    job.cli_overridable = True
    version = note_version(job, tool, file, repository)
    take(job, document, KEYS)
    adafactor_flag(job, document)
    job.set(
        "datasets",
        datasets_of(
            document,
            "dataset_name",
            "dataset_mixer",
            "dataset_mixture.datasets",
            "dataset_id_or_path",
            "training_file",
            "dataset",
        ),
    )
    lora = _lora(job, document, whole)
    if not lora:
        no_lora(
            job,
            reason="use_peft is off"
            if said(document, "use_peft") is not None
            else "no LoRA setting stands in this file",
        )
    evaluated = said(document, "eval_strategy", "evaluation_strategy", "do_eval")
    if evaluated is not None:
        job.set(
            "evaluation",
            explicit(str(evaluated.value).lower() not in ("no", "false"), f"{document.file}:{evaluated.line}"),
        )
    if tool == "trl":
        fill_defaults(job, "trl", version, of, adapter="lora" if lora else "full")
    if said(document, "use_peft") is not None and lora:
        fill_defaults(job, "trl", version, "ModelConfig")
    transformers = note_version(Job("transformers", job.file), "transformers", file, repository)
    if tool != "trl" and "learning_rate" not in job.fields and _child_possible(document):
        job.set("learning_rate", unknown("not stated; which arguments class reads this file is not known"))
    fill_defaults(job, "transformers", transformers, "TrainingArguments")
    join(job, document, file, repository)
    return job


def _child_possible(document: Document) -> bool:
    return any(document.get(key) is not None for key in ("beta", "max_length", "max_prompt_length"))


def _lora(job: Job, document: Document, whole: Document | None) -> bool:
    """Set LoRA from the keys beside the arguments, else from a `lora` or `peft` section; say whether there is LoRA."""
    switches = ("use_peft", "is_peft", "use_lora", "peft")
    off = next((key for key in switches if word(document, key) in ("false", "no", "off", "0")), None)
    if off is not None:
        for name in ("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora"):
            job.fields.pop(name, None)
        return False
    if "lora_r" in job.fields or any(truth(document, key) for key in switches):
        job.set("adapter", explicit("lora", place(document, *switches, "lora_r", "lora_rank", "r")))
        return True
    return any(take_lora_section(job, holder) for holder in (document, whole) if holder is not None)
