"""verl YAML: `actor_rollout_ref.actor.optim` of PPO and its kin, `optim` of the SFT trainer; Hydra fills in the rest.

Sources: verl 0.4.1, 0.5.0, 0.6.0, 0.7.0, 0.9.1 `trainer/config/*.yaml`, `workers/config/optimizer.py`. Up to 0.5 the
optimiser is AdamW in the code, with no key for it. From 0.6 to 0.7 two SFT trainers stand side by side: the older is
told `model.partial_pretrain`, the newer `model.path`.
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import (
    Keys,
    datasets_of,
    fill_defaults,
    megatron_adam,
    new_job,
    no_lora,
    note_version,
    said,
    take,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job
from narrowly.audit.trees import Document
from narrowly.audit.versions import Version, parts

TOOL = "verl"
KINDS = ("yaml",)
TRIGGERS = (b"actor_rollout_ref", b"partial_pretrain", b"verl.")

KEYS: Keys = {
    "optimiser": ("optimizer",),
    "learning_rate": ("lr",),
    "weight_decay": ("weight_decay",),
    "beta1": ("betas.0",),
    "beta2": ("betas.1",),
    "scheduler": ("lr_scheduler_type", "lr_scheduler", "warmup_style", "lr_decay_style"),
    "warmup_steps": ("lr_warmup_steps",),
    "warmup_ratio": ("lr_warmup_steps_ratio", "warmup_steps_ratio"),
    "max_grad_norm": ("clip_grad",),
}
_WHOLE: Keys = {
    "epochs": ("trainer.total_epochs",),
    "max_steps": ("trainer.total_training_steps",),
    "lora_r": ("actor_rollout_ref.model.lora_rank", "model.lora_rank", "actor_rollout_ref.model.lora.rank"),
    "lora_alpha": ("actor_rollout_ref.model.lora_alpha", "model.lora_alpha", "actor_rollout_ref.model.lora.alpha"),
    "lora_targets": ("actor_rollout_ref.model.target_modules", "model.target_modules"),
    "base_model": ("actor_rollout_ref.model.path", "model.partial_pretrain", "model.path"),
    "batch_size": ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", "data.micro_batch_size_per_gpu"),
}


def is_verl(document: Document) -> bool:
    """Say whether a document is a config of verl's trainers."""
    if not isinstance(document.value, dict):
        return False
    value = document.value
    policy = isinstance(value.get("actor_rollout_ref"), dict) and any(
        said(document, key) is not None for key in ("actor_rollout_ref.actor", "algorithm", "trainer")
    )
    composed = isinstance(value.get("defaults"), list) and any(
        isinstance(one, dict) and any(str(key).startswith("optim@optim") for key in one) for one in value["defaults"]
    )
    if composed and said(document, "data.train_files", "data.train_batch_size") is not None:
        return True
    supervised = (
        isinstance(value.get("optim"), dict)
        and isinstance(value.get("data"), dict)
        and (said(document, "model.partial_pretrain", "data.train_files", "data.train_batch_size") is not None)
    )
    return policy or supervised


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a YAML file: the actor's, and the critic's where its optimiser is stated."""
    jobs = []
    for document in file.documents:
        if is_verl(document):
            jobs += jobs_of(document, file, repository)
    return jobs


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job of the model that is trained: the actor, or that of the SFT trainer."""
    return jobs_of(document, file, repository)[0]


def jobs_of(document: Document, file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs that verl would run with these settings, the trained model's first."""
    if said(document, "actor_rollout_ref") is None:
        return [_job(document, file, repository, "optim", "sft")]
    jobs = [_job(document, file, repository, "actor_rollout_ref.actor.optim", "actor")]
    if said(document, "critic.optim.lr", "critic.optim.optimizer") is not None:
        jobs.append(_job(document, file, repository, "critic.optim", "critic"))
    return jobs


def _job(document: Document, file: SourceFile, repository: Repository, section: str, name: str) -> Job:
    job = new_job(TOOL, document, section, section.split(".")[0], name=name)
    job.cli_overridable = True
    version: Version | None = note_version(job, TOOL, file, repository)
    take(job, document, {field: tuple(f"{section}.{key}" for key in keys) for field, keys in KEYS.items()})
    take(job, document, _WHOLE)
    job.set("datasets", datasets_of(document, "data.train_files"))
    rank = job.value("lora_r")
    if not rank:
        no_lora(job, reason="lora_rank is 0, which is verl's default")
    megatron = word(document, "actor_rollout_ref.actor.strategy", "critic.strategy", "model_engine") == "megatron"
    if megatron:
        megatron_adam(job)
    of = _trainer(document, version) if name == "sft" else name
    fill_defaults(job, TOOL, version, of, engine="megatron" if megatron else "fsdp")
    return job


def _trainer(document: Document, version: Version | None) -> str:
    """Return which SFT trainer it is: the one of `sft_trainer.yaml`, or that of `sft_trainer_engine.yaml`."""
    old = version is not None and version.exact is not None and parts(version.exact) < (0, 6)
    return "sft" if old or said(document, "model.partial_pretrain") is not None else "sft_engine"
