"""Fill a job from a document by a table of keys; what the tools that stand on the Transformers Trainer share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from narrowly.audit.defaults.read import defaults_of
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Field, Job, default, explicit, inherited
from narrowly.audit.trees import Document, Found, UnreadableError
from narrowly.audit.versions import Version, version_of

Keys = Mapping[str, Sequence[str]]
"""Field of the record -> the dotted keys that may hold it, in the order in which they count."""

TRAINER_KEYS: Keys = {
    "optimiser": ("optim",),
    "learning_rate": ("learning_rate",),
    "weight_decay": ("weight_decay",),
    "scheduler": ("lr_scheduler_type",),
    "epochs": ("num_train_epochs",),
    "max_steps": ("max_steps",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "eps": ("adam_epsilon",),
    "optim_args": ("optim_args",),
    "warmup_steps": ("warmup_steps",),
    "warmup_ratio": ("warmup_ratio",),
    "batch_size": ("per_device_train_batch_size",),
    "accumulation": ("gradient_accumulation_steps",),
    "max_grad_norm": ("max_grad_norm",),
    "seed": ("seed",),
}
"""Keys of `transformers.TrainingArguments`."""

NO_ADAPTER = "no adapter is configured"
_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora")


MOST_SECTIONS = 50
"""Jobs of one document that are reported: a list of experiments rarely has more."""


def trained_in(document: Document, accepts: Callable[[Document], bool]) -> Iterator[Document]:
    """Yield the document where it is a config of the tool, else those of its sections that are."""
    if accepts(document):
        yield document
        return
    found = 0
    for section in document.sections():
        if section.path and len(section.path) <= 5 and accepts(section):
            yield section
            found += 1
            if found >= MOST_SECTIONS:
                return


def said(document: Document, *keys: str) -> Found | None:
    """Return the first of the keys that is there and neither null nor empty: those leave the tool its default."""
    for key in keys:
        found = document.get(key)
        if found is not None and found.value is not None and found.value != "":
            return found
    return None


def said_field(name: str, document: Document, *keys: str) -> Field | None:
    """Return the field for the first key that is there and is not null."""
    for key in keys:
        found = said(document, key)
        if found is not None and (not isinstance(found.value, dict) or name == "optim_args"):
            return document.field(name, key)
    return None


def word(document: Document, *keys: str) -> str:
    """Return what a key says as lower-case text; empty where it says nothing."""
    found = said(document, *keys)
    return str(found.value).strip().lower() if found is not None and not isinstance(found.value, dict | list) else ""


def truth(document: Document, *keys: str) -> bool:
    """Say whether a flag is set."""
    return word(document, *keys) in ("true", "yes", "on", "1")


def only_uses(document: Document) -> bool:
    """Say whether settings state that a model is evaluated, merged or served, and not trained."""
    if truth(document, "do_train"):
        return False
    if word(document, "do_train") in ("false", "no", "off", "0"):
        return True
    return truth(document, "do_predict") or said(document, "export_dir", "infer_backend") is not None


def take(job: Job, document: Document, keys: Keys) -> None:
    """Set every field of the table that the document states."""
    for name, spelled in keys.items():
        job.set(name, said_field(name, document, *spelled))


def place(document: Document, *keys: str) -> str:
    """Return `file:line` of the first key that is there, else that of the section."""
    found = document.get(*keys)
    return f"{document.file}:{found.line if found is not None else document.line}"


def new_job(tool: str, document: Document, *keys: str, name: str = "", kind: str = "config") -> Job:
    """Return an empty job at the line of the first key that is there."""
    found = document.get(*keys) if keys else None
    return Job(tool, document.file, found.line if found is not None else document.line, name, kind)


def note_version(job: Job, package: str, file: SourceFile, repository: Repository) -> Version | None:
    """Set the tool's version as the repository states it, and return it."""
    version = version_of(package, repository, file)
    if version is not None:
        job.tool_version = version.to_field()
    return version


def no_lora(job: Job, at: str | None = None, reason: str = NO_ADAPTER) -> None:
    """Say that there is no LoRA: its fields have no value, and that is known."""
    for name in _LORA:
        job.fields[name] = default(None, reason, at)


def fill_defaults(job: Job, tool: str, version: Version | None, of: str = "", **when: Any) -> None:
    """Set what is not stated from the tool's table of defaults."""
    job.fill(defaults_of(tool, version, of, **when))


_BASES = ("defaults", "_base_", "base_config", "extends", "inherits", "inherit_from", "__base__")
_MOST_BASES = 8


_GALORE = {"adafactor": "galore_adafactor", "adamw_8bit": "galore_adamw_8bit", "paged_adamw_8bit": "galore_adamw_8bit"}


def galore_of(optimiser: str | None) -> str:
    """Return GaLore's optimiser for what `optim` says: LLaMA-Factory and ms-swift choose it by that name."""
    return _GALORE.get(optimiser or "", "galore_adamw")


def adafactor_flag(job: Job, document: Document) -> None:
    """Follow the old switch `adafactor: true` of TrainingArguments, which counts before `optim` (gone in 5.x)."""
    if truth(document, "adafactor"):
        job.set("optimiser", explicit("adafactor", place(document, "adafactor"), "adafactor: true"))


def bases_of(document: Document, file: SourceFile, repository: Repository) -> list[tuple[Document, SourceFile]]:
    """Return the config files that a document names as its base, nearest first, as far as they lie beside it.

    A base is named by a path that ends in .yaml or .yml; each may name one of its own.
    """
    found: list[tuple[Document, SourceFile]] = []
    waiting = [(document, file)]
    seen = {file.shown}
    while waiting and len(found) < _MOST_BASES:
        here, holder = waiting.pop(0)
        named = said(here, *_BASES)
        names = named.value if named is not None and isinstance(named.value, list) else [named.value if named else None]
        for name in reversed(names):
            if not isinstance(name, str) or not name.endswith((".yaml", ".yml")):
                continue
            other = repository.find(name, holder)
            if other is None or other.shown in seen:
                continue
            seen.add(other.shown)
            try:
                inner = next((one for one in other.documents if isinstance(one.value, dict)), None)
            except UnreadableError:
                continue
            if inner is not None:
                found.append((inner, other))
                waiting.append((inner, other))
    return found


def take_bases(job: Job, bases: Sequence[tuple[Document, SourceFile]], keys: Keys) -> None:
    """Set what the document leaves open from its bases, nearest first; such a field is inherited."""
    for base, _ in bases:
        named = Job(job.tool, base.file)
        take(named, base, keys)
        for name, stated in named.fields.items():
            if name not in job.fields:
                known = inherited(stated.value, stated.at, f"from {base.file}", stated.raw)
                job.set(name, known if stated.known else stated)


def megatron_adam(job: Job) -> None:
    """Call Megatron's "adam" what it is: its optimiser decouples the decay unless told otherwise."""
    found = job["optimiser"]
    if found.value == "adam":
        reason = "; ".join(filter(None, (found.reason, "Megatron decouples the decay: its adam is AdamW")))
        job.fields["optimiser"] = Field("adamw", found.provenance, found.at, reason, found.raw or "adam")


_LORA_SECTIONS = frozenset("lora lora_config peft peft_config lora_args peft_args lora_params".split())
_LORA_KEYS: Keys = {
    "lora_r": ("r", "lora_r", "rank", "lora_rank"),
    "lora_alpha": ("lora_alpha", "alpha"),
    "lora_dropout": ("lora_dropout", "dropout"),
    "lora_targets": ("target_modules", "lora_target_modules"),
    "use_rslora": ("use_rslora",),
    "use_dora": ("use_dora",),
}


def take_lora_section(job: Job, document: Document) -> bool:
    """Set LoRA from the first section of that name in a nested config; say whether there is one that is not off."""
    for section in document.sections():
        named = section.path and len(section.path) <= 5 and str(section.path[-1]).lower() in _LORA_SECTIONS
        if not named or said(section, "r", "rank", "lora_r", "lora_alpha", "lora_rank") is None:
            continue
        if word(section, "enabled", "enable", "use_lora", "use") in ("false", "no", "off", "0"):
            continue
        take(job, section, _LORA_KEYS)
        job.set("adapter", explicit("lora", f"{section.file}:{section.line}"))
        return True
    return False


def datasets_of(document: Document, *keys: str) -> Field | None:
    """Return the names of data sets: from a text with commas, a list of texts, or a list of mappings with a path."""
    found = said(document, *keys)
    if found is None:
        return None
    value = found.value
    if isinstance(value, str):
        names = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, list):
        names = [_name(one) for one in value[:50]]
    else:
        names = [_name(value)]
    return explicit(names, f"{document.file}:{found.line}")


def _name(one: Any) -> str:
    if isinstance(one, dict):
        for key in ("path", "id", "name", "dataset_path", "dataset", "file_path", "data_path"):
            if isinstance(one.get(key), str):
                return str(one[key])
        return "?"
    return str(one)
