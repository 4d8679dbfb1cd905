"""Jobs of Lightning modules: `configure_optimizers` makes the optimiser, the Trainer says how long."""

from __future__ import annotations

import ast

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.adapters import adapter_of, set_adapter
from narrowly.audit.python.fields import set_field
from narrowly.audit.python.follow import followed
from narrowly.audit.python.loop_jobs import package_versions
from narrowly.audit.python.machine import Trace
from narrowly.audit.python.optimiser_objects import (
    OptimiserFound,
    is_scheduler,
    main_optimiser,
    read_optimiser,
    scheduler_field,
)  # fmt: skip
from narrowly.audit.python.trainer_jobs import together
from narrowly.audit.python.values import Class, Object
from narrowly.audit.record import Job, default, unknown
from narrowly.audit.versions import Version, version_of

_TRAINER = {
    "max_epochs": "epochs", "max_steps": "max_steps", "gradient_clip_val": "max_grad_norm",
    "accumulate_grad_batches": "accumulation", "precision": "precision",
}  # fmt: skip


def lightning_jobs(file: SourceFile, repository: Repository) -> list[Job]:
    """Return a job for every Lightning module of a script whose `configure_optimizers` makes something."""
    trace = followed(file, repository)
    if trace is None:
        return []
    versions = package_versions(file, repository)
    jobs = []
    for kind in trace.classes:
        method = kind.methods.get("configure_optimizers")
        if method is None or not _is_module(kind) or _file_of(kind) != file.shown:
            continue
        made = [each for each in trace.objects if method.node in each.inside]
        found = [one for each in made if (one := read_optimiser(each, file.shown, versions)) is not None]
        if found or _returns(method.node):
            jobs.append(_job(kind, method.node, found, made, trace, file, repository, versions))
    return together(jobs)


def _is_module(kind: Class) -> bool:
    return any(path.rsplit(".", 1)[-1] in ("LightningModule", "LightningWork") for path in kind.outside()) or any(
        base.rsplit(".", 1)[-1].endswith(("LightningModule", "PLModule")) for base in kind.outside()
    )


def _file_of(kind: Class) -> str:
    return kind.scope.module().file if kind.scope is not None else ""


def _returns(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Return)
        and each.value is not None
        and not (isinstance(each.value, ast.Constant) and each.value.value is None)
        for each in ast.walk(node)
    )


def _job(
    kind: Class,
    node: ast.AST,
    found: list[OptimiserFound],
    made: list[Object],
    trace: Trace,
    file: SourceFile,
    repository: Repository,
    versions: dict[str, Version | None],
) -> Job:
    main = main_optimiser(found)
    line = main.made.line if main is not None and main.made.inside[-1:] == (node,) else getattr(node, "lineno", 1)
    job = Job("lightning", file.shown, line, kind.name, "notebook" if file.kind == "notebook" else "script")
    version = version_of("lightning", repository, file) or version_of("pytorch-lightning", repository, file)
    if version is not None:
        job.tool_version = version.to_field()
    if main is not None:
        for name, field in main.fields.items():
            job.set(name, field)
        job.cli_overridable = main.cli
    else:
        job.set("optimiser", unknown("configure_optimizers returns something that is not followed", kind.at))
    schedule = next((each for each in made if is_scheduler(each)), None)
    job.set(
        "scheduler", scheduler_field(schedule, file.shown) if schedule else default("constant", "no schedule is made")
    )
    for trainer in trace.objects:
        if trainer.path.endswith("Trainer") and trainer.path.split(".")[0] in (
            "lightning",
            "pytorch_lightning",
            "pl",
            "L",
        ):
            for key, name in _TRAINER.items():
                set_field(job, name, trainer.get(key))
    set_adapter(job, adapter_of([], trace.objects), versions["peft"])
    return job
