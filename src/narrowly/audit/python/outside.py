"""Calls of the standard library and of configuration packages whose result the source tells."""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Callable
from functools import lru_cache

from narrowly.audit.python.classes import from_command_line
from narrowly.audit.python.hydra_calls import COMPOSE, composed_by_hand, instantiated, is_instantiate
from narrowly.audit.python.machine import REST, Machine, constant_text, items_of
from narrowly.audit.python.methods import is_mapping_type
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
    known,
    plain,
    unknown_from,
)  # fmt: skip

_CONVERSIONS: dict[str, Callable[..., object]] = {
    "float": float, "int": int, "str": str, "bool": bool, "abs": abs, "round": round, "len": len, "min": min,
    "max": max,
    "sum": sum, "sorted": sorted,
    "list": list, "tuple": list, "set": list,
}  # fmt: skip
_READERS = ("json.load", "yaml.safe_load", "yaml.load", "yaml.full_load", "tomllib.load", "toml.load", "OmegaConf.load",
            "json.loads", "read_yaml", "load_yaml")  # fmt: skip
_DATACLASS_PARSERS = ("tyro.cli", "chz.entrypoint", "draccus.parse", "pyrallis.parse", "simple_parsing.parse",
"jsonargparse.CLI",
                      "chz.nested_entrypoint", "tyro.extras.overridable_config_cli")  # fmt: skip
_RUNNERS = ("fire.Fire", "typer.run", "asyncio.run", "tyro.cli", "jsonargparse.CLI", "accelerate.notebook_launcher",
            "torch.multiprocessing.spawn", "mp.spawn", "app.run", "absl.app.run", "chz.entrypoint", "defopt.run",
            "torch.multiprocessing.start_processes", "notebook_launcher")  # fmt: skip
_UNCHANGED = ("copy.copy", "copy.deepcopy", "deepcopy", "OmegaConf.to_container", "omegaconf.OmegaConf.to_container",
              "omegaconf.OmegaConf.create", "os.path.expanduser", "os.path.abspath", "os.path.realpath", "os.fspath",
              "tuple", "torch.compile", "deepspeed.add_config_arguments",
              "typing.cast", "argparse.Namespace", "torch.nn.DataParallel",
              "torch.nn.parallel.DistributedDataParallel", "DistributedDataParallel")  # fmt: skip


@lru_cache(8192)
def _ends(path: str, names: tuple[str, ...]) -> bool:
    last = path.rsplit(".", 1)[-1]
    return any(name.endswith(last) and (path == name or path.endswith("." + name)) for name in names)


def outside_call(
    machine: Machine, path: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
) -> Value | None:
    """Return the result of a call of an outside name, or None where it is nothing but an object."""
    at = scope.at(node)
    if path in ("os.environ.get", "os.getenv", "environ.get", "getenv"):
        return _environment(machine, args, kwargs, at)
    if path in _CONVERSIONS:
        return _converted(path, args, at)
    if path.endswith(("Namespace", "ConfigDict")) or is_mapping_type(path):
        return _mapping(args, kwargs, at)
    if path in ("vars", "asdict", "dataclasses.asdict") and args:
        return items_of(args[0]) or unknown_from(args[0], at)
    if path in ("getattr", "setattr", "hasattr"):
        return _attribute(machine, path, args, at)
    if path in ("functools.partial", "partial") and args:
        return _partial(args, kwargs, at)
    if path in ("dataclasses.replace", "replace") and args and isinstance(args[0], Object):
        return _replaced(machine, args[0], kwargs, node, scope)
    if path == "pytorch_optimizer.load_optimizer" and (named := constant_text(args[0]) if args else None):
        return External(at, args[0].cli, f"pytorch_optimizer.{named[:1].upper()}{named[1:]}")
    if _ends(path, _READERS):
        return _read(machine, args, at, scope)
    if path in COMPOSE:
        return composed_by_hand(machine, args, kwargs, scope)
    if is_instantiate(path):
        return instantiated(machine, args, kwargs, node, scope)
    if path in ("os.path.join", "posixpath.join"):
        texts = [constant_text(arg) for arg in args]
        if texts and all(text is not None for text in texts):
            return Const(at, False, posixpath.join(*(text for text in texts if text is not None)))
        return None
    if path in ("os.path.dirname", "os.path.basename") and args and (text := constant_text(args[0])) is not None:
        return Const(at, False, getattr(posixpath, path.rsplit(".", 1)[-1])(text))
    if path in ("SystemExit", "sys.exit", "exit", "quit"):
        return Unknown(at, False, "the program ends here")
    return _runner(machine, path, args, kwargs, node, scope)


def _runner(
    machine: Machine, path: str, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
) -> Value | None:
    first = args[0] if args else kwargs.get("main") or kwargs.get("fn")
    if _ends(path, _RUNNERS) and isinstance(first, Function):
        command = not path.endswith(("spawn", "notebook_launcher", "asyncio.run", "start_processes"))
        machine.cli += command
        given = []
        if path.endswith("notebook_launcher"):
            second = args[1] if len(args) > 1 else kwargs.get("args")
            given = second.elements if isinstance(second, Sequence) else []
        elif path.endswith("spawn"):
            second = kwargs.get("args")
            given = [Unknown(reason="rank of the process"), *(second.elements if isinstance(second, Sequence) else [])]
        result = machine.call(first, list(given), {}, node, scope)
        machine.cli -= command
        return result
    if _ends(path, _DATACLASS_PARSERS) and isinstance(first, Class | External):
        return from_command_line(machine, first, node, scope)
    if _ends(path, _UNCHANGED) and args:
        if isinstance(args[0], Items) and "copy" in path:
            return Items(args[0].at, args[0].cli, dict(args[0].items), args[0].rest, machine.uncertain)
        return args[0]
    return None


def _environment(machine: Machine, args: list[Value], kwargs: dict[str, Value], at: str) -> Value:
    name = constant_text(args[0]) if args else None
    fallback = args[1] if len(args) > 1 else kwargs.get("default")
    if name is not None and name in machine.environment:
        text, place = machine.environment[name]
        return Const(place, False, text)
    if fallback is None:
        return Unknown(at, False, f"environment variable {name or ''} has no default here".replace("  ", " "), (None,))
    if isinstance(fallback, Const):
        return Const(fallback.at or at, fallback.cli, fallback.value, name)
    return fallback


def _converted(path: str, args: list[Value], at: str) -> Value:
    if path in ("list", "tuple", "set") and args and isinstance(args[0], Sequence):
        return Sequence(args[0].at, args[0].cli, list(args[0].elements))
    if path == "len" and args and isinstance(args[0], Sequence):
        return Const(at, args[0].cli, len(args[0].elements))
    if not args:
        return Sequence(at) if path in ("list", "tuple", "set") else Const(at, False, _CONVERSIONS[path]()) if path in (
            "float", "int", "str", "bool") else Unknown(at, False, f"result of {path}")  # fmt: skip
    if not all(known(arg) for arg in args):
        return unknown_from(next(arg for arg in args if not known(arg)), at, any(arg.cli for arg in args))
    try:
        result = _CONVERSIONS[path](*map(plain, args))
    except Exception:
        return Unknown(at, args[0].cli, f"{path}() fails on this constant")
    cli = any(arg.cli for arg in args)
    if isinstance(result, list):
        return Sequence(at, cli, [Const(at, cli, part) for part in result])
    environment = next((arg.environment for arg in args if isinstance(arg, Const) and arg.environment), None)
    return Const(args[0].at or at, cli, result, environment)


def _mapping(args: list[Value], kwargs: dict[str, Value], at: str) -> Value:
    made = Items(at)
    for arg in args:
        found = items_of(arg)
        if found is not None:
            made.items.update(found.items)
            made.rest = made.rest or found.rest
        elif isinstance(arg, Sequence) and all(
            isinstance(pair, Sequence) and len(pair.elements) == 2 and isinstance(pair.elements[0], Const)
            for pair in arg.elements
        ):
            for pair in arg.elements:
                assert isinstance(pair, Sequence) and isinstance(pair.elements[0], Const)
                made.items[pair.elements[0].value] = pair.elements[1]
        else:
            made.rest = unknown_from(arg, at).reason
    rest = kwargs.get(REST)
    if isinstance(rest, Unknown):
        made.rest = rest.reason
    made.items.update({key: value for key, value in kwargs.items() if key != REST})
    return made


def _attribute(machine: Machine, path: str, args: list[Value], at: str) -> Value:
    if path == "getattr" and len(args) > 1 and isinstance(args[1], Const) and isinstance(args[1].value, str):
        target, name = args[0], args[1].value
        if isinstance(target, External):
            return External(at, args[1].cli, f"{target.path}.{name}", target.owner, target.reason)
        held = items_of(target)
        found = held.items.get(name) if held is not None else None
        if found is None and isinstance(target, Object) and target.kind is not None:
            found = target.kind.attribute(name) or target.kind.method(name)
        if found is not None:
            return found
        if len(args) > 2 and (held is None or held.rest is None):
            return args[2]
    if path == "setattr" and len(args) == 3 and isinstance(args[1], Const) and isinstance(args[0], Object):
        args[0].attrs[str(args[1].value)] = args[2]
        return Const(at)
    if path == "hasattr" and len(args) == 2 and isinstance(args[1], Const) and isinstance(args[0], Object | Items):
        held = items_of(args[0])
        if held is not None and args[1].value in held.items:
            return Const(at, False, True)
    return Unknown(at, False, f"result of {path}")


def _partial(args: list[Value], kwargs: dict[str, Value], at: str) -> Value:
    first = args[0]
    if isinstance(first, Function):
        return Function(at, first.cli, first.node, first.scope, first.bound, (args[1:], kwargs), first.owner_class)
    return Object(at, False, "functools.partial", args, kwargs)


def _replaced(machine: Machine, old: Object, kwargs: dict[str, Value], node: ast.AST, scope: Scope) -> Object:
    made = machine.make(old.path, old.args, {**old.kwargs, **kwargs}, node, scope)
    made.kind, made.cli, made.rest, made.attrs = old.kind, old.cli, old.rest, {**old.attrs, **kwargs}
    return made


def _read(machine: Machine, args: list[Value], at: str, scope: Scope) -> Value:
    name = constant_text(args[0]) if args else None
    if name is None:
        reason = unknown_from(args[0], at).reason if args else "no path"
        return Unknown(at, True, f"content of a file whose path is not known ({reason})")
    found = machine.read_tree(name, scope)
    return (
        found
        if found is not None
        else Unknown(at, False, f"content of {name[:120]}, which is not among the files read")
    )
