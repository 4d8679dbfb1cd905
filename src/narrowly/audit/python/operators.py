"""Operators on constants: arithmetic, comparison, truth and text, with limits on size."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Function,
    Items,
    Module,
    Object,
    Sequence,
    Unknown,
    Value,
    known,
    plain,
    unknown_from,
)  # fmt: skip

LONGEST_TEXT = 20_000
LARGEST_EXPONENT = 400
IN_A_LOOP = "another value in every round of a loop"

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda one, other: one is other or (isinstance(one, bool) and one == other),
    ast.IsNot: lambda one, other: not (one is other or (isinstance(one, bool) and one == other)),
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}


def truth(value: Value) -> bool | None:
    """Return the truth of a value, or None where the source does not tell."""
    if isinstance(value, Const):
        return bool(value.value)
    if isinstance(value, Items):
        return True if value.items else None if value.rest else False
    if isinstance(value, Sequence):
        return bool(value.elements)
    if isinstance(value, Class | Function | Module):
        return True
    if isinstance(value, Object) and value.path.rsplit(".", 1)[-1][:1].isupper():
        return True
    if isinstance(value, External) and not value.reason and value.owner is None and _class_like(value.path):
        return True
    return None


def _class_like(path: str) -> bool:
    return path.rsplit(".", 1)[-1][:1].isupper() and "?" not in path


def _too_large(kind: type[ast.operator], one: Any, other: Any) -> bool:
    sizes = [len(part) if isinstance(part, str | bytes | list | tuple) else None for part in (one, other)]
    if kind is ast.Pow:
        return not all(isinstance(part, int | float) and abs(part) < 1e6 for part in (one, other)) or (
            abs(other) > LARGEST_EXPONENT
        )
    if kind is ast.LShift:
        return not isinstance(other, int) or other > 64
    if kind is ast.Mult and any(size is not None for size in sizes):
        count = one if isinstance(one, int) else other
        return not isinstance(count, int) or (sizes[0] or sizes[1] or 0) * count > LONGEST_TEXT
    if kind is ast.Mod and isinstance(one, str):
        return "*" in one or any(character.isdigit() for character in one)
    numbers = [part for part in (one, other) if isinstance(part, int)]
    return any(abs(part) > 10**40 for part in numbers) or any((size or 0) > LONGEST_TEXT for size in sizes)


def binary(kind: type[ast.operator], one: Value, other: Value, at: str) -> Value:
    """Return the value of `one kind other`."""
    cli = one.cli or other.cli
    if kind is ast.BitOr and isinstance(one, Items) and isinstance(other, Items):
        return Items(at, cli, {**one.items, **other.items}, one.rest or other.rest)
    if kind is ast.Add and isinstance(one, Sequence) and isinstance(other, Sequence):
        return Sequence(at, cli, [*one.elements, *other.elements])
    if kind is ast.Div and isinstance(one, Object) and one.path.endswith("Path") and isinstance(other, Const):
        first = one.args[0].value if one.args and isinstance(one.args[0], Const) else None
        if isinstance(first, str) and isinstance(other.value, str):
            return Object(at, cli, one.path, [Const(at, cli, f"{first}/{other.value}")])
    if kind is ast.Mult:
        for known_part, factor in ((one, other), (other, one)):
            if isinstance(known_part, Const) and isinstance(factor, Unknown) and IN_A_LOOP in factor.reason:
                return Unknown(known_part.at or at, cli, factor.reason, (), known_part.value)
    if not (isinstance(one, Const) and isinstance(other, Const)) or kind not in _BINARY:
        return unknown_from(other if isinstance(one, Const) else one, at, cli)
    if _too_large(kind, one.value, other.value):
        return Unknown(at, cli, "a result too large to work out")
    try:
        return Const(at, cli, _BINARY[kind](one.value, other.value))
    except (TypeError, ValueError, ArithmeticError):
        return Unknown(at, cli, "an operation that fails on these constants")


def unary(kind: type[ast.unaryop], value: Value, at: str) -> Value:
    """Return the value of a unary operator."""
    if kind is ast.Not:
        found = truth(value)
        return unknown_from(value, at, value.cli) if found is None else Const(value.at, value.cli, not found)
    if isinstance(value, Const) and isinstance(value.value, int | float):
        if kind is not ast.Invert:
            return Const(value.at, value.cli, -value.value if kind is ast.USub else +value.value)
        if isinstance(value.value, int):
            return Const(value.at, value.cli, ~value.value)
    return unknown_from(value, at, value.cli)


def _is_none(value: Value) -> bool | None:
    if isinstance(value, Const):
        return value.value is None
    if isinstance(value, Items | Sequence | Class | Function | Module):
        return False
    if isinstance(value, External) and value.owner is None and not value.reason and "?" not in value.path:
        return False
    if isinstance(value, Object) and (value.kind is not None or value.path.rsplit(".", 1)[-1][:1].isupper()):
        return False
    return None


def compare(kind: type[ast.cmpop], one: Value, other: Value, at: str) -> Value:
    """Return the value of one comparison."""
    cli = one.cli or other.cli
    if kind in (ast.Is, ast.IsNot, ast.Eq, ast.NotEq):
        for left, right in ((one, other), (other, one)):
            if isinstance(right, Const) and right.value is None and (found := _is_none(left)) is not None:
                return Const(at, cli, found if kind in (ast.Is, ast.Eq) else not found)
    if kind in (ast.In, ast.NotIn) and isinstance(other, Items) and isinstance(one, Const):
        inside = one.value in other.items
        if inside or other.rest is None:
            return Const(at, cli, inside if kind is ast.In else not inside)
    if known(one) and known(other):
        try:
            return Const(at, cli, bool(_COMPARE[kind](plain(one), plain(other))))
        except (TypeError, ValueError):
            return Unknown(at, cli, "a comparison that fails on these constants")
    if (
        isinstance(one, External)
        and isinstance(other, External)
        and kind in (ast.Eq, ast.Is)
        and one.path == other.path
    ):
        return Const(at, cli, True)
    return unknown_from(other if known(one) else one, at, cli)


def formatted(parts: list[Value], formats: list[str], at: str) -> Value:
    """Return the text of an f-string whose parts are constants."""
    texts = []
    for part, form in zip(parts, formats, strict=True):
        if not isinstance(part, Const) or sum(map(str.isdigit, form)) > 3:
            return unknown_from(part, at, part.cli)
        try:
            texts.append(format(part.value, form))
        except (TypeError, ValueError):
            return Unknown(at, part.cli, "a format that fails on this constant")
    return Const(at, any(part.cli for part in parts), "".join(texts)[:LONGEST_TEXT])
