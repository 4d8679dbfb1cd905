"""Run statements in order; of branches that may or may not be taken both are run and merged."""

from __future__ import annotations

import ast
from collections.abc import Callable

from narrowly.audit.python.classes import define
from narrowly.audit.python.hydra_calls import hydra_config
from narrowly.audit.python.machine import Loop, Machine
from narrowly.audit.python.methods import put
from narrowly.audit.python.operators import IN_A_LOOP, binary, truth
from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Function,
    Imported,
    Items,
    Module,
    Object,
    Scope,
    Sequence,
    Unknown,
    Value,
    merge,
    unknown_from,
)  # fmt: skip

MOST_ROUNDS = 8
RETURNED = "(returned)"


def _branch_reason(test: ast.expr) -> str:
    """Return why a branch is uncertain; kept with the node, because functions are followed several times."""
    kept = vars(test).get("branch_reason")
    if kept is None:
        kept = "depends on a condition that the source does not tell"
        if sum(1 for _ in ast.walk(test)) <= 40:
            kept = f"depends on {ast.unparse(test)[:80]}, which the source does not tell"
        vars(test)["branch_reason"] = kept
    return str(kept)


def assign(machine: Machine, target: ast.expr, value: Value, scope: Scope) -> None:
    """Bind a value to a name, an attribute, an item or several of them."""
    if isinstance(target, ast.Name):
        home = scope.module() if target.id in scope.outer else scope
        if machine.cli and isinstance(value, Const) and not value.cli and scope.find(target.id) is not None:
            value = Const(value.at, True, value.value, value.environment)
        home.names[target.id] = value
    elif isinstance(target, ast.Starred):
        assign(machine, target.value, Sequence(value.at, False, []), scope)
    elif isinstance(target, ast.Tuple | ast.List):
        _unpack(machine, target, value, scope)
    elif isinstance(target, ast.Attribute):
        owner = machine.evaluate(target.value, scope)
        if isinstance(owner, Object | Items):
            put(machine, owner, target.attr, value)
        elif isinstance(owner, Module) and owner.scope is not None:
            owner.scope.names[target.attr] = value
    elif isinstance(target, ast.Subscript):
        owner = machine.evaluate(target.value, scope)
        key = machine.evaluate(target.slice, scope)
        if (
            isinstance(owner, External)
            and owner.path == "os.environ"
            and isinstance(key, Const)
            and isinstance(value, Const)
        ):
            machine.environment[str(key.value)] = (str(value.value), value.at or scope.at(target))
        elif isinstance(owner, Items | Object) and isinstance(key, Const):
            put(machine, owner, key.value, value)
        elif isinstance(owner, Items):
            owner.rest = "an item set under a key that is not a constant"


def _unpack(machine: Machine, target: ast.Tuple | ast.List, value: Value, scope: Scope) -> None:
    for position, part in enumerate(target.elts):
        if isinstance(value, Sequence):
            found = value.elements[position] if position < len(value.elements) else unknown_from(value, value.at)
        elif isinstance(value, Object):
            found = Object(value.at, value.cli, f"{value.path}[{position}]", owner=value, depth=machine.uncertain)
        else:
            found = unknown_from(value, value.at, value.cli)
        assign(machine, part, found, scope)


def _assign(machine: Machine, node: ast.Assign, scope: Scope) -> bool:
    value = machine.evaluate(node.value, scope)
    for target in node.targets:
        assign(machine, target, value, scope)
    return False


def _annotated(machine: Machine, node: ast.AnnAssign, scope: Scope) -> bool:
    if node.value is not None:
        assign(machine, node.target, machine.evaluate(node.value, scope), scope)
    return False


def _augmented(machine: Machine, node: ast.AugAssign, scope: Scope) -> bool:
    old = machine.evaluate(node.target, scope)
    value = machine.evaluate(node.value, scope)
    assign(machine, node.target, binary(type(node.op), old, value, scope.at(node)), scope)
    return False


def _expression(machine: Machine, node: ast.Expr, scope: Scope) -> bool:
    if isinstance(node.value, ast.Constant):
        return False
    if isinstance(node.value, ast.Yield):
        if node.value.value is not None:
            machine.evaluate(node.value.value, scope)
        return False
    machine.evaluate(node.value, scope)
    if not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in ("exit", "quit", "_exit")


def _if(machine: Machine, node: ast.If, scope: Scope) -> bool:
    test = machine.evaluate(node.test, scope)
    found = truth(test)
    if found is not None and _gives_up(node.body if found else node.orelse):
        found = not found  # a run that trains does not end here
    if found is not None:
        machine.cli += test.cli
        stopped = machine.block(node.body if found else node.orelse, scope)
        machine.cli -= test.cli
        return stopped
    return _either(machine, node.body, node.orelse, _branch_reason(node.test), scope)


def _gives_up(body: list[ast.stmt]) -> bool:
    """Tell whether a branch ends in an error for the user: `raise`, `parser.error(...)`."""
    last = body[-1] if body else None
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        return isinstance(last.value.func, ast.Attribute) and last.value.func.attr == "error"
    return isinstance(last, ast.Raise)


def _either(machine: Machine, body: list[ast.stmt], other: list[ast.stmt], reason: str, scope: Scope) -> bool:
    before = dict(scope.names)
    machine.uncertain += 1
    first_stops = machine.block(body, scope)
    after_first = scope.names
    scope.names = dict(before)
    second_stops = machine.block(other, scope)
    machine.uncertain -= 1
    after_second = scope.names
    returned = [names[RETURNED] for names in (after_first, after_second) if RETURNED in names]
    if (first_stops and second_stops) or first_stops:
        scope.names = after_second
    elif second_stops:
        scope.names = after_first
    else:
        scope.names = {
            name: merge(after_first.get(name), after_second.get(name), reason)
            for name in {**after_first, **after_second}
        }
    if returned:
        scope.names[RETURNED] = merge(returned[0], returned[-1], reason)
    return first_stops and second_stops


def _for(machine: Machine, node: ast.For | ast.AsyncFor, scope: Scope) -> bool:
    source = machine.evaluate(node.iter, scope)
    target = ast.unparse(node.target)[:80]
    function = scope.names.get("(function)")
    name = function.value if isinstance(function, Const) else ""
    machine.trace.loops.append(
        Loop(target, _count(source, scope.at(node)), scope.at(node), len(machine.trace.objects), name)
    )
    rounds = list(source.elements) if isinstance(source, Sequence) else []
    if rounds and len(rounds) <= MOST_ROUNDS:
        for element in rounds:
            assign(machine, node.target, element, scope)
            if machine.block(node.body, scope):
                break
    else:
        at = scope.at(node)
        assign(machine, node.target, Unknown(at, source.cli, f"{target} takes {IN_A_LOOP}"), scope)
        machine.block(node.body, scope)
    machine.block(node.orelse, scope)
    return False


def _count(source: Value, at: str) -> Value:
    """Return how often a loop over this runs: `range(n)`, `range(a, n)`, `tqdm(range(n))`, a list."""
    if isinstance(source, Sequence):
        return Const(source.at, source.cli, len(source.elements))
    if isinstance(source, Object) and source.path.rsplit(".", 1)[-1] in ("range", "trange"):
        if len(source.args) == 1:
            return source.args[0]
        if len(source.args) >= 2:
            return binary(ast.Sub, source.args[1], source.args[0], at)
    if (
        isinstance(source, Object)
        and source.args
        and source.path.rsplit(".", 1)[-1] in ("tqdm", "track", "enumerate", "islice")
    ):
        return _count(source.args[-1] if source.path.endswith("islice") else source.args[0], at)
    return unknown_from(source, at)


def _while(machine: Machine, node: ast.While, scope: Scope) -> bool:
    test = machine.evaluate(node.test, scope)
    if truth(test) is not False:
        machine.trace.loops.append(
            Loop("while", Unknown(scope.at(node)), scope.at(node), len(machine.trace.objects), "")
        )
        machine.block(node.body, scope)
    return False


def _with(machine: Machine, node: ast.With | ast.AsyncWith, scope: Scope) -> bool:
    for item in node.items:
        value = machine.evaluate(item.context_expr, scope)
        if item.optional_vars is not None:
            assign(machine, item.optional_vars, value, scope)
    return machine.block(node.body, scope)


def _try(machine: Machine, node: ast.Try | ast.TryStar, scope: Scope) -> bool:
    stopped = machine.block(node.body, scope)
    for handler in node.handlers:
        known_names = dict(scope.names)
        machine.uncertain += 1
        machine.block(handler.body, scope)
        machine.uncertain -= 1
        scope.names = {**scope.names, **known_names}
    if not stopped:
        stopped = machine.block(node.orelse, scope)
    return machine.block(node.finalbody, scope) or stopped


def _match(machine: Machine, node: ast.Match, scope: Scope) -> bool:
    subject = machine.evaluate(node.subject, scope)
    for case in node.cases:
        if isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None:
            return machine.block(case.body, scope)
        options = case.pattern.patterns if isinstance(case.pattern, ast.MatchOr) else [case.pattern]
        values = [machine.evaluate(each.value, scope) for each in options if isinstance(each, ast.MatchValue)]
        if (
            isinstance(subject, Const)
            and len(values) == len(options)
            and all(isinstance(each, Const) for each in values)
        ):
            if any(isinstance(each, Const) and each.value == subject.value for each in values):
                machine.cli += subject.cli
                stopped = machine.block(case.body, scope)
                machine.cli -= subject.cli
                return stopped
            continue
        _either(machine, case.body, [], "depends on a match that the source does not tell", scope)
    return False


def _define(machine: Machine, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> bool:
    made = Function(scope.at(node), node=node, scope=scope)
    config = hydra_config(machine, node, scope) if node.decorator_list else None
    if config is not None:
        made.given = ([config], {})
    scope.names[node.name] = made
    return False


def _class(machine: Machine, node: ast.ClassDef, scope: Scope) -> bool:
    scope.names[node.name] = define(machine, node, scope)
    return False


def _return(machine: Machine, node: ast.Return, scope: Scope) -> bool:
    value = machine.evaluate(node.value, scope) if node.value is not None else Const(scope.at(node))
    old = scope.names.get(RETURNED)
    scope.names[RETURNED] = value if old is None else merge(old, value, "one of several returned values")
    return True


def _import(machine: Machine, node: ast.Import, scope: Scope) -> bool:
    at = scope.at(node)
    for alias in node.names:
        machine.trace.imports.setdefault(alias.name, at)
        if alias.asname or "." not in alias.name:
            scope.names[alias.asname or alias.name] = Imported(
                at, False, alias.name, None, "", alias.name, "", 0, scope
            )
        else:
            first = alias.name.split(".")[0]
            scope.names.setdefault(first, External(at, False, first))
    return False


def _import_from(machine: Machine, node: ast.ImportFrom, scope: Scope) -> bool:
    module, at = node.module or "", scope.at(node)
    machine.trace.imports.setdefault(module, at)
    for alias in node.names:
        machine.trace.imports.setdefault(f"{module}.{alias.name}", at)
        if alias.name == "*":
            found = machine.load(module, scope, node.level)
            if found is not None and found.scope is not None:
                public = {name: value for name, value in found.scope.names.items() if name[:1] not in "_("}
                scope.names.update(public)
            else:
                scope.module().stars.append(module)
            continue
        if scope.module().lines and isinstance(scope.names.get(alias.asname or alias.name), Function | Class):
            continue  # a cell of this notebook writes that module
        path = f"{module}.{alias.name}" if module else alias.name
        bound = Imported(at, False, path, None, "", module, alias.name, node.level, scope)
        scope.names[alias.asname or alias.name] = bound
    return False


def _outer(machine: Machine, node: ast.Global | ast.Nonlocal, scope: Scope) -> bool:
    if isinstance(node, ast.Global):
        scope.outer.update(node.names)
    return False


def _delete(machine: Machine, node: ast.Delete, scope: Scope) -> bool:
    for target in node.targets:
        if isinstance(target, ast.Subscript):
            owner, key = machine.evaluate(target.value, scope), machine.evaluate(target.slice, scope)
            if isinstance(owner, Items) and isinstance(key, Const) and machine.uncertain <= owner.depth:
                owner.items.pop(key.value, None)
    return False


def _leave(machine: Machine, node: ast.stmt, scope: Scope) -> bool:
    return True


RUN: dict[type[ast.stmt], Callable[..., bool]] = {
    ast.Assign: _assign, ast.AnnAssign: _annotated, ast.AugAssign: _augmented, ast.Expr: _expression, ast.If: _if,
    ast.For: _for, ast.AsyncFor: _for, ast.While: _while, ast.With: _with, ast.AsyncWith: _with, ast.Try: _try,
    ast.TryStar: _try, ast.Match: _match, ast.FunctionDef: _define, ast.AsyncFunctionDef: _define, ast.ClassDef: _class,
    ast.Return: _return, ast.Raise: _leave, ast.Continue: _leave, ast.Break: _leave, ast.Import: _import,
    ast.ImportFrom: _import_from, ast.Global: _outer, ast.Nonlocal: _outer, ast.Delete: _delete,
}  # fmt: skip
"""How each kind of statement runs; any other does nothing. True: control leaves the block."""
