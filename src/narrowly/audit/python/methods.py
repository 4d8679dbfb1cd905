"""Methods of constants, dictionaries and lists."""

from __future__ import annotations

from narrowly.audit.python.machine import REST, Machine, items_of
from narrowly.audit.python.operators import LONGEST_TEXT
from narrowly.audit.python.values import (
    Const,
    Items,
    Object,
    Sequence,
    Unknown,
    Value,
    known,
    merge,
    plain,
    unknown_from,
)  # fmt: skip

_TEXT_METHODS = frozenset(
    "lower upper strip lstrip rstrip split rsplit replace startswith endswith title capitalize removeprefix "
    "removesuffix "
    "format join casefold isdigit find count".split()
)
_MAPPINGS = ("dict", "OrderedDict", "EasyDict", "Namespace", "SimpleNamespace", "Munch", "DictConfig", "ConfigDict")


def text_method(text: Const, name: str, args: list[Value], kwargs: dict[str, Value], at: str) -> Value:
    """Return the result of a method of a constant string."""
    if not isinstance(text.value, str) or name not in _TEXT_METHODS:
        return Unknown(at, text.cli, f"result of .{name}()")
    parts = [*args, *kwargs.values()]
    if not all(known(part) for part in parts):
        return unknown_from(next(part for part in parts if not known(part)), at, text.cli)
    if name == "format" and ("__" in text.value or any(map(str.isdigit, text.value.partition(":")[2]))):
        return Unknown(at, text.cli, "a format that is not followed")
    try:
        result = getattr(text.value, name)(*map(plain, args), **{key: plain(value) for key, value in kwargs.items()})
    except Exception:
        return Unknown(at, text.cli, f".{name}() fails on these constants")
    cli = text.cli or any(part.cli for part in parts)
    if isinstance(result, list):
        return Sequence(at, cli, [Const(at, cli, part) for part in result])
    if isinstance(result, str) and len(result) > LONGEST_TEXT:
        return Unknown(at, cli, "a text too long")
    return Const(text.at or at, cli, result)


def put(machine: Machine, target: Items | Object, key: object, value: Value) -> None:
    """Set an item or attribute; under a branch that may not be taken the old value stays possible."""
    held = target.items if isinstance(target, Items) else target.attrs
    if machine.uncertain > target.depth:
        old = target.items.get(key) if isinstance(target, Items) else target.get(str(key))
        if old is not None:
            value = merge(old, value, "set in a branch that depends on something outside the source")
    if machine.cli and not value.cli and isinstance(value, Const):
        value = Const(value.at, True, value.value, value.environment)
    held[key] = value  # type: ignore[index]


def mapping_method(
    machine: Machine, target: Items, name: str, args: list[Value], kwargs: dict[str, Value], at: str
) -> Value:
    """Return the result of a method of a dictionary, and change the dictionary as the method does."""
    key = args[0].value if args and isinstance(args[0], Const) else None
    if name in ("get", "pop", "setdefault") and args:
        if not isinstance(args[0], Const):
            return unknown_from(args[0], at)
        fallback = args[1] if len(args) > 1 else kwargs.get("default", Const(at, False, None))
        found = target.items.get(key)
        if found is None:
            if target.rest:
                seen = (fallback.value,) if isinstance(fallback, Const) else ()
                return Unknown(at, target.cli, target.rest, seen)
            if name == "setdefault":
                put(machine, target, key, fallback)
            return fallback
        if name == "pop" and machine.uncertain <= target.depth:
            del target.items[key]
        return found
    if name in ("update", "merge_update"):
        for other in [*args, Items(at, False, dict(kwargs))]:
            _update(machine, target, other)
        return Const(at)
    if name in ("copy", "to_dict", "toDict", "model_dump", "dict"):
        return Items(at, target.cli, dict(target.items), target.rest)
    if name == "keys":
        return Sequence(at, target.cli, [Const(at, False, item) for item in target.items])
    if name == "values":
        return Sequence(at, target.cli, list(target.items.values()))
    if name == "items":
        pairs: list[Value] = [
            Sequence(at, False, [Const(at, False, item), value]) for item, value in target.items.items()
        ]
        return Sequence(at, target.cli, pairs)
    return Unknown(at, target.cli, f"result of .{name}()")


def _update(machine: Machine, target: Items, other: Value) -> None:
    found = items_of(other)
    if found is None:
        target.rest = unknown_from(other, other.at).reason
        return
    for key, value in found.items.items():
        if key == REST:
            target.rest = value.reason if isinstance(value, Unknown) else "further keys are not known"
        else:
            put(machine, target, key, value)
    target.rest = target.rest or found.rest


def sequence_method(machine: Machine, target: Sequence, name: str, args: list[Value], at: str) -> Value:
    """Return the result of a method of a list, and change the list as the method does."""
    if name == "append" and args:
        target.elements.append(args[0])
        return Const(at)
    if name == "extend" and args and isinstance(args[0], Sequence):
        target.elements.extend(args[0].elements)
        return Const(at)
    if name == "copy":
        return Sequence(at, target.cli, list(target.elements))
    if name == "index" and args and known(args[0]):
        for position, element in enumerate(target.elements):
            if known(element) and plain(element) == plain(args[0]):
                return Const(at, False, position)
    return Unknown(at, target.cli, f"result of .{name}()")


def is_mapping_type(path: str) -> bool:
    """Tell whether a dotted path is a type of mapping or namespace that keyword arguments fill."""
    return path.rsplit(".", 1)[-1] in _MAPPINGS
