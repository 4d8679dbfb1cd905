"""Jobs of Tinker: parameters of its optimiser step in a script, and configurations of tinker-cookbook."""

from __future__ import annotations

from narrowly.audit.defaults.read import defaults_of
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.fields import set_field
from narrowly.audit.python.follow import followed
from narrowly.audit.python.loops import set_loops, set_schedule
from narrowly.audit.python.machine import Trace
from narrowly.audit.python.trainer_jobs import together
from narrowly.audit.python.values import External, Items, Object, Value
from narrowly.audit.record import Job, explicit, unknown
from narrowly.audit.versions import version_of

_STEP = {"learning_rate": "learning_rate", "beta1": "beta1", "beta2": "beta2", "eps": "eps", "weight_decay":
"weight_decay",
         "grad_clip_norm": "max_grad_norm"}  # fmt: skip
_CONFIG = {"learning_rate": "learning_rate", "lr_schedule": "scheduler", "num_epochs": "epochs", "lora_rank": "lora_r",
           "adam_beta1": "beta1", "adam_beta2": "beta2", "adam_eps": "eps", "max_steps": "max_steps",
           "model_name": "base_model"}  # fmt: skip


def tinker_jobs(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook that trains with Tinker."""
    trace = followed(file, repository)
    if trace is None or not file.has(b"tinker"):
        return []
    version = version_of("tinker", repository, file)
    jobs = []
    for made in trace.objects:
        job = Job("tinker", file.shown, made.line, kind="notebook" if file.kind == "notebook" else "script")
        last = made.path.rsplit(".", 1)[-1]
        if last in ("AdamParams", "DimuonParams"):
            _step(job, made, last, trace, file)
        elif is_config(made):
            _config(job, made, made.kwargs)
        elif last == "apply" and made.owner is not None and _is_blueprint(made.owner):
            settings = made.args[0] if made.args else None
            given = {str(key): value for key, value in settings.items.items()} if isinstance(settings, Items) else {}
            _config(job, made.owner, given)
        else:
            continue
        if version is not None:
            job.tool_version = version.to_field()
        _adapter(job, trace)
        jobs.append(job)
    return together(jobs)


def is_config(made: Object) -> bool:
    """Tell whether an object is a configuration of one of the trainers of tinker-cookbook."""
    parts = made.path.split(".")
    return parts[0] == "tinker_cookbook" and parts[-1] == "Config" and any(part.startswith("train") for part in parts)


def _is_blueprint(made: Object) -> bool:
    kind = made.args[0] if made.args else None
    return made.path.endswith("Blueprint") and isinstance(kind, External) and is_config(Object(path=kind.path))


def _step(job: Job, made: Object, last: str, trace: Trace, file: SourceFile) -> None:
    name = "adamw" if last == "AdamParams" else "dimuon"
    job.name = last
    job.set("optimiser", explicit(name, made.at, made.path, "decoupled weight decay" if name == "adamw" else ""))
    for key, field in _STEP.items():
        set_field(job, field, made.get(key, 0 if key == "learning_rate" else None))
        if made.rest and field not in job.fields:
            job.set(field, unknown(made.rest, made.at))
    set_schedule(job, trace, None, file)
    if "changes in the course" in job["learning_rate"].reason:
        job.set("scheduler", unknown("the rate of each step is worked out in the script", made.at))
    set_loops(job, trace)
    job.fill(defaults_of("tinker", None, of=last))


def _config(job: Job, made: Object, settings: dict[str, Value]) -> None:
    path = made.path if not _is_blueprint(made) else getattr(made.args[0], "path", "")
    job.name = path.removeprefix("tinker_cookbook.")
    for key, field in _CONFIG.items():
        set_field(job, field, settings.get(key))
    kind = "supervised" if ".supervised." in path else "rl"
    job.set("optimiser", explicit("adamw", made.at, None, "trainers of tinker-cookbook step with AdamParams"))
    job.cli_overridable = job.cli_overridable or _is_blueprint(made)
    job.fill(defaults_of("tinker", None, of=kind))
    if "learning_rate" not in job.fields:
        job.set("learning_rate", unknown("not stated, and this configuration has no default", made.at))


def _adapter(job: Job, trace: Trace) -> None:
    client = next((each for each in trace.objects if "create_lora_training_client" in each.path), None)
    if client is not None:
        set_field(job, "lora_r", client.get("rank", 1))
        set_field(job, "base_model", client.get("base_model", 0))
    if "lora_r" not in job.fields:
        job.fill(defaults_of("tinker", None, of="client"))
    for name in ("lora_alpha", "lora_dropout", "lora_targets", "use_rslora"):
        if name not in job.fields:
            job.set(name, unknown("Tinker's service decides and does not disclose it"))
    job.set("adapter", explicit("lora", client.at if client is not None else None))
