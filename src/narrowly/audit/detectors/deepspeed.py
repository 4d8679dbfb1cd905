"""DeepSpeed JSON: alone, and joined to the host that names it. Its optimiser block wins over the host's.

Sources: deepspeed 0.18 `runtime/engine.py::_configure_basic_optimizer` (Adam is AdamW unless `adam_w_mode` is false),
`runtime/config.py`; transformers 4.57 and 5.23 `integrations/deepspeed.py` ("auto" takes the Trainer's values, and a
block makes `optim` a placeholder; `fill_match` refuses values that differ from the arguments, read in 5.23). What the
block leaves out has the default of DeepSpeed's class, not the host's.
"""

from __future__ import annotations

from dataclasses import replace

from narrowly.audit.defaults.read import defaults_of
from narrowly.audit.detectors.keys import (
    fill_defaults,
    new_job,
    note_version,
    place,
    said,
    said_field,
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.optimiser_names import canonical_optimiser
from narrowly.audit.record import Field, Job, explicit, inherited, overridden, unknown
from narrowly.audit.trees import Document, UnreadableError
from narrowly.audit.versions import Version, parts, version_of

TOOL = "deepspeed"
KINDS = ("json", "yaml")
TRIGGERS = (b"zero_optimization", b"train_micro_batch_size_per_gpu", b'"params"')

_PARAMETERS = {"learning_rate": "lr", "weight_decay": "weight_decay", "eps": "eps", "momentum": "momentum"}
_TRAINERS = ("transformers", "trl", "unsloth", "axolotl", "llamafactory", "ms-swift")
_MISMATCH = 'Transformers compares the block with its arguments and stops ("auto" takes theirs)'
_FILLED_BY_HOST = '"auto": the program that reads this file fills it in'


_KEYS = (
    "zero_optimization train_micro_batch_size_per_gpu train_batch_size gradient_accumulation_steps fp16 bf16 optimizer "
    "scheduler gradient_clipping steps_per_print zero_allow_untested_optimizer "
    "wall_clock_breakdown zero_force_ds_cpu_optimizer"
).split()


def is_deepspeed(document: Document) -> bool:
    """Say whether a document is a DeepSpeed config: its own sections, or an optimiser block among its keys."""
    value = document.value
    if not isinstance(value, dict):
        return False
    block = value.get("optimizer")
    ours = isinstance(value.get("zero_optimization"), dict) or "train_micro_batch_size_per_gpu" in value
    ours = ours or (isinstance(block, dict) and "type" in block and isinstance(block.get("params"), dict))
    return ours and sum(key in value for key in _KEYS) >= 2


def without_joined(jobs: list[Job]) -> list[Job]:
    """Return the jobs without those of DeepSpeed files that a host among the jobs refers to: the host's says it all."""
    joined = {
        (job.marks["deepspeed_optimiser"].at or "").rpartition(":")[0]
        for job in jobs
        if job.tool != TOOL and "deepspeed_optimiser" in job.marks
    }
    return [job for job in jobs if job.tool != TOOL or job.kind != "config" or job.file not in joined]


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the job of a DeepSpeed file that has an optimiser block; one without declares no optimiser."""
    jobs = []
    for document in file.documents:
        if is_deepspeed(document) and word(document, "optimizer.type"):
            jobs.append(job_of(document, file, repository))
    return jobs


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that a DeepSpeed file declares by itself; "auto" is unknown."""
    job = new_job(TOOL, document, "optimizer")
    version = note_version(job, TOOL, file, repository)
    at = f"{document.file}:{job.line}"
    job.mark("deepspeed_optimiser", optimiser_of(document), at)
    for name, found in block(document).items():
        job.set(name, found)
    muon_rates(job, document, version)
    job.set("scheduler", said_field("scheduler", document, "scheduler.type"))
    for name, key in (("batch_size", "train_micro_batch_size_per_gpu"), ("accumulation", "gradient_accumulation_steps"),
                      ("max_grad_norm", "gradient_clipping")):  # fmt: skip
        stated = said(document, key)
        if stated is not None:
            job.set(name, _auto(document, stated.line) if stated.value == "auto" else document.field(name, key))
    for name in ("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora", "epochs", "max_steps"):
        job.set(name, unknown("a DeepSpeed file does not say; its host does"))
    fill_defaults(job, TOOL, version, word(document, "optimizer.type"))
    return job


def optimiser_of(document: Document) -> str | None:
    """Return the canonical name of the block's optimiser: `Adam` is AdamW unless `adam_w_mode` is false."""
    spelled = word(document, "optimizer.type")
    if spelled == "adam":
        off = said(document, "optimizer.params.adam_w_mode")
        return "adamw" if off is None or truth(document, "optimizer.params.adam_w_mode") else "adam"
    return canonical_optimiser(spelled) if spelled else None


def muon_rates(job: Job, document: Document, version: Version | None) -> None:
    """Follow DeepSpeed's Muon: `muon_lr` and `adam_lr` count from 0.18.9 on; before, both groups share `lr`."""
    if optimiser_of(document) != "muon":
        return
    apart = [key for key in ("muon_lr", "adam_lr") if said(document, f"optimizer.params.{key}") is not None]
    if version is not None and version.exact is not None and parts(version.exact) < (0, 18, 9):
        at = place(document, "optimizer.params.lr", "optimizer")
        job.mark("muon_aux_lr", job.value("learning_rate"), at, f"deepspeed {version.exact}: Adam's group shares lr")
        for key in apart:
            where = place(document, f"optimizer.params.{key}")
            job.mark("ignored_key", f"optimizer.params.{key}", where, "counts from deepspeed 0.18.9 on")
    elif "muon_lr" in apart:
        found = document.field("learning_rate", "optimizer.params.muon_lr")
        if found is not None and found.known:
            job.set("learning_rate", found)


def block(document: Document) -> dict[str, Field]:
    """Return the fields of the optimiser block; those that say "auto" are unknown."""
    kind = said(document, "optimizer.type")
    if kind is None:
        return {}
    at = f"{document.file}:{kind.line}"
    name = optimiser_of(document)
    reason = "DeepSpeed's Adam is AdamW unless adam_w_mode is false" if str(kind.value).lower() == "adam" else ""
    fields = {"optimiser": explicit(name or str(kind.value), at, kind.value, reason)}
    for field, key in _PARAMETERS.items():
        found = said(document, f"optimizer.params.{key}")
        if found is not None:
            stated = document.field(field, f"optimizer.params.{key}")
            fields[field] = _auto(document, found.line) if found.value == "auto" or stated is None else stated
    betas = said(document, "optimizer.params.betas")
    for index, field in enumerate(("beta1", "beta2")):
        if betas is not None and isinstance(betas.value, list) and len(betas.value) == 2:
            fields[field] = explicit(betas.value[index], f"{document.file}:{betas.line}")
        elif betas is not None and betas.value == "auto":
            fields[field] = _auto(document, betas.line)
    return fields


def _auto(document: Document, line: int) -> Field:
    return unknown(_FILLED_BY_HOST, f"{document.file}:{line}", "auto")


def config_of(
    document: Document, file: SourceFile, repository: Repository, *keys: str
) -> tuple[Document | None, Field | None]:
    """Return the DeepSpeed config that a host names or holds, and the field `deepspeed`.

    Args:
        document: the host's settings.
        file: the host's file; the path is looked for beside it and in the folders above.
        repository: where.
        keys: where the host keeps it, `deepspeed` by default.
    """
    found = said(document, *(keys or ("deepspeed",)))
    if found is None or found.value is False or str(found.value).lower() in ("none", "false", ""):
        return None, None
    at = f"{document.file}:{found.line}"
    if isinstance(found.value, dict):
        return document.section(next(key for key in keys or ("deepspeed",) if said(document, key))), explicit(
            "inline", at
        )
    name = str(found.value)
    other = repository.find(name, file)
    if other is None and "." not in name:
        return None, explicit(name, at, reason="a configuration of the tool's own, which has no optimiser block")
    if other is None:
        return None, explicit(
            name, at, reason="the file is not beside this one; what it says of the optimiser is unknown"
        )
    try:
        documents = [one for one in other.documents if isinstance(one.value, dict)]
    except UnreadableError:
        documents = []
    return (documents[0] if documents else None), explicit(name, at)


def join(job: Job, document: Document, file: SourceFile, repository: Repository, *keys: str) -> None:
    """Let the optimiser block of the DeepSpeed config that a host names win over the host's optimiser.

    Call it when the host's own fields and defaults are set: what loses becomes the mark `declared_optimiser`, and
    "auto" keeps the host's value.
    """
    config, named = config_of(document, file, repository, *keys)
    if named is None:
        return
    job.set("deepspeed", named)
    job.set("distributed", explicit("deepspeed", named.at))
    if config is None or not word(config, "optimizer.type"):
        return
    won = block(config)
    declared = job["optimiser"]
    optimiser = won.pop("optimiser")
    job.mark("deepspeed_optimiser", optimiser.value, optimiser.at)
    if declared.value is not None and declared.value != optimiser.value:
        job.mark_declared(declared, f"loses to the block at {optimiser.at}")
    lost = f"the optimiser block wins over {declared.value or 'the host'}"
    job.set("optimiser", overridden(optimiser.value, optimiser.at, lost, optimiser.raw))
    apart = []
    for name, found in won.items():
        if not found.known:
            continue  # "auto": the host's value stays
        other = job.fields.get(name)
        differs = other is not None and other.known and other.value != found.value
        if differs and other is not None:
            apart.append(f"{name} {found.value} at {found.at} and {other.value} in the host")
        if differs and other is not None and other.provenance == "explicit":
            job.set(
                name, overridden(found.value, found.at, f"the optimiser block wins over {other.value} at {other.at}")
            )
        else:
            job.set(name, inherited(found.value, found.at, "from the optimiser block of the DeepSpeed file", found.raw))
    version = version_of(TOOL, repository, file)
    for name, found in defaults_of(TOOL, version, word(config, "optimizer.type")).items():
        if name not in won:
            job.set(name, replace(found, at=optimiser.at))
    muon_rates(job, config, version)
    if apart and job.tool in _TRAINERS:
        job.mark("rejected", "; ".join(apart), optimiser.at, f"{_MISMATCH}: {'; '.join(apart)}")
