"""Classes of a script: their fields with defaults (dataclass, pydantic, attrs, NamedTuple) and their instances."""

from __future__ import annotations

import ast

from narrowly.audit.python.machine import REST, Machine
from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Function,
    Items,
    Object,
    Scope,
    Sequence,
    Unknown,
    Value,
)

_FIELD_CALLS = ("field", "Field", "ib", "attrib", "HfArg", "PrivateAttr", "arg", "ArgumentField")
_RECORD_BASES = ("BaseModel", "NamedTuple", "BaseSettings", "TypedDict", "FlexibleArgumentModel")


def define(machine: Machine, node: ast.ClassDef, scope: Scope) -> Class:
    """Return the class of a definition: bases, fields and methods."""
    kind = Class(at=scope.at(node), name=node.name, node=node, scope=scope)
    kind.bases = [machine.evaluate(base, scope) for base in node.bases]
    inner = Scope(parent=scope)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            kind.methods[statement.name] = Function(
                at=scope.at(statement), node=statement, scope=scope, owner_class=kind
            )
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            kind.annotated.append(name)
            if statement.value is not None:
                kind.fields[name] = field_default(machine, statement.value, inner)
                inner.names[name] = kind.fields[name]
            elif (nested := _record_class(machine, statement.annotation, scope)) is not None:
                kind.fields[name] = Unknown(scope.at(statement), False, f"field {name} of {nested.name} has no default")
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    kind.fields[target.id] = field_default(machine, statement.value, inner)
                    inner.names[target.id] = kind.fields[target.id]
        elif isinstance(statement, ast.ClassDef):
            kind.fields[statement.name] = inner.names[statement.name] = define(machine, statement, inner)
    machine.trace.classes.append(kind)
    return kind


def _record_class(machine: Machine, annotation: ast.expr, scope: Scope) -> Class | None:
    if not isinstance(annotation, ast.Name):
        return None
    found = scope.find(annotation.id)
    return found if isinstance(found, Class) and is_record(found) else None


def field_default(machine: Machine, node: ast.expr, scope: Scope) -> Value:
    """Return the default in `field(default=...)`, `default_factory=` or `Field(...)`, else the value itself."""
    if not isinstance(node, ast.Call):
        return machine.evaluate(node, scope)
    called = ast.unparse(node.func).rsplit(".", 1)[-1]
    if called not in _FIELD_CALLS:
        return machine.evaluate(node, scope)
    words = {word.arg: word.value for word in node.keywords}
    for name in ("default", "factory", "default_factory"):
        if name in words:
            value = machine.evaluate(words[name], scope)
            return value if name == "default" else machine.call(value, [], {}, node, scope)
    if called in ("Field", "ib", "attrib") and node.args:
        value = machine.evaluate(node.args[0], scope)
        if not (isinstance(value, Const) and value.value is Ellipsis):
            return value
    return Unknown(scope.at(node), False, "a field without a default")


def is_record(kind: Class) -> bool:
    """Tell whether instances are made from fields: dataclass, pydantic model, attrs class, NamedTuple."""
    for each in kind.lineage():
        decorators = " ".join(ast.unparse(decorator) for decorator in each.node.decorator_list)
        if any(word in decorators for word in ("dataclass", "define", "attr.s", "attrs", "chz", "frozen")):
            return True
    outside = kind.outside()
    return any(path.rsplit(".", 1)[-1] in _RECORD_BASES for path in outside) or any(
        path.endswith(("TrainingArguments", "Config")) for path in outside
    )


def fields_in_order(kind: Class) -> list[str]:
    """Return the annotated fields of the lineage, as a dataclass orders them."""
    names: dict[str, None] = {}
    for each in reversed(kind.lineage()):
        names.update(dict.fromkeys(each.annotated))
    return list(names)


def new_instance(
    machine: Machine, kind: Class, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
) -> Object:
    """Return an instance: fields from defaults and arguments, then `__init__` or `__post_init__` of the script."""
    made = machine.make(kind.name, args, kwargs, node, scope)
    made.kind = kind
    made.path = next((path for path in kind.outside() if path[:1] != "?"), kind.name)
    initialise = kind.method("__init__")
    if initialise is None:
        order = fields_in_order(kind)
        rest = kwargs.pop(REST, None)
        made.rest = rest.reason if isinstance(rest, Unknown) else None
        for name in order:
            value = kind.attribute(name)
            if value is not None:
                made.attrs[name] = value
            elif is_record(kind) and not kind.outside():
                made.attrs[name] = Unknown(kind.at, False, f"field {name} of {kind.name} has no default")
        made.attrs.update(zip(order, args, strict=False))
        made.attrs.update(kwargs)
        if made.rest and is_record(kind):
            for name in order:
                if name not in kwargs:
                    made.attrs[name] = Unknown(made.at, made.cli, made.rest)
        after = kind.method("__post_init__") or kind.method("model_post_init")
        if after is not None:
            machine.inline(Function(after.at, False, after.node, after.scope, made, None, kind), [], {}, node, scope)
    else:
        rest = kwargs.get(REST)
        made.rest = rest.reason if isinstance(rest, Unknown) else None
        bound = Function(initialise.at, False, initialise.node, initialise.scope, made, None, initialise.owner_class)
        machine.inline(bound, args, dict(kwargs), node, scope, made.rest)
        made.kwargs = {name: value for name, value in kwargs.items() if name != REST} | {
            name: value for name, value in made.kwargs.items() if name != REST
        }
    return made


def from_command_line(machine: Machine, kind: Value, node: ast.AST, scope: Scope) -> Value:
    """Return what a parser of the command line makes of a class: all defaults, each of which a flag may change."""
    if isinstance(kind, Class):
        made = machine.instantiate(kind, [], {}, node, scope)
    elif isinstance(kind, External):
        made = machine.make(kind.path, [], {}, node, scope)
    else:
        return Unknown(scope.at(node), True, "class of the arguments is not known")
    made.cli = True
    made.at = kind.at or made.at
    made.attrs = {name: overridable(value) for name, value in made.attrs.items()}
    apply_flags(machine, made, fields_in_order(kind) if isinstance(kind, Class) else None)
    return made


def overridable(value: Value) -> Value:
    """Return the value marked as one that the command line may change."""
    if isinstance(value, Const):
        return Const(value.at, True, value.value, value.environment)
    if isinstance(value, Unknown):
        return Unknown(value.at, True, value.reason, value.seen)
    if isinstance(value, Items):
        return Items(value.at, True, value.items, value.rest, value.depth)
    if isinstance(value, Sequence):
        return Sequence(value.at, True, value.elements, value.depth)
    if isinstance(value, Object):
        value.cli = True
    return value


def apply_flags(machine: Machine, made: Object, own: list[str] | None) -> None:
    """Set attributes from the flags of a shell script; an outside class takes every flag."""
    if machine.command_line is None:
        return
    outside = own is None or (made.kind is not None and bool(made.kind.outside()))
    for name, (text, at) in machine.command_line.flags.items():
        key = name.replace("-", "_")
        if outside or key in (own or ()):
            made.attrs[key] = flag_value(text, at, made.attrs.get(key))


def flag_value(text: str | list[str] | None, at: str, like: Value | None = None) -> Value:
    """Return the value of a flag's text: a number or switch where it reads as one and no text was expected."""
    if text is None:
        return Const(at, False, True)
    if isinstance(text, list):
        return Sequence(at, False, [flag_value(part, at) for part in text])
    expected = like.value if isinstance(like, Const) else None
    if isinstance(expected, str):
        return Const(at, False, text)
    if text.lower() in ("true", "false"):
        return Const(at, False, text.lower() == "true")
    for convert in (int, float):
        try:
            return Const(at, False, convert(text))
        except (ValueError, OverflowError):
            continue
    return Const(at, False, text)
