"""What the parts of the evaluator need of each other: evaluate, call, run a block, read a sibling file."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, Protocol

from narrowly.audit.python.values import Class, Function, Imported, Items, Module, Object, Scope, Value


@dataclass(slots=True)
class Loop:
    """A `for` loop: the names it binds, how often it runs, and where it stands."""

    target: str
    count: Value
    at: str
    order: int
    function: str


@dataclass(slots=True)
class Trace:
    """What a script does as far as its source tells: objects made and functions called, in order."""

    objects: list[Object] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    classes: list[Class] = field(default_factory=list)
    imports: dict[str, str] = field(default_factory=dict)
    """Imported modules by dotted path, with the place of the import."""
    incomplete: str | None = None
    """Why parts were not followed, where that is so."""


@dataclass(slots=True)
class CommandLine:
    """Flags that a shell script gives: name without dashes -> (text or None for a switch, place)."""

    flags: dict[str, tuple[str | list[str] | None, str]] = field(default_factory=dict)
    positional: list[tuple[str, str]] = field(default_factory=list)
    overrides: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Words `key=value`, as Hydra takes them."""


class Machine(Protocol):
    """The evaluator as its parts see it."""

    trace: Trace
    command_line: CommandLine | None
    environment: dict[str, tuple[str, str]]
    uncertain: int
    """Number of branches around that may or may not be taken."""
    cli: int
    """Number of branches around that the command line decides."""

    def evaluate(self, node: ast.expr, scope: Scope) -> Value:
        """Return the value of an expression."""
        ...

    def block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; return True where control leaves the block."""
        ...

    def call(self, called: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope) -> Value:
        """Return the value of a call."""
        ...

    def make(self, path: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope) -> Object:
        """Return a new object in the trace."""
        ...

    def load(self, name: str, scope: Scope, level: int = 0) -> Module | None:
        """Return the sibling module of that dotted name, or None where it is not among the files read."""
        ...

    def resolve(self, name: str, imported: Imported, scope: Scope) -> Value:
        """Return what an imported name is, and bind it: a value of a sibling module, else a name from outside."""
        ...

    def read_tree(self, path: str, scope: Scope) -> Value | None:
        """Return the content of a YAML, JSON or TOML file beside the script, or None where it is not there."""
        ...

    def composed(
        self, folder: str, name: str, scope: Scope, overrides: dict[str, tuple[str, str]] | None = None
    ) -> Items | None:
        """Return the config that Hydra composes for a script, or None where it is not among the files read."""
        ...

    def instantiate(
        self, kind: Class, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
    ) -> Object:
        """Return an instance of a class of the script."""
        ...

    def inline(
        self,
        function: Function,
        args: list[Value],
        kwargs: dict[str, Value],
        node: ast.AST,
        scope: Scope,
        rest: str | None = None,
    ) -> Value:
        """Return what a function of the script returns for these arguments."""
        ...


REST = "**"
"""Key under which a call's keyword arguments hold a mapping that is not wholly known."""


def constant_text(value: Value | None) -> str | None:
    """Return the text of a constant string or of a path made from constants."""
    found: Any = getattr(value, "value", None)
    if isinstance(found, str):
        return found
    if isinstance(value, Object) and value.path.rsplit(".", 1)[-1] in ("Path", "PurePath", "open") and value.args:
        return constant_text(value.args[0])
    return None


def items_of(value: Value | None) -> Items | None:
    """Return the mapping in a value: a dictionary, or the fields of an object as `vars` would give them."""
    if isinstance(value, Items):
        return value
    if isinstance(value, Object):
        return Items(value.at, value.cli, {**value.kwargs, **value.attrs}, value.rest)
    return None
