"""Read YAML or JSON files into mappings; dotted fields, merging, overrides of single values, and into a spec.

YAML is read by the rules of YAML 1.2 (`1e-3` is a number, `no` is text), a key given twice is an error, and
aliases may not blow a small file up into a large one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from narrowly.records.errors import SpecError
from narrowly.records.explain import field_paths, unknown_field
from narrowly.records.spec import validated

Model = TypeVar("Model", bound=BaseModel)

LARGEST_SPEC_BYTES = 1_000_000
LARGEST_SPEC_NODES = 100_000
TAGS = ("kind", "source")
"""Fields that choose between the members of a union; a changed tag replaces the whole mapping."""

ALTERNATIVES = {"steps": "epochs", "epochs": "steps"}
"""Fields that say the same thing in two ways: a later one takes the place of the other, as an override would."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema and without repeated keys."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.yaml_implicit_resolvers.setdefault("", []).extend(_Loader.yaml_implicit_resolvers.pop("\0", []))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    pairs = [(loader.construct_object(key, deep=True), value) for key, value in node.value]
    seen: set[Any] = set()
    for (name, _), (key, _) in zip(pairs, node.value, strict=True):
        if not isinstance(name, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, f"a key must be text, found {name!r}", key.start_mark)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is given twice", key.start_mark)
        seen.add(name)
    return {name: loader.construct_object(value, deep=True) for name, value in pairs}


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def _load(text: str, where: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{where}{place}: not valid YAML: {problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise SpecError(f"{where}: nested too deeply to be a spec") from None
    for count, _ in enumerate(_nodes(value)):
        if count > LARGEST_SPEC_NODES:
            raise SpecError(f"{where}: more than {LARGEST_SPEC_NODES} values once aliases are followed; not a spec")
    return value


def _nodes(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def read_mapping(path: Path, what: str = "spec") -> dict[str, Any]:
    """Read a YAML or JSON file whose top level is a mapping.

    Raises:
        SpecError: where the file is missing, a folder, unreadable, too large, not YAML, or not a mapping; it is named.
    """
    if path.is_dir():
        name = what.split()[-1]  # the folders of studies and runs keep it under the last word
        for inside in (path / f"{name}.yaml", path / f"{name}.json"):
            if inside.is_file():
                raise SpecError(f"{path} is a folder; did you mean its {what} file {inside}?")
        raise SpecError(f"{path} is a folder without {name}.yaml or {name}.json; accepted: a {what} file")
    try:
        size = path.stat().st_size
        if size > LARGEST_SPEC_BYTES:
            raise SpecError(f"{path}: {size} bytes; a {what} file has at most {LARGEST_SPEC_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read the {what} file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not UTF-8 text, so not a {what} file") from None
    value = _load(text, str(path))
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise SpecError(f"{path}: a {what} file is a mapping of fields, found {found}")
    return value


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """Split `a.b=value` into the dotted path and the value, read as YAML; `option` stands in messages.

    Raises:
        SpecError: where there is no `=`, no path, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or any(not part for part in path.strip().split(".")):
        raise SpecError(f"{option} {text!r}: accepted is a.b=value, for instance run.steps=40")
    return path.strip(), _load(value, f"{option} {text!r}")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which dotted keys are nested mappings: `{"a.b": 1}` becomes `{"a": {"b": 1}}`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        change: Any = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            change = {part: change}
        result = _merge(result, change)  # one mapping: both of two alternatives stay, and are refused later
    return result


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over` on top, field by field.

    Mappings are merged, everything else is replaced. A mapping whose tag (`kind`, `source`) changes is
    replaced whole, because the other fields belong to another member of the union. Of `steps` and `epochs` the one in
    `over` stays.
    """
    return _merge(under, over, ALTERNATIVES)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any], alternatives: Mapping[str, str] = {}) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            retagged = any(tag in value and tag in below and value[tag] != below[tag] for tag in TAGS)
            result[key] = dict(value) if retagged else _merge(below, value, alternatives)
        else:
            result[key] = value
            if value is not None and alternatives.get(key) not in over:
                result.pop(alternatives.get(key, ""), None)
    return result


def leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted path of a nested mapping with its value; an empty mapping is a leaf."""
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            yield from leaves(item, f"{path}.")
        else:
            yield path, item


MISSING = object()
"""What `lookup` returns where a path leads nowhere."""


def lookup(value: Any, path: str) -> Any:
    """Return the value at a dotted path of nested mappings, or `MISSING`."""
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def with_assignments(model: type[Model], raw: Mapping[str, Any], assignments: Iterable[str], source: str) -> Model:
    """Build a spec from a mapping and `a.b=value` overrides.

    Args:
        model: the spec's class.
        raw: field values; dotted keys are accepted.
        assignments: overrides, in order.
        source: where `raw` comes from, for the message.

    Raises:
        SpecError: one line: source, field path, value found, what is expected, nearest match.
    """
    merged = nested(dict(raw))
    for assignment in assignments:
        merged = apply_assignment(model, merged, assignment)
    spec: Model = validated(model, merged, source=source)
    return spec


def apply_assignment(model: type[BaseModel], merged: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """Return nested field values with one `a.b=value` override on top.

    Raises:
        SpecError: no such field, a value that is not YAML.
    """
    field, value = parse_override(assignment)
    fields = field_paths(model)
    if field not in fields:
        raise SpecError(f"--set {field}: {unknown_field(field, fields)}")
    return merge(merged, nested({field: value}))
