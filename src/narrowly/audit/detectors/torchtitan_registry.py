"""torchtitan's configs in Python: functions that return a `Config` with `optimizer=default_adamw(...)`.

Source: torchtitan 0.3.0 `components/optimizer/optimizer.py::default_adamw` (betas 0.9, 0.95, decay 0.1),
`models/*/config_registry.py`. Literals are read; anything else is unknown.
"""

from __future__ import annotations

import ast
from typing import Any

from narrowly.audit.detectors.keys import fill_defaults, no_lora, note_version
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Field, Job, explicit, unknown

TOOL = "torchtitan"
KINDS = ("python",)
TRIGGERS = (b"default_adamw(",)

_ARGUMENTS = {"lr": "learning_rate", "weight_decay": "weight_decay", "eps": "eps"}


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return a job for every function that states an optimiser; one that changes another's config has none."""
    if not file.has(b"torchtitan") or file.has(b"def default_adamw"):
        return []
    jobs = []
    for function in file.tree.body:
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _name(node.func) == "Config" and _keyword(node, "optimizer"):
                    jobs.append(_job(function.name, node, file, repository))
    return jobs


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((one.value for one in call.keywords if one.arg == name), None)


def _stated(node: ast.expr | None, file: SourceFile) -> Field | None:
    if node is None:
        return None
    at = file.at(node.lineno)
    try:
        value: Any = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return unknown(f"{ast.unparse(node)[:60]} is computed", at)
    return explicit(value, at)


def _job(name: str, call: ast.Call, file: SourceFile, repository: Repository) -> Job:
    made = _keyword(call, "optimizer")
    assert made is not None
    job = Job(TOOL, file.shown, made.lineno, name, "script", cli_overridable=True)
    version = note_version(job, TOOL, file, repository)
    if isinstance(made, ast.Call) and _name(made.func) == "default_adamw":
        job.set("optimiser", explicit("adamw", file.at(made.lineno), "default_adamw"))
        for argument, field in _ARGUMENTS.items():
            job.set(field, _stated(_keyword(made, argument), file))
        if made.args:
            job.set("learning_rate", _stated(made.args[0], file))
    else:
        reason = f"{ast.unparse(made)[:60]} makes it"
        job.set("optimiser", unknown(reason, file.at(made.lineno)))
        job.set("learning_rate", unknown(reason, file.at(made.lineno)))
        job.mark("custom_optimiser", ast.unparse(made)[:60], file.at(made.lineno), reason)
    training = _keyword(call, "training")
    if isinstance(training, ast.Call):
        job.set("max_steps", _stated(_keyword(training, "steps"), file))
    no_lora(job)
    fill_defaults(job, TOOL, version)
    return job
