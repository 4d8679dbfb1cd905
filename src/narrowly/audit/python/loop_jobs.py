"""Jobs of plain loops: an optimiser made in a script that trains with it, with or without Accelerate or DeepSpeed."""

from __future__ import annotations

import re

from narrowly.audit.defaults.read import defaults_of
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.optimiser_names import family_of
from narrowly.audit.python.adapters import adapter_of, set_adapter
from narrowly.audit.python.deepspeed_values import join_deepspeed
from narrowly.audit.python.fields import objects_in
from narrowly.audit.python.follow import followed
from narrowly.audit.python.loops import set_clipping, set_loops, set_schedule
from narrowly.audit.python.machine import Trace
from narrowly.audit.python.optimiser_objects import OptimiserFound, optimiser_name, read_optimiser
from narrowly.audit.python.trainer_jobs import is_trainer, together
from narrowly.audit.python.values import Object
from narrowly.audit.record import Job, unknown
from narrowly.audit.versions import Version, version_of

_TRAINS = re.compile(rb"backward\(|\.train_batch\(")
_TAKER = re.compile(r"(?:train|fit|finetune|fine_tune)(?:_|\Z)")
_PACKAGES = ("torch", "bitsandbytes", "lion_pytorch", "transformers", "timm", "pytorch_optimizer",
"schedulefree", "peft",
             "muon", "heavyball")  # fmt: skip


def package_versions(file: SourceFile, repository: Repository) -> dict[str, Version | None]:
    """Return what the repository says of the packages that optimisers come from, by import name."""
    names = {"lion_pytorch": "lion-pytorch", "pytorch_optimizer": "pytorch-optimizer", "muon": "muon-optimizer"}
    return {name: version_of(names.get(name, name), repository, file) for name in _PACKAGES}


def loop_jobs(file: SourceFile, repository: Repository, tool: str) -> list[Job]:
    """Return the jobs of loops that one tool runs: "torch", "accelerate" or "deepspeed"."""
    trace = followed(file, repository)
    if trace is None or not (_TRAINS.search(file.data) or _hands_over(trace, file)):
        return []
    if tool_of(trace) != tool:
        return []
    versions = package_versions(file, repository)
    jobs = [_job(group, trace, file, repository, tool, versions) for group in _groups(trace, file, versions)]
    if not jobs and tool == "deepspeed":
        jobs = _engine_jobs(trace, file, repository, versions)
    return together(jobs)


def _hands_over(trace: Trace, file: SourceFile) -> bool:
    """Tell whether an optimiser is handed to a function that trains: `train(model, loader, optimizer)`."""
    takers = [made for made in trace.objects if _TAKER.match(made.path.rsplit(".", 1)[-1])]
    return any(
        optimiser_name(inner, file.shown) is not None
        for made in takers
        for value in (*made.args, *made.kwargs.values())
        for inner in objects_in(value, 2)
    )


def _engine_jobs(
    trace: Trace, file: SourceFile, repository: Repository, versions: dict[str, Version | None]
) -> list[Job]:
    """Return the jobs of engines whose configuration, not the script, makes the optimiser."""
    jobs = []
    for made in trace.objects:
        if made.path.endswith("deepspeed.initialize"):
            job = Job("deepspeed", file.shown, made.line, kind="notebook" if file.kind == "notebook" else "script")
            for name in ("optimiser", "learning_rate", "weight_decay"):
                job.set(name, unknown("neither the script nor a DeepSpeed configuration that is read says", made.at))
            set_schedule(job, trace, None, file)
            set_loops(job, trace)
            set_adapter(job, adapter_of([], trace.objects), versions["peft"])
            _engine(job, trace, file, repository)
            if job["optimiser"].known:
                job.fill(defaults_of("deepspeed", version_of("deepspeed", repository, file)))
            jobs.append(job)
    return jobs


def tool_of(trace: Trace) -> str:
    """Return which tool runs the loops of a script."""
    paths = [made.path for made in trace.objects]
    if any(path.endswith("deepspeed.initialize") for path in paths) or (
        any(name.split(".")[0] == "deepspeed" for name in trace.imports)
        and any(path.endswith("DeepSpeedEngine") for path in paths)
    ):
        return "deepspeed"
    if any(path.rsplit(".", 1)[-1] == "Accelerator" for path in paths):
        return "accelerate"
    return "torch"


def _groups(trace: Trace, file: SourceFile, versions: dict[str, Version | None]) -> list[list[OptimiserFound]]:
    """Return the optimisers of each job: Muon and what trains the rest are one, others are each their own."""
    taken = {(made.at, made.cli) for made in _taken_by_trainers(trace)}
    found = [
        one
        for made in trace.objects
        if (made.at, made.cli) not in taken
        and not any(
            getattr(each, "name", "") in ("configure_optimizers",) and _is_lightning(made, trace, each)
            for each in made.inside
        )
        and (one := read_optimiser(made, file.shown, versions)) is not None
    ]
    found = [one for one in found if not _wrapped(one, found)]
    muons = [one for one in found if family_of(one.name.value) == "muon"]
    if not muons:
        return [[one] for one in found]
    groups: list[list[OptimiserFound]] = []
    for muon in muons:
        scope = muon.made.inside[-1:]
        rest = [one for one in found if one not in muons and one.made.inside[-1:] == scope]
        if not any(group[0].made.inside[-1:] == scope and group[0].made.at == muon.made.at for group in groups):
            groups.append([muon, *rest])
    kept = [one for group in groups for one in group]
    return groups + [[one] for one in found if one not in kept and one not in muons]


def _wrapped(one: OptimiserFound, found: list[OptimiserFound]) -> bool:
    """Tell whether an optimiser is only an argument of another, such as the base of a wrapper."""
    return any(other is not one and one.made in objects_in(other.made, 2)[1:] for other in found)


def _taken_by_trainers(trace: Trace) -> list[Object]:
    taken: list[Object] = []
    for trainer in [made for made in trace.objects if is_trainer(made)]:
        for value in (trainer.get("optimizers"), trainer.attrs.get("optimizer")):
            taken += objects_in(value)
        for made in trace.objects:
            if trainer.kind is not None and any(
                node is method.node for node in made.inside for method in trainer.kind.methods.values()
            ):
                taken.append(made)
    return taken


def _is_lightning(made: Object, trace: Trace, node: object) -> bool:
    return any(
        method.node is node and any(path.endswith("LightningModule") for path in kind.outside())
        for kind in trace.classes
        for method in kind.methods.values()
    )


def _job(
    group: list[OptimiserFound],
    trace: Trace,
    file: SourceFile,
    repository: Repository,
    tool: str,
    versions: dict[str, Version | None],
) -> Job:
    main = group[0]
    job = Job(tool, file.shown, main.made.line, kind="notebook" if file.kind == "notebook" else "script")
    version = version_of(tool, repository, file)
    if version is not None:
        job.tool_version = version.to_field()
    job.name = str(main.made.path.rsplit(".", 1)[-1])
    for name, found in main.fields.items():
        job.set(name, found)
    job.cli_overridable = main.cli or any(one.cli for one in group)
    for other in group[1:]:
        if other.fields.get("learning_rate") == main.fields.get("learning_rate"):
            job.mark(
                "muon_aux_lr", other.name.value, other.made.at, "what Muon does not train shares its learning rate"
            )
    set_schedule(job, trace, main.made, file)
    set_loops(job, trace)
    set_clipping(job, trace)
    set_adapter(job, adapter_of([main.made], trace.objects), versions["peft"])
    if tool == "deepspeed":
        _engine(job, trace, file, repository)
    return job


def _engine(job: Job, trace: Trace, file: SourceFile, repository: Repository) -> None:
    for made in trace.objects:
        if made.path.endswith("deepspeed.initialize"):
            given = made.get("config") or made.get("config_params")
            arguments = made.get("args", 0)
            if given is None and isinstance(arguments, Object):
                given = arguments.get("deepspeed_config")
            join_deepspeed(job, given, file, repository)
            return
