"""Nested configs whose tool is not known: an optimiser by `_target_`, `class_path` or name beside its rate.

A defaults list of Hydra is followed to the files of its groups where they lie beside (`optimizer: adamw` is
`optimizer/adamw.yaml`); what comes from there is inherited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from narrowly.audit.detectors.keys import (
    Keys,
    datasets_of,
    fill_defaults,
    new_job,
    no_lora,
    only_uses,
    place,
    said,
    said_field,
    take,
    take_lora_section,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.optimiser_names import canonical_optimiser
from narrowly.audit.record import Field, Job, inherited, unknown
from narrowly.audit.trees import Document, UnreadableError
from narrowly.audit.versions import version_of

TOOL = "hydra"
KINDS = ("yaml", "toml", "json")
TRIGGERS = (b"optim",)

_SECTIONS = ("optimizer", "optimiser", "optim", "optimizer_cfg", "optimizer_config", "opt")
_CLASS = (
    "_target_", "class_path", "name", "type", "_component_", "optimizer", "optim", "optimizer_type",
    "optimizer_name", "class", "cls",
)  # fmt: skip
_RATE = (
    "lr", "learning_rate", "init_args.lr", "params.lr", "kwargs.lr", "args.lr", "base_lr", "max_lr",
    "optim_args.lr", "parameters.lr",
)  # fmt: skip
_INSIDE: Keys = {
    "learning_rate": _RATE,
    "weight_decay": (
        "weight_decay", "init_args.weight_decay", "params.weight_decay", "kwargs.weight_decay", "args.weight_decay",
        "wd",
    ),
    "momentum": ("momentum", "init_args.momentum", "params.momentum", "kwargs.momentum"),
    "beta1": ("betas.0", "init_args.betas.0", "params.betas.0", "kwargs.betas.0", "beta1", "adam_beta1"),
    "beta2": ("betas.1", "init_args.betas.1", "params.betas.1", "kwargs.betas.1", "beta2", "adam_beta2"),
    "eps": ("eps", "init_args.eps", "params.eps", "epsilon"),
}  # fmt: skip
_AROUND: Keys = {
    "learning_rate": ("learning_rate", "lr"),
    "weight_decay": ("weight_decay",),
    "scheduler": (
        "scheduler._target_", "lr_scheduler._target_", "scheduler.name", "lr_scheduler.name", "scheduler.type",
        "lr_scheduler", "scheduler", "lr_scheduler_type",
    ),
    "epochs": (
        "trainer.max_epochs", "num_epochs", "epochs", "max_epochs", "num_train_epochs", "n_epochs", "train.epochs",
        "training.epochs", "training.num_epochs", "train.num_epochs",
    ),
    "max_steps": (
        "trainer.max_steps", "max_steps", "train_steps", "num_steps", "training.max_steps", "training.steps",
    ),
    "batch_size": ("batch_size", "train_batch_size", "training.batch_size", "train.batch_size", "data.batch_size"),
    "seed": ("seed",),
}  # fmt: skip
_LORA: Keys = {
    "lora_r": (
        "lora.r", "lora.rank", "lora_r", "lora_rank", "peft.r", "model.lora.r", "model.lora_rank", "lora_config.r",
    ),
    "lora_alpha": (
        "lora.alpha", "lora.lora_alpha", "lora_alpha", "peft.lora_alpha", "model.lora.alpha", "model.lora_alpha",
        "lora_config.lora_alpha",
    ),
    "lora_dropout": (
        "lora.dropout", "lora.lora_dropout", "lora_dropout", "peft.lora_dropout", "lora_config.lora_dropout",
    ),
    "lora_targets": (
        "lora.target_modules", "lora_target_modules", "peft.target_modules", "lora_config.target_modules",
    ),
    "base_model": (
        "model_name_or_path", "model.name", "model.pretrained_model_name_or_path", "model.model_name_or_path",
        "model_name", "model._target_",
    ),
}  # fmt: skip
_WEIGHTED = r"(?:aux|auxiliary|balance|balancing|distil\w*|entropy|kl|router|z)_loss"
"""Terms of a loss; a number under such a name is the weight of the term."""
_MEASURED = re.compile(rf"(?!(?:.*_)?{_WEIGHTED}\Z)(?:.*_)?(?:loss|nll|perplexity|ppl|accuracy|acc|f1|auc|score)\Z")
_ENOUGH = ("epoch", "step", "batch", "train", "loss", "model", "sched", "warmup", "grad")


def optimisers_in(document: Document) -> list[Document]:
    """Return the sections that name an optimiser's class, outermost first."""
    found = []
    for section in document.sections():
        if len(section.path) > 6 or not isinstance(section.value, dict):
            continue
        inner = str(section.path[-1]).lower() if section.path else ""
        stated = said(section, *_CLASS[:4])
        known = stated is not None and isinstance(stated.value, str) and canonical_optimiser(stated.value) is not None
        target = (
            stated is not None
            and re.search(r"\boptim\w*\.", str(stated.value)) is not None
            and "sched" not in str(stated.value).lower()
        )
        if (
            (inner in _SECTIONS or target)
            and (known or target)
            and said(section, *_RATE, "_target_", "class_path") is not None
        ):
            found.append(section)
    return found


def is_flat(section: Document) -> bool:
    """Say whether a mapping names an optimiser and its rate beside each other, among settings of training."""
    value = section.value
    if not isinstance(value, dict) or len(value) < 4 or only_uses(section):
        return False
    named = said(section, "optimizer", "optim", "optimizer_type", "optimizer_name", "optimiser")
    rate = said(section, "learning_rate", "lr", "base_lr")
    if is_result(section):
        return False
    if "_target_" in value or "class_path" in value:
        return False  # a class with an optimiser among its arguments: a part of a config, not a config
    if named is None or rate is None or not isinstance(named.value, str) or canonical_optimiser(named.value) is None:
        return False
    return any(word in str(key).lower() for key in value for word in _ENOUGH)


def is_result(section: Document) -> bool:
    """Say whether a mapping is a row of results: measured numbers stand beside the settings."""
    measured = [
        value for key, value in section.value.items()
        if _MEASURED.match(str(key).lower()) and (value is None or isinstance(value, float))
    ]  # fmt: skip
    listed = any(isinstance(part, int) for part in section.path)
    return len(measured) > 1 or (listed and any(value is not None for value in measured))


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a nested config."""
    jobs = []
    for document in file.documents:
        if not isinstance(document.value, dict):
            continue
        sections = optimisers_in(document)
        jobs += [job_of(section, document, file, repository) for section in sections[:20]]
        if not sections:
            flat = [one for one in document.sections() if len(one.path) <= 3 and is_flat(one)]
            jobs += [_flat(one, document) for one in flat[:20]]
        if not jobs and isinstance(document.value.get("defaults"), list):
            jobs += _composed(document, file, repository)
    return jobs


def without_selected(jobs: list[Job]) -> list[Job]:
    """Return the jobs without those of nested configs that a script or a list of defaults among them takes over.

    A file of a group that is not selected keeps its own job.
    """
    if not any(job.tool == TOOL for job in jobs):
        return jobs
    taken: set[str] = set()
    followed: set[str] = set()
    for job in jobs:
        for at in (job["optimiser"].at, job["learning_rate"].at):
            if at is not None and (file := at.rpartition(":")[0]) != job.file:
                taken.add(file)
                if job.tool != TOOL:
                    followed.add(at)
    return [job for job in jobs if job.tool != TOOL or (job.file not in taken and job["optimiser"].at not in followed)]


def job_of(section: Document, document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job of a section that names an optimiser's class.

    Args:
        section: with the class and its arguments.
        document: around it.
        file: where it stands.
        repository: what stands beside.
    """
    job = Job(TOOL, section.file, section.line, ".".join(map(str, section.path)))
    job.cli_overridable = True
    job.set("optimiser", section.field("optimiser", *_CLASS[:4]))
    take(job, section, _INSIDE)
    around = _parent(section, document)
    for holder in (around, document):
        job.fill(_stated(holder, _AROUND))
    _model(job, document)
    found = said(section, "_target_", "class_path")
    if found is not None:
        fill_defaults(job, "torch", version_of("torch", repository, file), str(found.value).rsplit(".", 1)[-1])
    return job


def _parent(section: Document, document: Document) -> Document:
    path = ".".join(map(str, section.path[:-1]))
    return (document.section(path) if path else None) or document


def _stated(holder: Document, keys: Keys) -> dict[str, Field]:
    job = Job(TOOL, holder.file)
    for name, spelled in keys.items():
        for key in spelled:
            found = said(holder, key)
            if found is not None and not isinstance(found.value, dict | list):
                job.set(name, holder.field(name, key))
                break
    return job.fields


def _flat(section: Document, document: Document) -> Job:
    job = Job(TOOL, section.file, section.line, ".".join(map(str, section.path)))
    key = next(
        key
        for key in ("optimizer", "optim", "optimizer_type", "optimizer_name", "optimiser")
        if said(section, key) is not None
    )
    job.set("optimiser", section.field("optimiser", key))
    job.line = section.get(key).line if section.get(key) else section.line  # type: ignore[union-attr]
    job.set(
        "learning_rate",
        section.field("learning_rate", *(one for one in ("learning_rate", "lr", "base_lr") if said(section, one))),
    )
    job.fill(_stated(section, {**_INSIDE, **_AROUND}))
    job.fill(_stated(document, _AROUND))
    _model(job, document)
    return job


_LENGTHS: Keys = {
    "epochs": ("num_train_epochs", "num_epochs", "max_epochs", "epochs"),
    "max_steps": ("max_steps", "max_train_steps"),
}


def _only(name: str, document: Document, keys: Sequence[str]) -> Field | None:
    """Return the field where one section of the document, or several that agree, state it."""
    stated = [one for section in document.sections() if (one := said_field(name, section, *keys)) is not None]
    return stated[0] if stated and stated[0].known and all(one.value == stated[0].value for one in stated) else None


def _model(job: Job, document: Document) -> None:
    take(job, document, _LORA)
    for name, keys in _LENGTHS.items():
        if name not in job.fields:
            job.set(name, _only(name, document, keys))
    if "lora_r" not in job.fields and not take_lora_section(job, document):
        no_lora(job, reason="no LoRA setting stands in this file")
    job.set("datasets", datasets_of(document, "dataset", "datasets", "data.path", "data._target_", "dataset_name"))


def _composed(document: Document, file: SourceFile, repository: Repository) -> list[Job]:
    """Follow a defaults list to the files of its groups beside this one; the job stands at the list."""
    jobs = []
    for entry in document.value["defaults"][:40]:
        if not isinstance(entry, dict) or len(entry) != 1:
            continue
        group, option = next(iter(entry.items()))
        folder = str(group).removeprefix("override ").split("@")[0].strip("/ ")
        if folder.rsplit("/", 1)[-1] not in _SECTIONS or not isinstance(option, str):
            continue
        at = place(document, "defaults")
        if "${" in option:
            continue
        other = repository.find(f"{folder}/{option}.yaml", file) or repository.find(f"{folder}/{option}.yml", file)
        job = new_job(TOOL, document, "defaults", name=f"{folder}/{option}")
        job.cli_overridable = True
        if other is None:
            job.set("optimiser", unknown(f"{folder}/{option}.yaml is not beside this file", at, option))
        else:
            _inherit(job, other)
            if canonical_optimiser(str(job.value("optimiser") or "")) is None:
                continue  # a group of that name which holds no optimiser that is known
            own = document.section(folder.replace("/", "."))
            if (
                own is not None
                and "_self_" not in document.value["defaults"][: document.value["defaults"].index(entry)]
            ):
                take(job, own, _INSIDE)  # what the config itself says comes after its groups
        job.fill(_stated(document, _AROUND))
        _model(job, document)
        jobs.append(job)
    return jobs


def _inherit(job: Job, other: SourceFile) -> None:
    try:
        inner = other.documents[0] if other.documents else None
    except UnreadableError:
        inner = None
    if inner is None or not isinstance(inner.value, dict):
        return
    holder = next((section for key in _SECTIONS if (section := inner.section(key)) is not None), inner)
    named = Job(TOOL, other.shown)
    named.set("optimiser", holder.field("optimiser", *_CLASS))
    take(named, holder, _INSIDE)
    for name, found in named.fields.items():
        job.set(name, inherited(found.value, found.at, f"from {other.shown}", found.raw) if found.known else found)
