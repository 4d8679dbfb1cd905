"""Evaluate expressions: constants, names, containers, operators, conditions, attributes, items and calls."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable

from narrowly.audit.python.calls import attribute, call_value, evaluated_arguments, method_of_container
from narrowly.audit.python.machine import Machine
from narrowly.audit.python.operators import binary, compare, formatted, truth, unary
from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Function,
    Imported,
    Items,
    Object,
    Scope,
    Sequence,
    Unknown,
    Value,
    known,
    merge,
    plain,
    unknown_from,
)  # fmt: skip

_BUILTINS = frozenset(dir(builtins))
MOST_ELEMENTS = 2_000


def _constant(machine: Machine, node: ast.Constant, scope: Scope) -> Value:
    return Const(scope.at(node), False, node.value)


def _name(machine: Machine, node: ast.Name, scope: Scope) -> Value:
    found = scope.find(node.id)
    if isinstance(found, Imported):
        return machine.resolve(node.id, found, scope)
    if found is not None:
        return found
    if node.id in _BUILTINS:
        return External(scope.at(node), False, node.id)
    stars = scope.module().stars
    if len(stars) == 1:
        return External(scope.at(node), False, f"{stars[0]}.{node.id}")
    reason = f"name {node.id} is not defined in the files read"
    return External(scope.at(node), False, f"?.{node.id}" if node.id[:1].islower() else node.id, None, reason)


def _attribute(machine: Machine, node: ast.Attribute, scope: Scope) -> Value:
    return attribute(machine, machine.evaluate(node.value, scope), node.attr, node, scope)


def _items(machine: Machine, node: ast.Dict, scope: Scope) -> Value:
    made = Items(scope.at(node), depth=machine.uncertain)
    for key_node, value_node in list(zip(node.keys, node.values, strict=True))[:MOST_ELEMENTS]:
        value = machine.evaluate(value_node, scope)
        if key_node is None:
            if isinstance(value, Items):
                made.items.update(value.items)
                made.rest = made.rest or value.rest
            else:
                made.rest = unknown_from(value, scope.at(value_node)).reason
            continue
        key = machine.evaluate(key_node, scope)
        if isinstance(key, Const) and isinstance(key.value, str | int | float | bool | None):
            made.items[key.value] = value
        else:
            made.rest = "a key that is not a constant"
    return made


def _sequence(machine: Machine, node: ast.List | ast.Tuple | ast.Set, scope: Scope) -> Value:
    made = Sequence(scope.at(node), depth=machine.uncertain)
    for element in node.elts[:MOST_ELEMENTS]:
        if isinstance(element, ast.Starred):
            value = machine.evaluate(element.value, scope)
            made.elements += value.elements if isinstance(value, Sequence) else [unknown_from(value, made.at)]
        else:
            made.elements.append(machine.evaluate(element, scope))
    return made


def _binary(machine: Machine, node: ast.BinOp, scope: Scope) -> Value:
    parts = machine.evaluate(node.left, scope), machine.evaluate(node.right, scope)
    return binary(type(node.op), *parts, scope.at(node))


def _unary(machine: Machine, node: ast.UnaryOp, scope: Scope) -> Value:
    return unary(type(node.op), machine.evaluate(node.operand, scope), scope.at(node))


def _boolean(machine: Machine, node: ast.BoolOp, scope: Scope) -> Value:
    wanted = isinstance(node.op, ast.Or)
    value: Value = Unknown(scope.at(node))
    pending: Value | None = None
    for part in node.values:
        value = machine.evaluate(part, scope)
        found = truth(value)
        if found is wanted:
            break
        if found is None:
            pending = value if pending is None else pending
    if pending is None:
        return value
    if truth(value) is wanted and isinstance(value, Const) and isinstance(value.value, bool):
        return value
    return pending if value is pending else merge(pending, value, "depends on something outside the source")


def _compare(machine: Machine, node: ast.Compare, scope: Scope) -> Value:
    left = machine.evaluate(node.left, scope)
    result: Value = Const(scope.at(node), False, True)
    for kind, right_node in zip(node.ops, node.comparators, strict=True):
        right = machine.evaluate(right_node, scope)
        result = compare(type(kind), left, right, scope.at(node))
        if truth(result) is not True:
            return result
        left = right
    return result


def _conditional(machine: Machine, node: ast.IfExp, scope: Scope) -> Value:
    test = machine.evaluate(node.test, scope)
    found = truth(test)
    if found is not None:
        value = machine.evaluate(node.body if found else node.orelse, scope)
        if test.cli and isinstance(value, Const):
            return Const(value.at, True, value.value, value.environment)
        return value
    machine.uncertain += 1
    first, second = machine.evaluate(node.body, scope), machine.evaluate(node.orelse, scope)
    machine.uncertain -= 1
    return merge(first, second, f"depends on {ast.unparse(node.test)[:80]}, which the source does not tell")


def _call(machine: Machine, node: ast.Call, scope: Scope) -> Value:
    if isinstance(node.func, ast.Attribute):
        before = node.func.value
        if isinstance(before, ast.Call) and isinstance(before.func, ast.Name) and before.func.id == "super":
            return _super_call(machine, node, scope)
        target = machine.evaluate(node.func.value, scope)
        args, kwargs = evaluated_arguments(machine, node, scope)
        result = method_of_container(machine, target, node.func.attr, args, kwargs, scope.at(node))
        if result is not None:
            return result
        called = attribute(machine, target, node.func.attr, node.func, scope)
        return call_value(machine, called, args, kwargs, node, scope)
    called = machine.evaluate(node.func, scope)
    args, kwargs = evaluated_arguments(machine, node, scope)
    if isinstance(called, External) and called.path == "locals":
        return Items(scope.at(node), False, dict(scope.names))
    if isinstance(called, External) and called.path == "globals":
        return Items(scope.at(node), False, dict(scope.module().names))
    return call_value(machine, called, args, kwargs, node, scope)


def _super_call(machine: Machine, node: ast.Call, scope: Scope) -> Value:
    """Return the result of a method of the base class: of the script's own, else `super().method` as an object."""
    assert isinstance(node.func, ast.Attribute)
    args, kwargs = evaluated_arguments(machine, node, scope)
    this = scope.find("self")
    owner = scope.find("(class)")
    kind = owner if owner is not None else this.kind if isinstance(this, Object) else None
    bases = kind.lineage()[1:] if isinstance(kind, Class) else []
    method = next((base.methods[node.func.attr] for base in bases if node.func.attr in base.methods), None)
    if method is not None and this is not None:
        bound = Function(method.at, False, method.node, method.scope, this, None, method.owner_class)
        return machine.inline(bound, args, kwargs, node, scope)
    if node.func.attr == "__init__" and isinstance(this, Object):
        this.kwargs = {**this.kwargs, **kwargs}
        this.args = this.args or args
        return Const(scope.at(node))
    made = machine.make(f"super().{node.func.attr}", args, kwargs, node, scope)
    made.owner = this if isinstance(this, Object) else None
    return made


def _subscript(machine: Machine, node: ast.Subscript, scope: Scope) -> Value:
    target = machine.evaluate(node.value, scope)
    at = scope.at(node)
    if isinstance(node.slice, ast.Slice):
        return target if isinstance(target, Sequence) else unknown_from(target, at)
    key = machine.evaluate(node.slice, scope)
    if isinstance(target, Items) and isinstance(key, Const):
        found = target.items.get(key.value) if not isinstance(key.value, list | dict) else None
        return found if found is not None else Unknown(at, target.cli, target.rest or f"no key {key.value!r} here")
    if isinstance(target, Items):
        return unknown_from(key, at, key.cli)
    if isinstance(target, Sequence) and isinstance(key, Const) and isinstance(key.value, int):
        if -len(target.elements) <= key.value < len(target.elements):
            return target.elements[key.value]
        return Unknown(at, target.cli, "an item that is not there")
    if isinstance(target, Const) and known(key):
        try:
            return Const(at, target.cli, target.value[plain(key)])
        except (TypeError, LookupError):
            return Unknown(at, target.cli, "an item that is not there")
    if isinstance(target, External) and target.path == "os.environ" and isinstance(key, Const):
        if key.value in machine.environment:
            text, place = machine.environment[key.value]
            return Const(place, False, text)
        return Unknown(at, False, f"environment variable {key.value} is not set here")
    if isinstance(target, Object) and isinstance(key, Const):
        found = target.get(str(key.value))
        if found is not None:
            return found
        return External(at, target.cli, f"{target.path}[{key.value}]", target)
    if isinstance(target, External) and target.path.startswith("sys.argv"):
        return Unknown(at, True, "an argument of the command line")
    return unknown_from(target, at, target.cli)


OPEN = "$NOT_KNOWN_HERE"
"""What stands in a text for a part that is not known."""


def _text(machine: Machine, node: ast.JoinedStr, scope: Scope) -> Value:
    parts: list[Value] = []
    formats: list[str] = []
    for piece in node.values:
        if isinstance(piece, ast.FormattedValue):
            parts.append(machine.evaluate(piece.value, scope))
            spec = machine.evaluate(piece.format_spec, scope) if piece.format_spec is not None else None
            formats.append(spec.value if isinstance(spec, Const) else "")
        else:
            parts.append(machine.evaluate(piece, scope))
            formats.append("")
    made = formatted(parts, formats, scope.at(node))
    if isinstance(made, Unknown) and len(parts) <= 200:  # a command line is read all the same
        texts = [str(part.value) if isinstance(part, Const) else OPEN for part in parts]
        made.base = "".join(texts)[:20_000]
    return made


_NO_CONSTANT = "a comprehension over something that is not a constant"


def _made_once(
    machine: Machine, generators: list[ast.comprehension], made: ast.expr, item: Unknown, scope: Scope
) -> Unknown:
    """Return an unknown item after following what is made of it once: a trainer or an optimiser may be."""
    inner = Scope(parent=scope)
    for generator in generators:
        _bind(generator.target, item, inner)
    machine.evaluate(made, inner)
    return item


def _comprehension(machine: Machine, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: Scope) -> Value:
    at = scope.at(node)
    source = machine.evaluate(node.generators[0].iter, scope)
    if len(node.generators) > 1 or not isinstance(source, Sequence) or len(source.elements) > 64:
        return _made_once(machine, node.generators, node.elt, Unknown(at, source.cli, _NO_CONSTANT), scope)
    made = Sequence(at, source.cli)
    for element in source.elements:
        inner = Scope(parent=scope)
        _bind(node.generators[0].target, element, inner)
        tests = [truth(machine.evaluate(test, inner)) for test in node.generators[0].ifs]
        if None in tests:
            return Unknown(at, source.cli, "a comprehension with a condition that the source does not tell")
        if all(tests):
            made.elements.append(machine.evaluate(node.elt, inner))
    return made


def _mapping_comprehension(machine: Machine, node: ast.DictComp, scope: Scope) -> Value:
    source = machine.evaluate(node.generators[0].iter, scope)
    at = scope.at(node)
    made = Items(at, source.cli)
    if len(node.generators) > 1 or not isinstance(source, Sequence) or len(source.elements) > 64:
        _made_once(machine, node.generators, node.value, Unknown(at, source.cli, _NO_CONSTANT), scope)
        return Items(at, source.cli, {}, _NO_CONSTANT)
    for element in source.elements:
        inner = Scope(parent=scope)
        _bind(node.generators[0].target, element, inner)
        tests = [truth(machine.evaluate(test, inner)) for test in node.generators[0].ifs]
        key = machine.evaluate(node.key, inner)
        if None in tests or not isinstance(key, Const):
            made.rest = "a comprehension that is not followed"
        elif all(tests):
            made.items[key.value] = machine.evaluate(node.value, inner)
    return made


def _bind(target: ast.expr, value: Value, scope: Scope) -> None:
    if isinstance(target, ast.Name):
        scope.names[target.id] = value
    elif isinstance(target, ast.Tuple | ast.List):
        parts = value.elements if isinstance(value, Sequence) else []
        for position, part in enumerate(target.elts):
            _bind(part, parts[position] if position < len(parts) else unknown_from(value, value.at), scope)


def _lambda(machine: Machine, node: ast.Lambda, scope: Scope) -> Value:
    return Function(scope.at(node), node=node, scope=scope)


def _walrus(machine: Machine, node: ast.NamedExpr, scope: Scope) -> Value:
    value = machine.evaluate(node.value, scope)
    scope.names[node.target.id] = value
    return value


def _inner(machine: Machine, node: ast.Await | ast.Starred | ast.YieldFrom, scope: Scope) -> Value:
    return machine.evaluate(node.value, scope)


EVALUATE: dict[type[ast.expr], Callable[..., Value]] = {
    ast.Constant: _constant, ast.Name: _name, ast.Attribute: _attribute, ast.Dict: _items, ast.List: _sequence,
    ast.Tuple: _sequence, ast.Set: _sequence, ast.BinOp: _binary, ast.UnaryOp: _unary, ast.BoolOp: _boolean,
    ast.Compare: _compare, ast.IfExp: _conditional, ast.Call: _call, ast.Subscript: _subscript, ast.JoinedStr: _text,
    ast.ListComp: _comprehension, ast.GeneratorExp: _comprehension, ast.SetComp: _comprehension,
    ast.DictComp: _mapping_comprehension, ast.Lambda: _lambda, ast.NamedExpr: _walrus, ast.Await: _inner,
    ast.Starred: _inner, ast.YieldFrom: _inner,
}  # fmt: skip
"""How each kind of expression is evaluated; any other is unknown."""
