"""Calls: functions of the script are followed, outside names give objects, parsers and containers do what they do."""

from __future__ import annotations

import ast

from narrowly.audit.python.argparse_parser import is_parser, parser_method
from narrowly.audit.python.argument_setters import set_by_method
from narrowly.audit.python.classes import from_command_line, is_record
from narrowly.audit.python.machine import REST, Machine
from narrowly.audit.python.methods import mapping_method, sequence_method, text_method
from narrowly.audit.python.outside import outside_call
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
    why_unknown,
)  # fmt: skip

_PREPARE = (
    "prepare",
    "setup",
    "initialize",
    "prepare_model",
    "to",
    "cuda",
    "train",
    "eval",
    "float",
    "half",
    "bfloat16",
)
_COMMANDS = ("command", "option", "argument", "main", "wrap", "app", "hydra", "entrypoint", "local_entrypoint")


def evaluated_arguments(machine: Machine, node: ast.Call, scope: Scope) -> tuple[list[Value], dict[str, Value]]:
    """Return the arguments of a call; mappings after `**` are spread, an unknown one stands under `REST`."""
    args: list[Value] = []
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            value = machine.evaluate(argument.value, scope)
            args += value.elements if isinstance(value, Sequence) else []
        else:
            args.append(machine.evaluate(argument, scope))
    kwargs: dict[str, Value] = {}
    for word in node.keywords:
        value = machine.evaluate(word.value, scope)
        if word.arg is not None:
            kwargs[word.arg] = value
            continue
        if isinstance(value, Items):
            kwargs.update({str(key): item for key, item in value.items.items()})
            if value.rest:
                kwargs[REST] = Unknown(scope.at(node), value.cli, value.rest)
        else:
            kwargs[REST] = Unknown(scope.at(node), value.cli, f"further arguments: {why_unknown(value)}")
    return args, kwargs


def attribute(machine: Machine, target: Value, name: str, node: ast.AST, scope: Scope) -> Value:
    """Return an attribute of a value."""
    at = scope.at(node)
    if isinstance(target, External):
        return External(at, target.cli, f"{target.path}.{name}", target.owner, target.reason)
    if isinstance(target, Module):
        found = target.scope.names.get(name) if target.scope is not None else None
        if isinstance(found, Imported) and target.scope is not None:
            return machine.resolve(name, found, target.scope)
        return found if found is not None else Unknown(at, False, f"{name} is not defined in that module")
    if isinstance(target, Class):
        found = target.attribute(name) or target.method(name)
        return found if found is not None else External(at, False, f"{target.name}.{name}")
    if isinstance(target, Items):
        found = target.items.get(name)
        if found is not None:
            return found
        return External(at, target.cli, f"?.{name}", None, target.rest or f"no key {name} in the settings read")
    if isinstance(target, Object):
        return _object_attribute(machine, target, name, node, scope)
    reason = why_unknown(target) if isinstance(target, Unknown) else f"attribute {name}"
    return External(at, target.cli, f"?.{name}", None, reason)


def _object_attribute(machine: Machine, target: Object, name: str, node: ast.AST, scope: Scope) -> Value:
    trainer = target.kind is not None and any(path.endswith("Trainer") for path in target.kind.outside())
    found = target.get(name, {"model": 0, "args": 1}.get(name) if trainer else None)
    if found is not None:
        return found
    if target.kind is not None:
        method = target.kind.method(name)
        if method is not None:
            bound = Function(method.at, target.cli, method.node, method.scope, target, None, method.owner_class)
            decorators = [ast.unparse(each) for each in getattr(method.node, "decorator_list", [])]
            if any("property" in each for each in decorators):
                return machine.inline(bound, [], {}, node, scope)
            return bound
        value = target.kind.attribute(name)
        if value is not None:
            return value
    if name == "args" and target.path == "argparse.Namespace":
        return target
    if target.path == "sys":
        return External(scope.at(node), False, f"sys.{name}")
    return External(scope.at(node), target.cli, f"{target.path}.{name}", target, target.rest or "")


def call_value(
    machine: Machine, called: Value, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
) -> Value:
    """Return the value of calling something."""
    at = scope.at(node)
    if isinstance(called, Function):
        if called.given is not None:
            args, kwargs = [*called.given[0], *args], {**called.given[1], **kwargs}
        rest = kwargs.get(REST)
        return machine.inline(called, args, kwargs, node, scope, rest.reason if isinstance(rest, Unknown) else None)
    if isinstance(called, Class):
        return machine.instantiate(called, args, kwargs, node, scope)
    if isinstance(called, Object) and called.path == "functools.partial" and called.args:
        return call_value(machine, called.args[0], [*called.args[1:], *args], {**called.kwargs, **kwargs}, node, scope)
    if isinstance(called, External):
        return _outside(machine, called, args, kwargs, node, scope)
    if isinstance(called, Unknown):
        machine.make("?()", args, kwargs, node, scope).choices = tuple(str(name) for name in called.seen)
        return Unknown(at, called.cli, called.reason)
    return machine.make(called.path + "()" if isinstance(called, Object) else "?()", args, kwargs, node, scope)


def _outside(
    machine: Machine, called: External, args: list[Value], kwargs: dict[str, Value], node: ast.AST, scope: Scope
) -> Value:
    name = called.path.rsplit(".", 1)[-1]
    owner, at = called.owner, scope.at(node)
    if is_parser(owner):
        assert owner is not None
        result = parser_method(machine, owner, name, args, kwargs, node, scope)
        if result is not None:
            return result
    if owner is not None and called.path == f"{owner.path}.{name}":
        if set_by_method(owner, name, args, kwargs, at):
            return owner
        result = _object_method(machine, owner, name, args, node, scope)
        if result is not None:
            return result
    if owner is None:
        result = outside_call(machine, called.path, args, kwargs, node, scope)
        if result is not None:
            return result
    made = machine.make(called.path, args, kwargs, node, scope)
    made.owner = owner
    if (
        called.path.endswith((".parse_args", ".parse_args_into_dataclasses"))
        and args[:1]
        and isinstance(args[0], Class)
    ):
        return from_command_line(machine, args[0], node, scope)
    if name in ("prepare", "initialize", "setup") and args and (owner is None or owner.kind is None):
        return args[0] if len(args) == 1 else Sequence(at_of(made), False, list(args))
    return made


def at_of(made: Object) -> str | None:
    """Return where an object was made."""
    return made.at


def _object_method(
    machine: Machine, owner: Object, name: str, args: list[Value], node: ast.AST, scope: Scope
) -> Value | None:
    if (
        name in ("to", "cuda", "train", "eval", "float", "half", "bfloat16", "requires_grad_", "cpu")
        and owner.path != "?()"
    ):
        machine.make(f"{owner.path}.{name}", args, {}, node, scope).owner = owner
        return owner
    if name in ("read_text", "open", "resolve", "absolute", "expanduser") and owner.path.endswith("Path"):
        return owner
    if name in ("to_dict", "model_dump", "__dict__", "dict", "_asdict") and (owner.attrs or owner.kwargs):
        return Items(scope.at(node), owner.cli, {**owner.kwargs, **owner.attrs}, owner.rest)
    if name == "save_hyperparameters":
        given = next((arg for arg in args if isinstance(arg, Object | Items)), None)
        named = {key: value for key, value in scope.names.items() if key != "self" and not key.startswith("(")}
        owner.attrs["hparams"] = given or Items(scope.at(node), False, named)
        return Const(scope.at(node))
    return None


def method_of_container(
    machine: Machine, target: Value, name: str, args: list[Value], kwargs: dict[str, Value], at: str
) -> Value | None:
    """Return the result of a method of a constant, dictionary or list; None for any other value."""
    if isinstance(target, Const):
        return text_method(target, name, args, kwargs, at)
    if isinstance(target, Items) and not isinstance(target.items.get(name), Function | Class | External):
        return mapping_method(machine, target, name, args, kwargs, at)
    if isinstance(target, Sequence):
        return sequence_method(machine, target, name, args, at)
    return None


def bind(
    machine: Machine, function: Function, args: list[Value], kwargs: dict[str, Value], scope: Scope, rest: str | None
) -> Scope:
    """Return the scope of a call: arguments, else defaults, else the command's options, else unknown."""
    node = function.node
    inner = Scope(parent=function.scope)
    home = function.scope or scope
    names = [*node.args.posonlyargs, *node.args.args]
    static = any(ast.unparse(each) == "staticmethod" for each in getattr(node, "decorator_list", []))
    given = [function.bound, *args] if function.bound is not None and not static else list(args)
    defaults = dict(
        zip([arg.arg for arg in names][len(names) - len(node.args.defaults) :], node.args.defaults, strict=True)
    )
    defaults |= {
        arg.arg: default for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default
    }
    options = _options(machine, node, home)
    command = bool(_command(node))
    left = dict(kwargs)
    left.pop(REST, None)
    for position, arg in enumerate([*names, *node.args.kwonlyargs]):
        if position < len(given) and position < len(names):
            value: Value | None = given[position]
        elif arg.arg in left:
            value = left.pop(arg.arg)
        elif rest:
            value = Unknown(home.at(arg), False, rest)
        elif arg.arg in options:
            value = options[arg.arg]
        elif arg.arg in defaults:
            value = _default(machine, defaults[arg.arg], home, command or machine.cli > 0)
        else:
            value = _from_annotation(machine, arg, home, command, getattr(node, "name", "lambda"))
        inner.names[arg.arg] = value if value is not None else Unknown(home.at(arg))
    if node.args.vararg:
        inner.names[node.args.vararg.arg] = Sequence(home.at(node), False, list(given[len(names) :]))
    if node.args.kwarg:
        for name, value in options.items():
            if name not in inner.names:
                left.setdefault(name, value)
        inner.names[node.args.kwarg.arg] = Items(home.at(node), False, left, rest)
    return inner


def _command(node: ast.AST) -> list[ast.expr]:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return [each for each in decorators if ast.unparse(each).split("(")[0].rsplit(".", 1)[-1] in _COMMANDS]


def _default(machine: Machine, node: ast.expr, scope: Scope, command: bool) -> Value:
    value = machine.evaluate(node, scope)
    if isinstance(value, Object) and value.path in ("typer.Option", "typer.Argument", "Option", "Argument"):
        first = value.get("default", 0)
        value = first if first is not None else Const(value.at, True, None)
        if isinstance(value, Const) and value.value is Ellipsis:
            value = Unknown(value.at, True, "required on the command line")
    if command and isinstance(value, Const):
        return Const(value.at, True, value.value, value.environment)
    return value


def _options(machine: Machine, node: ast.AST, scope: Scope) -> dict[str, Value]:
    """Return the defaults of `@click.option` decorators by parameter."""
    found: dict[str, Value] = {}
    for decorator in getattr(node, "decorator_list", []):
        if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func).rsplit(".", 1)[-1] not in (
            "option",
            "argument",
        ):
            continue
        args, kwargs = evaluated_arguments(machine, decorator, scope)
        names = [str(arg.value) for arg in args if isinstance(arg, Const)]
        plain_names = [name for name in names if not name.startswith("-")]
        long = next((name for name in names if name.startswith("--")), names[0] if names else "")
        key = (plain_names[0] if plain_names else long.lstrip("-").split("/")[0]).replace("-", "_")
        value = kwargs.get("default")
        if value is None:
            flag = kwargs.get("is_flag")
            value = Const(scope.at(decorator), True, False) if isinstance(flag, Const) and flag.value else Unknown(
                scope.at(decorator), True, f"--{key} has no default")  # fmt: skip
        found[key] = Const(value.at, True, value.value) if isinstance(value, Const) else value
    return found


def _from_annotation(machine: Machine, arg: ast.arg, scope: Scope, command: bool, function: str) -> Value:
    """Return an instance with defaults where a parameter is annotated with a class of settings of the script."""
    name = arg.annotation.id if isinstance(arg.annotation, ast.Name) else None
    if isinstance(arg.annotation, ast.Constant) and isinstance(arg.annotation.value, str):
        name = arg.annotation.value
    kind = scope.find(name) if name else None
    if isinstance(kind, Class) and is_record(kind):
        made = machine.instantiate(kind, [], {}, arg, scope)
        made.cli = made.cli or command
        return made
    return Unknown(
        scope.at(arg), command, f"argument {arg.arg} of {function}(), which is not called with a known value here"
    )
