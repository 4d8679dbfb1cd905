"""Bodies of hosted fine-tuning requests in JSON and YAML: OpenAI, Together, Mistral, Fireworks.

Sources: openai-python 2 `types/fine_tuning/job_create_params.py`; together `finetune.create`; mistralai
`fine_tuning.jobs.create`; Fireworks `firectl create sftj` settings. The optimiser runs at the host.
"""

from __future__ import annotations

from narrowly.audit.detectors.keys import Keys, datasets_of, new_job, no_lora, said, take, truth
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, default, explicit, unknown
from narrowly.audit.trees import Document

TOOL = "openai"
KINDS = ("json", "yaml")
TRIGGERS = (b"training_file", b"learning_rate_multiplier")

_PLACES = ("hyperparameters", *(f"method.{name}.hyperparameters" for name in ("supervised", "dpo", "reinforcement")))
_COMMON: Keys = {
    "learning_rate": ("learning_rate", "hyperparameters.learning_rate"),
    "epochs": ("n_epochs", "hyperparameters.n_epochs", "hyperparameters.epochs", "hyperparameters.training_epochs"),
    "max_steps": ("hyperparameters.training_steps",),
    "weight_decay": ("weight_decay", "hyperparameters.weight_decay"),
    "batch_size": ("batch_size", "hyperparameters.batch_size"),
    "warmup_ratio": ("warmup_ratio", "hyperparameters.warmup_fraction"),
    "lora_r": ("lora_r",),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "base_model": ("model",),
    "seed": ("seed",),
}


def host_of(document: Document) -> str | None:
    """Return the host whose request this is, or None."""
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("model"), str):
        return None
    if "training_files" in value and isinstance(value.get("hyperparameters"), dict):
        return "mistral"
    if "training_file" not in value:
        return None
    if any(key in value for key in ("lora", "lora_r", "n_checkpoints", "training_type", "n_evals")):
        return "together"
    openai = (
        isinstance(value.get("method"), dict) or isinstance(value.get("hyperparameters"), dict) or "suffix" in value
    )
    return "openai" if openai else None


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a JSON or YAML file; a section `request`, `body` or `json` is looked into as well."""
    jobs = []
    for document in file.documents:
        for one in (
            document,
            *(document.section(key) for key in ("request", "body", "json", "finetune", "fine_tuning", "fine_tune")),
        ):
            if one is not None and host_of(one) is not None:
                jobs.append(job_of(one, file, repository))
    return jobs


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that a host would run for this request."""
    del file, repository
    host = host_of(document) or TOOL
    job = new_job(host, document, "model", kind="hosted")
    job.mark("hosted", host, f"{document.file}:{job.line}", "the optimiser runs at the host")
    job.set("optimiser", unknown(f"{host} does not disclose the optimiser"))
    take(job, document, _COMMON)
    job.set("datasets", datasets_of(document, "training_file", "training_files"))
    if host == "openai":
        no_lora(job, reason="openai does not disclose whether and which adapter it trains")
        _openai(job, document)
    elif host == "together" and said(document, "lora") is not None and not truth(document, "lora"):
        no_lora(job, reason="lora is off")
    validated = said(document, "validation_file", "validation_files")
    job.set(
        "evaluation", explicit(validated is not None, f"{document.file}:{validated.line if validated else job.line}")
    )
    if "learning_rate" not in job.fields:
        job.set("learning_rate", unknown(f"not stated; {host} chooses it"))
    return job


def keys_of(name: str) -> list[str]:
    """Return the dotted keys at which requests state a field, those of every host."""
    key = {"epochs": "n_epochs"}.get(name, name)
    return [*_COMMON.get(name, ()), *(f"{where}.{key}" for where in _PLACES)]


def _openai(job: Job, document: Document) -> None:
    reason = "openai takes a multiplier of a rate that it does not disclose"
    job.fields.pop("learning_rate", None)
    for name, key in (
        ("learning_rate_multiplier", "learning_rate_multiplier"),
        ("epochs", "n_epochs"),
        ("batch_size", "batch_size"),
    ):
        spelled = [f"{where}.{key}" for where in _PLACES]
        found = said(document, *spelled)
        if found is None:
            continue
        at = f"{document.file}:{found.line}"
        one = (
            unknown('"auto": openai chooses it', at, "auto")
            if found.value == "auto"
            else document.field(name, *spelled)
        )
        job.set(name, one)
    job.set("learning_rate", unknown(reason, job["learning_rate_multiplier"].at, job.value("learning_rate_multiplier")))
    if "epochs" not in job.fields:
        job.set("epochs", default(None, '"auto": openai chooses it'))
