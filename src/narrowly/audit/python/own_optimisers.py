"""An optimiser that a trainer is handed or makes itself wins over what its arguments name."""

from __future__ import annotations

import ast

from narrowly.audit.optimiser_names import canonical_optimiser
from narrowly.audit.python.fields import field_of, is_none, objects_in
from narrowly.audit.python.optimiser_objects import (
    OptimiserFound,
    is_scheduler,
    main_optimiser,
    optimisers_in,
    scheduler_field,
)  # fmt: skip
from narrowly.audit.python.values import Class, External, Items, Object, Sequence, Value, known, why_unknown
from narrowly.audit.record import Field, Job, overridden, unknown
from narrowly.audit.versions import Version

_MAKERS = ("create_optimizer", "create_optimizer_and_scheduler", "get_optimizer_cls_and_kwargs")
_TAKEN = ("optimiser", "learning_rate", "weight_decay", "beta1", "beta2", "eps", "momentum")


def set_own_optimiser(job: Job, trainer: Object | None, versions: dict[str, Version | None]) -> None:
    """Let the optimiser given to a trainer, or made by its class, win over the declared one."""
    if trainer is None:
        return
    given = trainer.get("optimizers")
    if given is not None:
        optimizer = given.elements[0] if isinstance(given, Sequence) and given.elements else given
        if not is_none(optimizer):
            found = main_optimiser(optimisers_in(optimizer, job.file, versions))
            _take(job, found, optimizer, f"the trainer is handed this optimiser (optimizers= at {trainer.at})")
        _schedule(job, given)
    pair = trainer.get("optimizer_cls_and_kwargs")
    if isinstance(pair, Sequence) and len(pair.elements) == 2:
        _from_class(job, pair.elements[0], pair.elements[1])
    elif pair is not None and not is_none(pair):
        _from_factory(job, pair)
    for name in _MAKERS:
        method = trainer.kind.method(name) if trainer.kind is not None else None
        if method is not None:
            _from_method(job, trainer, method.node, name, versions)


def _take(job: Job, found: OptimiserFound | None, value: Value, reason: str) -> None:
    declared = job["optimiser"]
    if declared.value is not None:
        job.mark_declared(declared, "declared in the arguments, not used")
    if found is None:
        for name in ("optimiser", "learning_rate", "weight_decay"):
            job.set(name, unknown(f"{reason}, and what it is is not known: {why_unknown(value)}"[:300], value.at))
        job.mark("custom_optimiser", None, value.at, reason)
        return
    for name in _TAKEN:
        taken = found.fields.get(name)
        if taken is not None:
            job.set(name, _won(taken, job[name], reason) if name == "optimiser" else taken)
    job.cli_overridable = job.cli_overridable or found.cli
    job.mark("custom_optimiser", found.name.value, found.made.at, reason)


def _won(taken: Field, declared: Field, reason: str) -> Field:
    if not taken.known:
        return taken
    lost = f"; {declared.value} at {declared.at or 'the default'} is not used" if declared.value else ""
    return overridden(taken.value, taken.at, f"{reason}{lost}", taken.raw)


def _schedule(job: Job, given: Value) -> None:
    if not isinstance(given, Sequence) or len(given.elements) < 2 or is_none(given.elements[1]):
        return
    schedule = next((made for made in objects_in(given.elements[1], 2) if is_scheduler(made)), None)
    if schedule is not None:
        taken = scheduler_field(schedule, job.file)
        job.set(
            "scheduler",
            overridden(taken.value, taken.at, "the trainer is handed this schedule", taken.raw)
            if taken.known
            else taken,
        )
    else:
        job.set("scheduler", unknown(f"the trainer is handed a schedule: {why_unknown(given.elements[1])}", given.at))


def _from_class(job: Job, kind: Value, settings: Value) -> None:
    path = kind.path if isinstance(kind, External) else kind.name if isinstance(kind, Class) else ""
    canonical = canonical_optimiser(path) if path else None
    reason = "optimizer_cls_and_kwargs wins over optim"
    declared = job["optimiser"]
    job.mark_declared(declared, "declared in the arguments, not used")
    job.mark("custom_optimiser", canonical, kind.at, reason)
    job.set(
        "optimiser",
        overridden(canonical, kind.at, reason, path)
        if canonical
        else unknown(f"{reason}: {why_unknown(kind)}", kind.at, path or None),
    )
    if not isinstance(settings, Items):
        job.set("learning_rate", unknown(f"{reason}: {why_unknown(settings)}", settings.at))
        return
    for key, name in (
        ("lr", "learning_rate"),
        ("weight_decay", "weight_decay"),
        ("momentum", "momentum"),
        ("eps", "eps"),
    ):
        if key in settings.items:
            job.set(name, field_of(name, settings.items[key], job.file))
    betas = settings.items.get("betas")
    if isinstance(betas, Sequence) and len(betas.elements) == 2 and known(betas):
        job.set("beta1", field_of("beta1", betas.elements[0], job.file))
        job.set("beta2", field_of("beta2", betas.elements[1], job.file))


def _from_factory(job: Job, pair: Value) -> None:
    """Take the optimiser of this package's own `optimizer_factory({"kind": ...})`; any other is unknown."""
    reason = "optimizer_cls_and_kwargs wins over optim"
    declared = job["optimiser"]
    job.mark_declared(declared, "declared in the arguments, not used")
    spec = pair.args[0] if isinstance(pair, Object) and pair.path.endswith("optimizer_factory") and pair.args else None
    kind = field_of("optimiser", spec.items.get("kind"), job.file) if isinstance(spec, Items) else None
    if kind is None or not isinstance(spec, Items):
        job.mark("custom_optimiser", None, pair.at, reason)
        job.set("optimiser", unknown(f"{reason}: {why_unknown(pair)}"[:300], pair.at))
        return
    job.mark("custom_optimiser", kind.value, pair.at, reason)
    job.set("optimiser", overridden(kind.value, kind.at, reason, kind.raw))
    for key, name in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if key in spec.items:
            job.set(name, field_of(name, spec.items[key], job.file))


def _from_method(job: Job, trainer: Object, node: ast.AST, name: str, versions: dict[str, Version | None]) -> None:
    """Take the optimiser that an overridden method makes; one that leaves it to the base class changes nothing."""
    inside = {id(each) for each in ast.walk(node)}
    made = trainer.attrs.get("optimizer")
    found = optimisers_in(made, job.file, versions) if made is not None else []
    if not found:
        calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
        if any(ast.unparse(call.func).startswith("super().") for call in calls) and made is None:
            return
    kept = [one for one in found if one.made.node is not None and id(one.made.node) in inside] or found
    reason = f"{name} of {trainer.kind.name if trainer.kind else 'the trainer'} makes it"
    _take(job, main_optimiser(kept), made if made is not None else trainer, reason)
