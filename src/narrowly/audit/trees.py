"""Read YAML, JSON and TOML as plain values with the line of every key; bounded, and nothing is constructed.

YAML is composed by libyaml where PyYAML has it, and turned into values here: no tag makes an object. Depth, number of
values and the expansion of aliases are bounded, so that a small file cannot take all memory.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import yaml

from narrowly.audit.record import Field, unknown
from narrowly.audit.values import typed_field

DEEPEST = 60
"""Levels of nesting that are read; settings of training have fewer than ten."""

MOST_VALUES = 100_000
"""Values of one document with its aliases expanded."""

MOST_DOCUMENTS = 20

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTERPOLATION = re.compile(r"\$\{([A-Za-z_][\w.\-]*)\}")
_ENVIRONMENT = re.compile(r"\$\{(?:oc\.decode:\$\{)?(?:oc\.)?env:\s*([A-Za-z_]\w*)\s*(?:,\s*([^{}]*?)\s*)?\}{1,2}")
_IN_A_ROW = re.compile(rf"^[ \t]*(?:(?:[-?:]|[!&]\S*)[ \t]+){{{DEEPEST}}}", re.MULTILINE)
_INDENTED = re.compile(rf"^ {{{5 * DEEPEST},}}[^ \n#]", re.MULTILINE)
_TAG = "tag:yaml.org,2002:"


class UnreadableError(ValueError):
    """A file is not what its name says, or is beyond the bounds; the message is the reason for a skip."""


class Found(NamedTuple):
    """Name a value of a document and its place."""

    value: Any
    line: int
    raw: Any


@dataclass(slots=True)
class Document:
    """Hold one document of YAML, JSON or TOML, or a section of it.

    Attributes:
        value: plain Python values: dict, list, str, int, float, bool, None.
        file: path as shown.
        lines: line of each key by its path of keys and indices from the root.
        raws: spelling of scalars that are another than their value, by path.
        path: where this section stands in the document; () for the whole.
        root: value of the whole document, for interpolations.
        made: its sections, once they were asked for.
    """

    value: Any
    file: str
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    raws: dict[tuple[str | int, ...], Any] = field(default_factory=dict)
    path: tuple[str | int, ...] = ()
    root: Any = None
    made: list[Document] | None = field(default=None, repr=False, compare=False)

    @property
    def line(self) -> int:
        """Return the line at which this section begins."""
        return self.lines.get(self.path, 1)

    def has(self, *keys: str) -> bool:
        """Say whether every dotted key is there, also where its value is null."""
        return all(self.get(key) is not None for key in keys)

    def get(self, *keys: str) -> Found | None:
        """Return the first dotted key that is there: `get("optimizer.lr", "lr")`; None where none is."""
        for key in keys:
            value, path = self.value, self.path
            for part in key.split("."):
                index: str | int = int(part) if isinstance(value, list) and part.isdecimal() else part
                if isinstance(value, dict) and part in value:
                    index = part
                elif not (isinstance(value, list) and isinstance(index, int) and index < len(value)):
                    break
                value, path = value[index], (*path, index)
            else:
                return Found(value, self.lines.get(path, self.line), self.raws.get(path, value))
        return None

    def field(self, name: str, *keys: str) -> Field | None:
        """Return the explicit field for the first dotted key that is there; None where none is.

        Numbers, flags and lists are brought to the field's type. `${a.b}` is looked up in the document, and of
        `${oc.env:NAME,fallback}` the fallback is taken; another interpolation or template makes the field unknown.
        """
        found = self.get(*keys)
        if found is None:
            return None
        at = f"{self.file}:{found.line}"
        value, raw = found.value, found.raw
        for _ in range(5):
            inner = _INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
            if inner is None:
                break
            looked_up = Document(self.root if self.root is not None else self.value, self.file, self.lines, self.raws)
            other = looked_up.get(inner.group(1))
            if other is None:
                return unknown(f"{value!r} is not in this file", at, raw)
            value = other.value
        fallback = fallback_of(value)
        if fallback is not None:
            typed = typed_field(name, fallback[1], at, raw)
            return replace(typed, reason=f"environment variable {fallback[0]} may change it") if typed.known else typed
        return typed_field(name, value, at, raw)

    def section(self, key: str) -> Document | None:
        """Return the mapping or list under a dotted key; None where there is none."""
        value, path = self.value, self.path
        for part in key.split("."):
            if isinstance(value, dict) and part in value:
                value, path = value[part], (*path, part)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value, path = value[int(part)], (*path, int(part))
            else:
                return None
        if not isinstance(value, dict | list):
            return None
        return Document(value, self.file, self.lines, self.raws, path, self.root)

    def sections(self) -> list[Document]:
        """Return this mapping and every mapping in it, outermost first; made once, since many detectors ask."""
        if self.made is None:
            self.made = [one for one in self._parts() if isinstance(one.value, dict)]
        return self.made

    def _parts(self) -> Iterator[Document]:
        waiting = deque([self])
        while waiting:
            here = waiting.popleft()
            yield here
            inner = here.value if isinstance(here.value, dict | list) else ()
            items = inner.items() if isinstance(inner, dict) else enumerate(inner)
            waiting += [
                Document(value, self.file, self.lines, self.raws, (*here.path, key), self.root)
                for key, value in items
                if isinstance(value, dict | list)
            ]


def fallback_of(value: Any) -> tuple[str, str] | None:
    """Return the variable and the fallback of `${oc.env:NAME,fallback}`, None for anything else."""
    found = _ENVIRONMENT.fullmatch(value) if isinstance(value, str) and len(value) <= 300 else None
    return (found.group(1), found.group(2).strip("'\"")) if found is not None and found.group(2) is not None else None


def interpolated(value: str) -> str:
    """Return the dotted key of `${a.b}`, empty text for anything else."""
    found = _INTERPOLATION.fullmatch(value)
    return found.group(1) if found is not None else ""


def read_yaml(text: str, file: str) -> list[Document]:
    """Return the documents of a YAML text.

    Raises:
        UnreadableError: not YAML, or beyond the bounds.
    """
    documents: list[Document] = []
    try:
        check_nesting(text)
        loader = _Loader(text)
        try:
            while loader.check_node() and len(documents) < MOST_DOCUMENTS:
                node = loader.get_node()
                documents.append(_Conversion(file).document(node))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UnreadableError(f"not valid YAML: {_short(error)}") from None
    except (RecursionError, ValueError, OverflowError) as error:
        raise UnreadableError(str(error) if isinstance(error, UnreadableError) else f"YAML: {error}"[:200]) from None
    return documents


def check_nesting(text: str) -> None:
    """Refuse nesting so deep that libyaml's recursion would end the process; it checks no stack of its own.

    A level of a block takes a line of more columns or one of the marks at the start of a line; a level in brackets a
    bracket. Texts that could have many levels by that measure are walked once as events, which needs no recursion.

    Raises:
        UnreadableError: nested too deep, or not YAML.
    """
    suspect = text.count("[") + text.count("{") > 10 * DEEPEST or any(end in text for end in "\r\x85\u2028\u2029")
    if not (suspect or _IN_A_ROW.search(text) or _INDENTED.search(text)):
        return
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    raise UnreadableError(f"nested more than {DEEPEST} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError as error:
        raise UnreadableError(f"not valid YAML: {_short(error)}") from None


def _short(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem}" + (f" at line {mark.line + 1}" if mark else "")


class _Conversion:
    """Turn composed nodes into values; counts what it makes, so that aliases cannot multiply without end."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.raws: dict[tuple[str | int, ...], Any] = {}
        self.made = 0

    def document(self, node: Any) -> Document:
        value = self.value(node, (), 0)
        self.lines.setdefault((), node.start_mark.line + 1)
        return Document(value, self.file, self.lines, self.raws, (), value)

    def value(self, node: Any, path: tuple[str | int, ...], depth: int) -> Any:
        self.made += 1
        if self.made > MOST_VALUES:
            raise UnreadableError(f"more than {MOST_VALUES:,} values with its aliases expanded")
        if depth > DEEPEST:
            raise UnreadableError(f"nested more than {DEEPEST} levels deep")
        if isinstance(node, yaml.ScalarNode):
            found = _scalar(node)
            if not isinstance(found, str) and str(found) != node.value:
                self.raws[path] = node.value
            return found
        if isinstance(node, yaml.SequenceNode):
            listed = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                listed.append(self.value(item, (*path, index), depth + 1))
            return listed
        return self.mapping(node, path, depth)

    def mapping(self, node: Any, path: tuple[str | int, ...], depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, item in node.value:
            if key_node.tag == f"{_TAG}merge":
                sources = item.value if isinstance(item, yaml.SequenceNode) else [item]
                for source in sources:
                    if isinstance(source, yaml.MappingNode):
                        for name, value in self.mapping(source, path, depth + 1).items():
                            merged.setdefault(name, value)
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            self.raws.pop((*path, key), None)
            own[key] = self.value(item, (*path, key), depth + 1)
            self.lines[(*path, key)] = key_node.start_mark.line + 1
        return {**merged, **own}


def _scalar(node: Any) -> Any:
    """Return the value of a scalar: numbers also as tools read them (`2e-5`); dates and unknown tags stay text."""
    tag, text = node.tag, node.value
    if tag == f"{_TAG}null":
        return None
    if tag == f"{_TAG}bool":
        return text.lower() in ("true", "yes", "on")
    if tag == f"{_TAG}int":
        try:
            return int(text.replace("_", ""), 0) if len(text) < 40 else text
        except ValueError:
            return int(text) if text.isdecimal() and len(text) < 40 else text
    if tag == f"{_TAG}float":
        try:
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
        except ValueError:
            return text
    return text


def read_json(text: str, file: str) -> list[Document]:
    """Return the document of a JSON text; lines are those of the first key of each name.

    Raises:
        UnreadableError: not JSON, or beyond the bounds.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not valid JSON: {str(error)[:120]}") from None
    return [_located(value, text, file, r'"{}"\s*:')]


def read_toml(text: str, file: str) -> list[Document]:
    """Return the document of a TOML text; lines are those of the first key of each name after its table.

    Raises:
        UnreadableError: not TOML.
    """
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not valid TOML: {str(error)[:120]}") from None
    return [_located(value, text, file, r'(?m)^[ \t\[]*(?:[\w.\-"]+\.)?"?{}"?\s*(?:=|\])')]


def _located(value: Any, text: str, file: str, pattern: str) -> Document:
    """Return a document whose lines are found by searching its keys in the order in which they stand."""
    lines: dict[tuple[str | int, ...], int] = {(): 1}
    position, line, made = 0, 1, 0
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        path, here = waiting.pop()
        made += 1
        if made > MOST_VALUES or len(path) > DEEPEST:
            raise UnreadableError(f"more than {MOST_VALUES:,} values or {DEEPEST} levels")
        if path and isinstance(path[-1], str) and made <= 5000:
            found = re.compile(pattern.format(re.escape(path[-1]))).search(text, position)
            if found:
                line += text.count("\n", position, found.start())
                position = found.start()
            lines[path] = line
        elif path:
            lines[path] = line
        if isinstance(here, dict):
            waiting += [((*path, str(key)), item) for key, item in reversed(here.items())]
        elif isinstance(here, list):
            waiting += [((*path, index), item) for index, item in reversed(list(enumerate(here)))]
    return Document(value, file, lines, {}, (), value)
