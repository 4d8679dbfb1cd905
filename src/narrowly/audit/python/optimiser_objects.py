"""Recognise optimisers and schedulers among the objects of a script, and read their settings."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from narrowly.audit.defaults.read import default_field
from narrowly.audit.optimiser_names import canonical_optimiser, family_of
from narrowly.audit.python.fields import as_constant, field_of, objects_in
from narrowly.audit.python.values import (
    Class,
    External,
    Items,
    Object,
    Sequence,
    Value,
    known,
    plain,
    why_unknown,
)  # fmt: skip
from narrowly.audit.record import Field, explicit, unknown
from narrowly.audit.values import canonical_scheduler
from narrowly.audit.versions import Version

_PACKAGES = frozenset(
    "torch bitsandbytes bnb lion_pytorch muon transformers apex deepspeed pytorch_optimizer timm schedulefree "
    "galore_torch "
    "prodigyopt heavyball dion sophia came_pytorch torchao optimi adam_mini dadaptation torch_optimizer "
    "adabelief_pytorch "
    "emerging_optimizers apollo_torch q_galore_torch lomo_optim badam peft colossalai soap optim optimizers "
    "distributed_shampoo "
    "grokadamw torch_xla pytorch_lamb adan_pytorch adan adafactor lion fairscale megatron moonlight kron_torch adopt "
    "prodigyplus ranger ranger21 madgrad tiger nemo flash_attn composer torchopt unsloth axolotl".split()
)
_FACTORIES = {
    "load_optimizer": ("optimizer", 0), "create_optimizer": ("optimizer_name", 1), "create_optimizer_v2": ("opt", 1),
    "get_optimizer": ("name", 0), "create_loraplus_optimizer": ("optimizer_cls", 1), "create_lorafa_optimizer":
    ("", None),
    "create_optimizer_from_config": ("", None), "ZeroRedundancyOptimizer": ("optimizer_class", 1),
}  # fmt: skip
_SCHEDULE_FUNCTIONS = (
    "get_scheduler",
    "get_cosine",
    "get_linear",
    "get_constant",
    "get_wsd",
    "get_polynomial",
    "get_inverse",
)
_KEYS = {"lr": "learning_rate", "learning_rate": "learning_rate", "weight_decay": "weight_decay", "wd": "weight_decay",
         "eps": "eps", "momentum": "momentum", "loraplus_lr_ratio": "lora_plus_ratio"}  # fmt: skip
_NOT_OPTIMISERS = ("lr_scheduler", "Optimizer", "swa_utils")


_FACTORY_NAME = re.compile(
    r"(?:get|build|create|make|configure|setup|set_up|init|initialize|prepare)_(?:\w+_)?optim(?:izers?)?"
    r"(?:_and_\w+)?"
)
"""Functions of a repository that make an optimiser, by their names."""


@dataclass(slots=True)
class OptimiserFound:
    """Hold an optimiser that a script makes: its object, its name and its settings by field."""

    made: Object
    name: Field
    fields: dict[str, Field] = field(default_factory=dict)
    cli: bool = False
    groups: int = 0
    """Number of parameter groups with settings of their own."""


def optimiser_name(made: Object, file: str) -> Field | None:
    """Return the optimiser that an object is, or None where it is none."""
    last = made.path.rsplit(".", 1)[-1]
    if made.kind is not None:
        return _own_class(made)
    root = made.path.split(".", 1)[0]
    if made.choices:
        names = [canonical_optimiser(choice) for choice in made.choices]
        if any(names) and all(
            "optim" in choice.lower() or name for choice, name in zip(made.choices, names, strict=True)
        ):
            return unknown(f"a condition decides between {' and '.join(made.choices)}"[:300], made.at)
        return None
    if ".lr_scheduler" in made.path or ".swa_utils" in made.path:
        return None
    if (
        _FACTORY_NAME.fullmatch(last)
        and root not in _PACKAGES
        and (last == "configure_optimizers" or (made.owner is None and root != "?"))
    ):
        return unknown(f"made by {made.path}, which is not in the files read", made.at, made.path)
    if "?" in made.path or "(" in made.path:
        return None
    if last in _FACTORIES and root in _PACKAGES:
        return _factory(made, last, file)
    if last.islower() or last in ("Optimizer", "AdamParams") or not last[:1].isupper():
        return None
    canonical = canonical_optimiser(made.path)
    if canonical is not None and (root in _PACKAGES or "optim" in made.path.lower() or root == last):
        return explicit(_decoupled(canonical, last, made), made.at, made.path)
    if (
        made.path.startswith(("torch.optim.", "bitsandbytes.optim.", "pytorch_optimizer.", "torch_optimizer."))
        and "_get" not in last
    ):
        return explicit(last.lower(), made.at, made.path)
    return None


def _decoupled(canonical: str, last: str, made: Object) -> str:
    """Return "adam" where apex's or DeepSpeed's class is told to couple its decay; it decouples it otherwise."""
    mode = {"FusedAdam": "adam_w_mode", "DeepSpeedCPUAdam": "adamw_mode"}.get(last, "")
    given = made.get(mode) if mode else None
    return "adam" if given is not None and known(given) and not plain(given) else canonical


def _own_class(made: Object) -> Field | None:
    assert made.kind is not None
    outside = made.kind.outside()
    names = [kind.name for kind in made.kind.lineage()]
    if not any(path.rsplit(".", 1)[-1] == "Optimizer" or path.startswith("torch.optim.") for path in outside):
        return None
    canonical = next((found for name in names if (found := canonical_optimiser(name)) is not None), None)
    if canonical is None:
        base = next((path for path in outside if path.startswith("torch.optim.") and canonical_optimiser(path)), None)
        canonical = canonical_optimiser(base) if base else None
    if canonical is None:
        return unknown(
            f"class {made.kind.name} at {made.kind.at} is an optimiser of this repository", made.at, made.kind.name
        )
    return explicit(canonical, made.at, made.kind.name, f"class {made.kind.name} at {made.kind.at}")


def _factory(made: Object, last: str, file: str) -> Field | None:
    key, position = _FACTORIES[last]
    if last == "create_lorafa_optimizer":
        return explicit("lora_fa", made.at, made.path)
    value = as_constant(made.get(key, position) or made.get("optimizer"))
    if value is None and made.path.startswith("timm") and made.args:
        options = made.args[0]
        value = options.get("opt") if isinstance(options, Object) else None
    if value is None:
        return unknown(f"{made.path} names no optimiser here", made.at)
    if isinstance(value, External | Class):
        path = value.name if isinstance(value, Class) else value.path
        canonical = canonical_optimiser(path)
        return explicit(canonical, made.at, path) if canonical else unknown(why_unknown(value), made.at)
    return field_of("optimiser", value, file)


def read_optimiser(made: Object, file: str, versions: dict[str, Version | None]) -> OptimiserFound | None:
    """Return the optimiser that an object is, with settings stated in its call, in its groups, and its defaults."""
    name = optimiser_name(made, file)
    if name is None:
        return None
    found = OptimiserFound(made, name, {"optimiser": name}, made.cli)
    last = made.path.rsplit(".", 1)[-1]
    for key, target in _KEYS.items():
        value = made.get(key, 1 if key == "lr" and last not in _FACTORIES and name.known else None)
        if value is not None and target not in found.fields:
            found.fields[target] = field_of(target, value, file) or found.fields[target]
            found.cli = found.cli or value.cli
    if not found.name.known:
        _from_names(found, made, file)
    _betas(found, made.get("betas", 2 if last in ("Adam", "AdamW") and made.path.startswith("torch.") else None), file)
    _groups(found, made, file)
    _defaults(found, versions)
    return found


def _from_names(found: OptimiserFound, made: Object, file: str) -> None:
    """Take settings from positional arguments whose variables are named after them: `configure(weight_decay, lr)`."""
    node = made.node
    if not isinstance(node, ast.Call):
        return
    for argument, value in zip(node.args, made.args, strict=False):
        name = argument.attr if isinstance(argument, ast.Attribute) else getattr(argument, "id", "")
        target = _KEYS.get(name)
        if target in ("learning_rate", "weight_decay") and target not in found.fields:
            given = field_of(target, value, file)
            if given is not None:
                found.fields[target] = given
                found.cli = found.cli or value.cli


def _betas(found: OptimiserFound, value: Value | None, file: str) -> None:
    if isinstance(value, Sequence) and len(value.elements) >= 2:
        for name, part in zip(("beta1", "beta2"), value.elements, strict=False):
            given = field_of(name, part, file)
            if given is not None:
                found.fields[name] = given
    elif value is not None:
        found.fields["beta1"] = found.fields["beta2"] = unknown(why_unknown(value), value.at)


def _parameter_groups(value: Value | None) -> list[Items]:
    if isinstance(value, Sequence):
        return [element for element in value.elements if isinstance(element, Items) and "params" in element.items]
    return []


def _groups(found: OptimiserFound, made: Object, file: str) -> None:
    """Take rates and decay from parameter groups: one rate for all counts, several are unknown with all of them."""
    groups = _parameter_groups(made.get("params", 0) or (made.args[0] if made.args else None))
    for key, target in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        values = [group.items[key] for group in groups if key in group.items]
        if not values:
            continue
        found.groups = len(groups)
        if not all(known(value) for value in values):
            if target not in found.fields:
                unclear = next(value for value in values if not known(value))
                found.fields[target] = unknown(why_unknown(unclear), unclear.at)
            continue
        numbers = list(dict.fromkeys(plain(value) for value in values))
        found.cli = found.cli or any(value.cli for value in values)
        if target == "weight_decay":
            largest = max(values, key=lambda value: plain(value) if isinstance(plain(value), int | float) else -1.0)
            if len(values) == len(groups) or plain(largest):
                found.fields[target] = field_of(target, largest, file) or found.fields[target]
        elif len(numbers) == 1 and (len(values) == len(groups) or target not in found.fields):
            found.fields[target] = field_of(target, values[0], file) or found.fields[target]
        elif len(values) == len(groups):
            shown = ", ".join(map(str, numbers))
            found.fields[target] = unknown(f"parameter groups have different rates: {shown}", values[0].at)


def _defaults(found: OptimiserFound, versions: dict[str, Version | None]) -> None:
    last = found.made.path.rsplit(".", 1)[-1]
    root = found.made.path.split(".", 1)[0]
    rest = found.made.rest
    for target in ("learning_rate", "weight_decay", "beta1", "beta2", "eps", "momentum"):
        if target in found.fields:
            continue
        if rest:
            found.fields[target] = unknown(rest, found.made.at)
            continue
        if found.made.kind is not None:
            given = _own_default(found.made, target)
        else:
            given = None if root == "torch" else default_field("torch", target, versions.get(root), of=f"{root}.{last}")
            if given is None and root in ("torch", "bitsandbytes", "torchao", "bnb"):
                given = default_field("torch", target, versions.get(root), of=last)
        if given is not None and target == "weight_decay" and _groups_elsewhere(found):
            given = unknown("parameter groups that may have a decay of their own are made elsewhere", found.made.at)
        if given is not None:
            found.fields[target] = given


def _groups_elsewhere(found: OptimiserFound) -> bool:
    """Tell whether the parameters are groups that are not known, by the name of their variable."""
    node = found.made.node
    if found.groups or not isinstance(node, ast.Call):
        return False
    first = node.args[0] if node.args else next((word.value for word in node.keywords if word.arg == "params"), None)
    given = found.made.get("params", 0)
    return first is not None and "group" in ast.unparse(first)[:200] and not isinstance(given, Sequence)


def _own_default(made: Object, target: str) -> Field | None:
    """Return the default in the signature of an optimiser class of the repository."""
    assert made.kind is not None
    method = made.kind.method("__init__")
    if method is None or method.scope is None:
        return None
    names = [arg.arg for arg in (*method.node.args.posonlyargs, *method.node.args.args)]
    defaults = dict(zip(names[len(names) - len(method.node.args.defaults) :], method.node.args.defaults, strict=True))
    keys = [key for key, name in _KEYS.items() if name == target]
    node = next((defaults[key] for key in keys if key in defaults), None)
    if not isinstance(node, ast.Constant):
        return None
    return Field(node.value, "default", method.scope.at(node), f"default of class {made.kind.name} of this repository")


def is_scheduler(made: Object) -> bool:
    """Tell whether an object is a schedule of the learning rate."""
    last = made.path.rsplit(".", 1)[-1]
    return (
        ".lr_scheduler." in made.path or last.startswith(_SCHEDULE_FUNCTIONS) or last.endswith(("LR", "LRScheduler"))
    ) and (made.kind is None and last not in ("LRScheduler", "_LRScheduler"))


def scheduler_field(made: Object, file: str) -> Field:
    """Return the schedule that an object is."""
    last = made.path.rsplit(".", 1)[-1]
    if last == "get_scheduler":
        return field_of("scheduler", made.get("name", 0), file) or unknown("get_scheduler without a name", made.at)
    return explicit(canonical_scheduler(last), made.at, made.path)


def main_optimiser(found: list[OptimiserFound]) -> OptimiserFound | None:
    """Return the optimiser that a job is named after where several share the parameters: Muon before its companion."""
    muons = [one for one in found if family_of(one.name.value) == "muon"]
    return (muons or found)[0] if found else None


def optimisers_in(value: Value | None, file: str, versions: dict[str, Version | None]) -> list[OptimiserFound]:
    """Return the optimisers among the objects of a value."""
    seen: list[Object] = []
    for made in objects_in(value):
        if made not in seen:
            seen.append(made)
    return [found for made in seen if (found := read_optimiser(made, file, versions)) is not None]
