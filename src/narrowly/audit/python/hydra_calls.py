"""Follow Hydra: the config that `@hydra.main` hands to a function, and the classes that `instantiate` makes from it."""

from __future__ import annotations

import ast

from narrowly.audit.python.machine import Machine, constant_text
from narrowly.audit.python.values import Class, Const, External, Function, Items, Object, Scope, Sequence, Value

_INITIALIZE = ("hydra.initialize", "hydra.experimental.initialize")
COMPOSE = ("hydra.compose", "hydra.experimental.compose")
_INSTANTIATE = ("hydra.utils.instantiate", "hydra.utils.call", "hydra_zen.instantiate")


def hydra_config(machine: Machine, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> Items | None:
    """Return the config that a decorator `@hydra.main(config_path=, config_name=)` composes, None without one."""
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call):
            continue
        called = machine.evaluate(decorator.func, scope)
        if not isinstance(called, External) or called.path != "hydra.main":
            continue
        given = dict(zip(("config_path", "config_name"), decorator.args, strict=False))
        given |= {word.arg: word.value for word in decorator.keywords if word.arg}
        said = {key: machine.evaluate(value, scope) for key, value in given.items()}
        name = _flag(machine, "config-name", "cn") or constant_text(said.get("config_name"))
        below = _flag(machine, "config-path", "cp") or constant_text(said.get("config_path")) or ""
        beside = _flag(machine, "config-dir", "cd")
        if name:
            found = machine.composed(below, name, scope)
            return found if found is not None or beside is None else machine.composed(beside, name, scope)
    return None


def _flag(machine: Machine, *names: str) -> str | None:
    """Return the text of one of Hydra's own flags."""
    given = machine.command_line.flags if machine.command_line is not None else {}
    for name in names:
        text = (given.get(name) or given.get(name.replace("-", "_")) or (None, ""))[0]
        if isinstance(text, str):
            return text
    return None


def composed_by_hand(machine: Machine, args: list[Value], kwargs: dict[str, Value], scope: Scope) -> Value | None:
    """Return the config of `compose(config_name, overrides=[...])` below the folder of the last `initialize`."""
    given = dict(zip(("config_name", "overrides"), args, strict=False)) | kwargs
    name, listed = constant_text(given.get("config_name")), given.get("overrides")
    begun = next((made for made in reversed(machine.trace.objects) if made.path in _INITIALIZE), None)
    folder = constant_text(begun.get("config_path", 0)) if begun is not None else None
    if not name or folder is None:
        return None
    overrides: dict[str, tuple[str, str]] = {}
    for one in listed.elements if isinstance(listed, Sequence) else ():
        text = constant_text(one)
        if text is None:
            return None
        key, _, value = text.partition("=")
        overrides[key] = (value, one.at or "")
    return machine.composed(folder, name, scope, overrides)


def is_instantiate(path: str) -> bool:
    """Tell whether a call makes an object from a config."""
    return path in _INSTANTIATE


def instantiated(
    machine: Machine, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope, depth: int = 0
) -> Value | None:
    """Return what `instantiate(config, ...)` makes: the object of `_target_`, or a partial of it; None if unknown."""
    config = args[0] if args else None
    target = config.items.get("_target_") if isinstance(config, Items) else None
    if not isinstance(config, Items) or not isinstance(target, Const) or not isinstance(target.value, str) or depth > 4:
        return None
    inner: dict[str, Value] = {}
    for key, value in config.items.items():
        if not str(key).startswith("_"):
            inner[str(key)] = instantiated(machine, [value], {}, node, scope, depth + 1) or value
    inner |= {key: value for key, value in kwargs.items() if not key.startswith("_")}
    called = _target(machine, target, scope)
    partial = kwargs.get("_partial_") or config.items.get("_partial_")
    listed = config.items.get("_args_")
    positional = [*(listed.elements if isinstance(listed, Sequence) else []), *args[1:]]
    if isinstance(partial, Const) and partial.value is True:
        return Object(target.at, True, "functools.partial", [called, *positional], inner)
    return machine.call(called, positional, inner, node, scope)


def _target(machine: Machine, target: Const, scope: Scope) -> Value:
    """Return the class that a dotted path names: of a module beside the script, else from outside."""
    module, _, name = str(target.value).rpartition(".")
    loaded = machine.load(module, scope) if module else None
    found = loaded.scope.names.get(name) if loaded is not None and loaded.scope is not None else None
    return found if isinstance(found, Class | Function) else External(target.at, True, str(target.value))
