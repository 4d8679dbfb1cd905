"""Turn values of the evaluator into fields of a job."""

from __future__ import annotations

from typing import Any

from narrowly.audit.optimiser_names import canonical_optimiser
from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Items,
    Object,
    Sequence,
    Unknown,
    Value,
    known,
    plain,
    why_unknown,
)  # fmt: skip
from narrowly.audit.record import Field, Job, explicit, inherited, unknown
from narrowly.audit.values import typed_field

_ENUMS = ("OptimizerNames", "SchedulerType", "IntervalStrategy", "EvaluationStrategy", "SaveStrategy", "AdapterSize")
ADAPTER_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora")
NO_ADAPTER = "no adapter is configured"


def file_and_line(at: str | None) -> tuple[str, int]:
    """Return the file and the line of a place; of `file:cell/line` the line."""
    file, _, line = (at or "").rpartition(":")
    number = line.rpartition("/")[2]
    return file, int(number) if number.isdecimal() else 1


def as_constant(value: Value | None) -> Value | None:
    """Return a member of an enumeration as its text, e.g. `OptimizerNames.ADAMW_TORCH`; any other value as it is."""
    if isinstance(value, External):
        parts = value.path.split(".")
        if parts[-1] == "value":
            parts = parts[:-1]
        if len(parts) > 1 and parts[-2] in _ENUMS:
            return Const(value.at, value.cli, parts[-1] if parts[-2] == "AdapterSize" else parts[-1].lower())
    return value


def field_of(name: str, value: Value | None, file: str) -> Field | None:
    """Return the field for a value; None where there is no value.

    Args:
        name: of `record.FIELDS`.
        value: what the evaluator found.
        file: path of the job's file: what stands in another file is inherited.
    """
    if value is None:
        return None
    value = as_constant(value)
    if isinstance(value, Unknown) and name == "learning_rate" and isinstance(value.base, int | float):
        return explicit(value.base, value.at, None, "times a factor that changes in the course of training")
    if not known(value):
        return _unknown(name, value)
    content: Any = plain(value)
    at = value.at if value is not None else None
    found = typed_field(name, content, at)
    if not found.known:
        return found
    reasons = []
    if isinstance(value, Const) and value.environment:
        reasons.append(f"environment variable {value.environment} may change it")
    where = file_and_line(at)[0]
    if at is not None and where != file:
        return inherited(found.value, at, "; ".join([f"set in {where}", *reasons]), found.raw)
    return explicit(found.value, at, found.raw, "; ".join(reasons))


def _unknown(name: str, value: Value | None) -> Field:
    if name == "optimiser" and isinstance(value, External | Object | Class):
        path = value.name if isinstance(value, Class) else value.path
        canonical = canonical_optimiser(path)
        if canonical is not None and "?" not in path:
            return explicit(canonical, value.at, path)
    reason = why_unknown(value)
    seen = value.seen if isinstance(value, Unknown) else ()
    options = list(dict.fromkeys(str(option)[:40] for option in seen))
    if options:
        reason = f"{reason}; it may be {' or '.join(options)}"
    return unknown(reason[:300], value.at if value is not None else None)


def is_true(value: Value | None) -> bool:
    """Tell whether a value is constantly true, also as text of a flag."""
    return isinstance(value, Const) and value.value in (True, "true", "True", 1)


def is_none(value: Value | None) -> bool:
    """Tell whether there is no value, or a constant None."""
    return value is None or (isinstance(value, Const) and value.value is None)


def set_field(job: Job, name: str, value: Value | None) -> None:
    """Set a field of a job from a value where there is one, and note whether the command line may change it."""
    if value is None:
        return
    job.set(name, field_of(name, value, job.file))
    job.cli_overridable = job.cli_overridable or value.cli


def objects_in(value: Value | None, deep: int = 6) -> list[Object]:
    """Return the objects that a value is made from, itself first: arguments, owners, elements."""
    if deep <= 0 or value is None:
        return []
    if isinstance(value, Object):
        inner: list[Value | None] = [*value.args, *value.kwargs.values(), value.owner]
        return [value, *(each for part in inner for each in objects_in(part, deep - 1))]
    if isinstance(value, Sequence):
        return [each for part in value.elements[:20] for each in objects_in(part, deep - 1)]
    if isinstance(value, Items):
        return [each for part in list(value.items.values())[:20] for each in objects_in(part, deep - 1)]
    if isinstance(value, External) and value.owner is not None:
        return objects_in(value.owner, deep - 1)
    return []
