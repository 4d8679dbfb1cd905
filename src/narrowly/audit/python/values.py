"""Values of the static evaluator: what an expression of a script is known to be, and where that stands.

Nothing here executes code. A value is a constant, a container of values, a name from outside, an object made by calling
one, a function or class of the script, or unknown with its reason.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

_NO_ARGUMENTS = ast.arguments([], [], None, [], [], None, [])


@dataclass(slots=True, eq=False)
class Scope:
    """Names of a module, class or function, and the scope around it."""

    names: dict[str, Value] = field(default_factory=dict)
    parent: Scope | None = None
    file: str = ""
    """Path of the file as shown."""
    lines: tuple[str, ...] = ()
    """Shown places of the lines of a notebook; empty for a script, whose lines are its own."""
    outer: set[str] = field(default_factory=set)
    """Names declared `global` or `nonlocal`."""
    stars: list[str] = field(default_factory=list)
    """Modules from which everything is imported and that are not in the files read."""

    def find(self, name: str) -> Value | None:
        """Return the value of a name here or in a scope around."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def module(self) -> Scope:
        """Return the scope of the module."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    def at(self, node: ast.AST | None) -> str:
        """Return `file:line` of a node; for a notebook `file:cell/line`."""
        line = getattr(node, "lineno", 1)
        module = self.module()
        return f"{module.file}:{module.lines[line - 1] if 0 < line <= len(module.lines) else line}"


@dataclass(slots=True)
class Value:
    """Hold where a value stands (`file:line` or None) and whether the command line may change it."""

    at: str | None = None
    cli: bool = False


@dataclass(slots=True)
class Const(Value):
    """A number, string, boolean, None, bytes or tuple of them."""

    value: Any = None
    environment: str | None = None
    """Name of the environment variable that may change it."""


@dataclass(slots=True)
class Unknown(Value):
    """A value that the source alone does not tell; `seen` are constants it may take."""

    reason: str = "not a constant"
    seen: tuple[Any, ...] = ()
    base: Any = None
    """A constant that is multiplied by something that changes in the course of a loop; of a text, what is known."""


@dataclass(slots=True)
class Items(Value):
    """A dictionary with constant keys; `rest` says why further keys may exist."""

    items: dict[Any, Value] = field(default_factory=dict)
    rest: str | None = None
    depth: int = 0


@dataclass(slots=True)
class Sequence(Value):
    """A list, tuple or set."""

    elements: list[Value] = field(default_factory=list)
    depth: int = 0


@dataclass(slots=True)
class External(Value):
    """A name from outside the script, by its dotted path, such as `torch.optim.AdamW`."""

    path: str = ""
    owner: Object | None = None
    """The object it was read from, where it is an attribute of one."""
    reason: str = ""
    """Why the object before the dot is unknown, where it is."""


@dataclass(slots=True)
class Imported(External):
    """A name that an import binds; the module is looked for beside the script when the name is first used."""

    module: str = ""
    name: str = ""
    """What is taken from the module; empty for the module itself."""
    level: int = 0
    home: Scope | None = None


@dataclass(slots=True, eq=False)
class Object(Value):
    """The result of a call of an outside name or of a class of the script."""

    path: str = ""
    args: list[Value] = field(default_factory=list)
    kwargs: dict[str, Value] = field(default_factory=dict)
    rest: str | None = None
    """Why further keyword arguments may exist."""
    attrs: dict[str, Value] = field(default_factory=dict)
    kind: Class | None = None
    owner: Object | None = None
    """The object whose method was called."""
    node: ast.AST | None = None
    depth: int = 0
    order: int = 0
    certain: bool = True
    line: int = 1
    """Line of the script itself from which it is made, also where the call stands in a sibling."""
    choices: tuple[str, ...] = ()
    """Names of the classes of which one is called, where a condition decides."""
    inside: tuple[ast.AST, ...] = ()
    """Functions in whose course it is made, outermost first."""

    def get(self, name: str, position: int | None = None) -> Value | None:
        """Return an attribute set later, a keyword argument or the positional argument at `position`."""
        if name in self.attrs:
            return self.attrs[name]
        if name in self.kwargs:
            return self.kwargs[name]
        if position is not None and position < len(self.args):
            return self.args[position]
        return None


@dataclass(slots=True, eq=False)
class Function(Value):
    """A function of the script, with the scope it closes over."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda = field(
        default_factory=lambda: ast.Lambda(args=_NO_ARGUMENTS, body=ast.Constant(None))
    )
    scope: Scope | None = None
    bound: Value | None = None
    given: tuple[list[Value], dict[str, Value]] | None = None
    """Arguments that functools.partial holds."""
    owner_class: Class | None = None


@dataclass(slots=True, eq=False)
class Class(Value):
    """A class of the script."""

    name: str = ""
    node: ast.ClassDef = field(default_factory=lambda: ast.ClassDef("", [], [], [], []))
    scope: Scope | None = None
    bases: list[Value] = field(default_factory=list)
    fields: dict[str, Value] = field(default_factory=dict)
    """Class attributes, among them the defaults of a dataclass or pydantic model."""
    annotated: list[str] = field(default_factory=list)
    methods: dict[str, Function] = field(default_factory=dict)

    def lineage(self) -> list[Class]:
        """Return this class and its bases in the script, nearest first."""
        found: list[Class] = [self]
        for base in self.bases:
            if isinstance(base, Class):
                found += [kind for kind in base.lineage() if kind not in found]
        return found

    def outside(self) -> list[str]:
        """Return the dotted paths of the outside bases of the whole lineage."""
        return [base.path for kind in self.lineage() for base in kind.bases if isinstance(base, External)]

    def method(self, name: str) -> Function | None:
        """Return the nearest method of that name."""
        return next((kind.methods[name] for kind in self.lineage() if name in kind.methods), None)

    def attribute(self, name: str) -> Value | None:
        """Return the nearest class attribute of that name."""
        return next((kind.fields[name] for kind in self.lineage() if name in kind.fields), None)


@dataclass(slots=True, eq=False)
class Module(Value):
    """A sibling file that was imported."""

    scope: Scope | None = None


def plain(value: Value | None) -> Any:
    """Return the Python constant of a value, with containers; raise LookupError where any part is unknown."""
    if isinstance(value, Const):
        return value.value
    if isinstance(value, Sequence):
        return [plain(element) for element in value.elements]
    if isinstance(value, Items) and value.rest is None:
        return {key: plain(item) for key, item in value.items.items()}
    raise LookupError("not a constant")


def known(value: Value | None) -> bool:
    """Tell whether a value is constant in all its parts."""
    try:
        plain(value)
    except LookupError:
        return False
    return True


def why_unknown(value: Value | None) -> str:
    """Return the reason why a value is not a constant."""
    if isinstance(value, Unknown):
        return value.reason
    if isinstance(value, Object):
        return f"result of {value.path}"
    if isinstance(value, External):
        return value.reason or f"{value.path} is not in the files read"
    if isinstance(value, Sequence | Items):
        parts = value.elements if isinstance(value, Sequence) else list(value.items.values())
        reason = next((why_unknown(part) for part in parts if not known(part)), None)
        return reason or (value.rest if isinstance(value, Items) and value.rest else "not a constant")
    return "not a constant"


def merge(first: Value | None, second: Value | None, reason: str) -> Value:
    """Return what is known of a value that is one of two.

    Equal constants stay known. Two different ones are unknown, with both in `seen`.
    """
    if first is second and first is not None:
        return first
    if first is None or second is None:
        kept = first if first is not None else second
        assert kept is not None
        return kept
    if known(first) and known(second):
        one, two = plain(first), plain(second)
        if one == two and type(one) is type(two):
            return first
    if isinstance(first, Object | Class | Function | External) and isinstance(second, Const) and second.value is None:
        return first
    if isinstance(second, Object | Class | Function | External) and isinstance(first, Const) and first.value is None:
        return second
    if isinstance(first, Object) and isinstance(second, Object):
        return _either(first, second, reason)
    if isinstance(first, Items) and isinstance(second, Items):
        made = Items(second.at, first.cli or second.cli, {}, first.rest or second.rest, min(first.depth, second.depth))
        _merge_into(made.items, first.items, second.items, reason)
        return made
    seen = tuple(option for value in (first, second) for option in _options(value))
    inner = next((value.reason for value in (first, second) if isinstance(value, Unknown)), None)
    return Unknown(second.at or first.at, first.cli or second.cli, inner if inner and not seen else reason, seen)


def _options(value: Value) -> tuple[Any, ...]:
    if isinstance(value, Const):
        return (value.value,)
    if isinstance(value, External) and "?" not in value.path:
        return (value.path,)
    if isinstance(value, Class):
        return (value.name,)
    return value.seen if isinstance(value, Unknown) else ()


def _either(first: Object, second: Object, reason: str) -> Object:
    """Return one object for two: of one kind with merged arguments, else one that holds both."""
    if first.path != second.path or first.kind is not second.kind:
        return Object(second.at, first.cli or second.cli, "(either)", [first, second], rest=reason, order=second.order)
    made = Object(
        second.at, first.cli or second.cli, second.path, kind=second.kind, node=second.node, order=second.order
    )
    made.rest, made.owner = first.rest or second.rest, second.owner
    made.args = [merge(one, other, reason) for one, other in zip(first.args, second.args, strict=False)]
    made.line, made.inside = second.line, second.inside
    _merge_into(made.kwargs, first.kwargs, second.kwargs, reason)
    _merge_into(made.attrs, first.attrs, second.attrs, reason)
    return made


def _merge_into(held: dict[Any, Value], one: dict[Any, Value], other: dict[Any, Value], reason: str) -> None:
    for name in {**one, **other}:
        if name in one and name in other:
            held[name] = one[name] if one[name] is other[name] else merge(one[name], other[name], reason)
        else:
            given = one[name] if name in one else other[name]
            seen = (given.value,) if isinstance(given, Const) else ()
            held[name] = Unknown(given.at, given.cli, reason, seen)


def unknown_from(value: Value | None, at: str | None, cli: bool = False) -> Unknown:
    """Return an unknown that carries the reason and the marks of the value it comes from."""
    reason = why_unknown(value)
    return Unknown(at, cli or bool(value and value.cli), reason)
