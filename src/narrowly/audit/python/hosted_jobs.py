"""Jobs at hosts: calls that start a fine-tuning whose optimiser the host does not disclose."""

from __future__ import annotations

import re
from typing import NamedTuple

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.fields import set_field
from narrowly.audit.python.follow import followed
from narrowly.audit.python.machine import Trace, constant_text
from narrowly.audit.python.trainer_jobs import together
from narrowly.audit.python.values import Const, Items, Object, Value
from narrowly.audit.record import Job, unknown
from narrowly.audit.versions import version_of


class Host(NamedTuple):
    """Name a host by the end of the call that starts a job there."""

    call: str
    tool: str
    name: str


HOSTS = (
    Host("fine_tuning.jobs.create", "openai", "OpenAI"),
    Host("fine_tunes.create", "openai", "OpenAI"),
    Host("FineTuningJob.create", "openai", "OpenAI"),
    Host("FineTune.create", "openai", "OpenAI"),
    Host("fine_tuning.create", "together", "Together AI"),
    Host("Finetune.create", "together", "Together AI"),
    Host("create_supervised_fine_tuning_job", "fireworks", "Fireworks AI"),
    Host("supervised_fine_tuning_jobs.create", "fireworks", "Fireworks AI"),
    Host("create_fine_tuning_job", "fireworks", "Fireworks AI"),
    Host("finetuning.create_finetuned_model", "cohere", "Cohere"),
    Host("tuning.sft.train", "vertex", "Vertex AI"),
    Host("sft.train", "vertex", "Vertex AI"),
    Host("tunings.tune", "vertex", "Gemini API"),
    Host("create_tuned_model", "vertex", "Gemini API"),
    Host("create_model_customization_job", "bedrock", "Amazon Bedrock"),
    Host("finetuning.jobs.create", "predibase", "Predibase"),
    Host("foundation_model.create", "databricks", "Databricks"),
    Host("jobs.create", "mistral", "Mistral AI"),
    Host("MistralAIFinetuneEngine", "mistral", "Mistral AI"),
    Host("OpenAIFinetuneEngine", "openai", "OpenAI"),
)
"""Calls that start a job at a host; the longest end that fits counts."""

_KEYS = {
    "learning_rate": "learning_rate", "learningRate": "learning_rate", "learning_rate_multiplier":
    "learning_rate_multiplier",
    "learningRateMultiplier": "learning_rate_multiplier", "weight_decay": "weight_decay", "n_epochs": "epochs",
    "epochs": "epochs", "epoch_count": "epochs", "epochCount": "epochs", "training_duration": "epochs",
    "train_epochs": "epochs", "training_steps": "max_steps", "stepCount": "max_steps",
    "batch_size": "batch_size", "batchSize": "batch_size",
    "lora_r": "lora_r", "lora_rank": "lora_r", "adapter_size": "lora_r", "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout", "lora_trainable_modules": "lora_targets", "warmup_ratio": "warmup_ratio",
    "max_grad_norm": "max_grad_norm", "seed": "seed", "model": "base_model", "base_model": "base_model",
    "lr_scheduler_type": "scheduler",
}  # fmt: skip
_URL = re.compile(r"fine[_-]?tun(?:ing/jobs|es?\b|ing)")
_NESTED = ("hyperparameters", "hyperParameters", "method", "supervised", "dpo", "reinforcement", "config", "settings",
           "training_method", "train_type", "training_type", "json", "lr_scheduler", "extra_body",
           "customizationConfig", "hyper_parameters")  # fmt: skip
_DURATION = re.compile(r"(\d+)(ep|ba)")
"""Length of a run at Databricks, in epochs or batches."""


def hosted_jobs(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs that a script or notebook starts at hosts."""
    trace = followed(file, repository)
    if trace is None:
        return []
    jobs = []
    for made in trace.objects:
        host = host_of(made, trace)
        if host is not None:
            jobs.append(_job(made, host, file, repository))
    return together(jobs)


def host_of(made: Object, trace: Trace) -> Host | None:
    """Return the host at which a call starts a job, or None."""
    if made.path.endswith((".post", ".request")):
        url = next((text for arg in made.args if (text := constant_text(arg)) and "://" in text), "")
        if not _URL.search(url) or not (made.get("json") or made.get("data")):
            return None
        known = {"openai": "OpenAI", "together": "Together AI", "fireworks": "Fireworks AI", "mistral": "Mistral AI"}
        tool = next((name for name in known if name in url), "openai")
        return Host("", tool, known[tool])
    fitting = [host for host in HOSTS if made.path.endswith(f".{host.call}") or made.path == host.call]
    if not fitting:
        return None
    host = max(fitting, key=lambda each: len(each.call))
    imported = {name.split(".")[0] for name in trace.imports}
    if host.call == "sft.train" and not imported & {"vertexai", "google"}:
        return None
    if host.call == "jobs.create" and not made.path.startswith("mistralai."):  # its client before version 1
        return None
    if host.tool in ("openai", "together"):
        for module, tool, name in (("mistralai", "mistral", "Mistral AI"), ("together", "together", "Together AI")):
            if module in made.path.split(".")[0] or (module in imported and "openai" not in imported):
                return Host(host.call, tool, name)
    return host


def _job(made: Object, host: Host, file: SourceFile, repository: Repository) -> Job:
    job = Job(host.tool, file.shown, made.line, host.name, "hosted")
    version = version_of(host.tool, repository, file)
    if version is not None:
        job.tool_version = version.to_field()
    _take(job, made.kwargs)
    reason = f"{host.name} does not disclose it"
    job.mark("hosted", host.name, made.at, "the optimiser runs at the host and is not disclosed")
    job.set("optimiser", unknown(reason, made.at))
    for name in ("learning_rate", "weight_decay", "scheduler", "epochs", "max_steps", "lora_r", "lora_alpha",
                 "lora_dropout", "lora_targets", "use_rslora"):  # fmt: skip
        if name not in job.fields:
            said = f"not stated, and {host.name} chooses" if name in ("learning_rate", "epochs") else reason
            job.set(name, unknown(said, made.at))
    return job


def _take(job: Job, settings: dict[str, Value], deep: int = 4) -> None:
    for key, value in settings.items():
        inner = _settings_in(value)
        if inner is not None and (key in _NESTED or deep < 4) and deep > 0:
            _take(job, inner, deep - 1)
        elif key == "training_duration" and (length := _DURATION.fullmatch(constant_text(value) or "")):
            count = Const(value.at, value.cli, int(length.group(1)))
            set_field(job, "epochs" if length.group(2) == "ep" else "max_steps", count)
        elif key in _KEYS:
            if isinstance(value, Const) and value.value == "auto":
                job.set(_KEYS[key], unknown('"auto": the host chooses', value.at, "auto"))
            else:
                set_field(job, _KEYS[key], value)


def _settings_in(value: Value) -> dict[str, Value] | None:
    if isinstance(value, Items):
        return {str(key): item for key, item in value.items.items()}
    if isinstance(value, Object):
        return {**value.kwargs, **value.attrs}
    return None
