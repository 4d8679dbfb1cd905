"""Command-line parsers of a script: argparse options, and classes that a parser fills (HfArgumentParser, tyro ...)."""

from __future__ import annotations

import ast

from narrowly.audit.python.classes import flag_value, from_command_line, overridable
from narrowly.audit.python.machine import Machine
from narrowly.audit.python.values import (
    Class,
    Const,
    External,
    Items,
    Object,
    Scope,
    Sequence,
    Unknown,
    Value,
    known,
    plain,
)  # fmt: skip

OPTIONS = "(options)"
PARSED = "(parsed)"
_GROUPS = ("add_argument_group", "add_mutually_exclusive_group", "add_parser", "add_subparsers")
_CLASS_PARSERS = ("HfArgumentParser", "TrlParser", "H4ArgumentParser", "ArgumentParserPlus")
_CONVERT = {"float": float, "int": int, "str": str}


def is_parser(value: Value | None) -> bool:
    """Tell whether a value is a parser of the command line."""
    return isinstance(value, Object) and value.path.rsplit(".", 1)[-1].endswith(
        ("ArgumentParser", "TrlParser", "ArgParser")
    )


def parser_method(machine: Machine, parser: Object, name: str, args: list[Value], kwargs: dict[str, Value],
                  node: ast.AST, scope: Scope) -> Value | None:  # fmt: skip
    """Return the result of a parser's method, or None where it is none that matters here."""
    options = parser.attrs.setdefault(OPTIONS, Items())
    assert isinstance(options, Items)
    if name in _GROUPS:
        return parser
    if name in ("add_argument", "add", "add_arg"):
        _add(options, args, kwargs, scope.at(node))
        return Const(scope.at(node))
    if name in ("add_arguments", "add_class_arguments") and args:
        destination = args[1] if len(args) > 1 else kwargs.get("dest")
        if isinstance(destination, Const):
            options.items[destination.value] = from_command_line(machine, args[0], node, scope)
        return Const(scope.at(node))
    if name == "set_defaults":
        options.items.update({key: overridable(value) for key, value in kwargs.items()})
        return Const(scope.at(node))
    if name == "parse" or name.startswith("parse_"):
        return _parsed(machine, parser, name, args, kwargs, node, scope)
    return None


def _add(options: Items, args: list[Value], kwargs: dict[str, Value], at: str) -> None:
    names = [arg.value for arg in args if isinstance(arg, Const) and isinstance(arg.value, str)]
    given = kwargs.get("dest")
    if not names and not isinstance(given, Const):
        return
    long = next((name for name in names if name.startswith("--")), names[0] if names else "")
    key = given.value if isinstance(given, Const) else long.lstrip("-").replace("-", "_")
    action = kwargs.get("action")
    action_name = action.value if isinstance(action, Const) else ""
    value: Value
    if "default" in kwargs:
        value = _converted(kwargs["default"], kwargs.get("type"))
    elif action_name in ("store_true", "store_false"):
        value = Const(at, True, action_name == "store_false")
    elif not long.startswith("-"):
        value = Unknown(at, True, f"argument {key} is required on the command line")
    elif isinstance(required := kwargs.get("required"), Const) and required.value:
        value = Unknown(at, True, f"--{key} is required on the command line")
    else:
        value = Const(at, True, None)
    options.items[key] = overridable(value)
    options.items[key].at = value.at or at


def _converted(value: Value, kind: Value | None) -> Value:
    """Return a default as argparse gives it: only text is converted by `type`."""
    if isinstance(value, Const) and isinstance(value.value, str) and isinstance(kind, External):
        convert = _CONVERT.get(kind.path)
        if convert is not None:
            try:
                return Const(value.at, True, convert(value.value))
            except ValueError:
                return Unknown(value.at, True, f"default {value.value[:40]!r} is not of type {kind.path}")
    return value


def _classes(parser: Object) -> list[Value]:
    first = parser.get("dataclass_types", 0)
    return list(first.elements) if isinstance(first, Sequence) else [first] if first is not None else []


def _parsed(machine: Machine, parser: Object, name: str, args: list[Value], kwargs: dict[str, Value],
            node: ast.AST, scope: Scope) -> Value:  # fmt: skip
    if PARSED in parser.attrs:
        return _shaped(parser.attrs[PARSED], name, kwargs)
    if parser.path.rsplit(".", 1)[-1] in _CLASS_PARSERS or _classes(parser):
        made: list[Value] = []
        for kind in _classes(parser):
            if isinstance(kind, Class | External):
                made.append(from_command_line(machine, kind, node, scope))
        content = args[0] if args else None
        if isinstance(content, Items) and name == "parse_dict":
            _from_mapping(made, content)
        elif name in ("parse_json_file", "parse_yaml_file") and content is not None:
            read = machine.read_tree(str(plain(content)), scope) if known(content) else None
            if isinstance(read, Items):
                _from_mapping(made, read)
        parser.attrs[PARSED] = Sequence(scope.at(node), True, made)
        return _shaped(parser.attrs[PARSED], name, kwargs)
    options = parser.attrs[OPTIONS]
    assert isinstance(options, Items)
    space = machine.make("argparse.Namespace", [], {}, node, scope)
    space.cli = True
    space.attrs = dict(options.items)
    if machine.command_line is not None:
        for flag, (text, at) in machine.command_line.flags.items():
            key = _full_name(flag.replace("-", "_"), space.attrs)
            if key in space.attrs:
                space.attrs[key] = flag_value(text, at, space.attrs[key])
    parser.attrs[PARSED] = space
    return _shaped(space, name, kwargs)


def _full_name(key: str, options: dict[str, Value]) -> str:
    """Return the option that a flag abbreviates, as argparse allows where only one begins so."""
    begun = [name for name in options if name.startswith(key)]
    return begun[0] if key not in options and len(begun) == 1 else key


def _shaped(parsed: Value, name: str, kwargs: dict[str, Value]) -> Value:
    if name == "parse_known_args":
        return Sequence(parsed.at, True, [parsed, Sequence(parsed.at, True)])
    if isinstance(parsed, Sequence) and (name == "parse_args_and_config" or "return_remaining_strings" in kwargs):
        return Sequence(parsed.at, True, [*parsed.elements, Sequence(parsed.at, True)])
    return parsed


def _from_mapping(made: list[Value], content: Items) -> None:
    for target in made:
        if isinstance(target, Object):
            outside = target.kind is None or bool(target.kind.outside())
            target.attrs.update({key: value for key, value in content.items.items() if outside or key in target.attrs})
