"""Turn files of settings into values: one document, or the config that Hydra composes from several.

Sources: hydra-core 1.3 `_internal/defaults_list.py` (`_self_` comes last where it is not stated) and the page on
packages of its documentation (a group is placed under its own path unless `@package` or `group@place` says otherwise).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.values import Const, Items, Sequence, Unknown, Value
from narrowly.audit.trees import Document, UnreadableError, fallback_of, interpolated
from narrowly.audit.values import number

DEEPEST = 8
"""Configs that name one another in their lists of defaults."""
MOST_DEFAULTS = 60
MOST_READ = 200
"""Files of configs that are read for one script."""
MOST_TAKEN = 500
"""Values of a section that an interpolation may stand for."""
_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")


def value_of(document: Document) -> Value:
    """Return the value of a document of YAML, JSON or TOML, each part with its place."""

    def convert(value: object, path: tuple[str | int, ...]) -> Value:
        at = f"{document.file}:{document.lines.get(path, document.line)}"
        if isinstance(value, dict):
            return Items(at, False, {key: convert(item, (*path, key)) for key, item in value.items()})
        if isinstance(value, list):
            return Sequence(at, False, [convert(item, (*path, index)) for index, item in enumerate(value)])
        return Const(at, False, value)

    return convert(document.value, document.path)


def compose(
    repository: Repository, beside: SourceFile, folder: str, name: str, overrides: Mapping[str, tuple[str, str]]
) -> Items | None:
    """Return the config of `@hydra.main`, each value with its place; None where the config is not at hand.

    Args:
        repository: what stands beside.
        beside: the script.
        folder: `config_path`, relative to the script.
        name: `config_name`, with or without its ending.
        overrides: what the command line says: a group's option, or a value by its dotted key, with its place.
    """
    composer = _Composer(repository, beside, folder, overrides)
    made = composer.config(name, 0)
    if composer.overriding:  # a config further down may choose another option of a group before it
        made = composer.config(name, 0)
    if made is None:
        return None
    for key, (text, at) in overrides.items():
        if key.startswith("~"):
            _drop(made, key[1:].replace("/", ".").split("."))
        elif key not in composer.chosen:
            _put(made, key.lstrip("+").split("."), _scalar(text, at))
    _resolve(made, made, 0)
    return made


class _Composer:
    """Follow lists of defaults below one folder of configs."""

    def __init__(
        self, repository: Repository, beside: SourceFile, folder: str, overrides: Mapping[str, tuple[str, str]]
    ) -> None:
        self.repository, self.beside, self.folder = repository, beside, folder
        self.asked = {key.lstrip("+"): text for key, (text, _) in overrides.items()}
        self.overriding: dict[str, str] = {}
        self.chosen: set[str] = set()
        self.times = 0

    def read(self, name: str) -> tuple[Document, str] | None:
        """Return a config's document and text."""
        self.times += 1
        if self.times > MOST_READ:
            return None
        stem = name.removesuffix(".yaml").removesuffix(".yml")
        for ending in (".yaml", ".yml"):
            found = self.repository.find(posixpath.join(self.folder, stem + ending), self.beside)
            try:
                if found is not None and found.documents and isinstance(found.documents[0].value, dict):
                    return found.documents[0], found.text
            except UnreadableError:
                return None
        return None

    def config(self, name: str, depth: int, package: str | None = None) -> Items | None:
        """Return a config with its defaults below it, placed where its package says."""
        read = self.read(name)
        if read is None or depth > DEEPEST:
            return None
        document, text = read
        own = value_of(document)
        assert isinstance(own, Items)
        own.items.pop("defaults", None)
        stated = _PACKAGE.match(text.lstrip())
        place = package if package is not None else posixpath.dirname(name).replace("/", ".")
        if stated is not None and package is None:
            place = "" if stated.group(1) == "_global_" else stated.group(1)
        made = Items(own.at, True)
        listed = document.value.get("defaults")
        entries = list(listed[:MOST_DEFAULTS]) if isinstance(listed, list) else []
        for entry in entries:
            for group, option in entry.items() if isinstance(entry, dict) else ():
                if str(group).startswith("override ") and isinstance(option, str):
                    self.overriding[str(group).removeprefix("override ").split("@")[0].strip("/ ")] = option
        for entry in [*entries, *(() if "_self_" in entries else ("_self_",))]:
            if entry == "_self_":
                _merge(made, _placed(own, place))
            elif isinstance(entry, str):
                self.take(made, posixpath.join(posixpath.dirname(name), entry), depth, place)
            elif isinstance(entry, dict) and len(entry) == 1:
                self.group(made, name, *next(iter(entry.items())), depth)
        return made

    def group(self, made: Items, name: str, group: Any, option: Any, depth: int) -> None:
        """Merge the chosen option or options of a group."""
        said, _, package = str(group).removeprefix("optional ").partition("@")
        if str(group).startswith("override ") or said.startswith(("hydra/", "/hydra/")):
            return
        path = said.strip("/") if said.startswith("/") else posixpath.join(posixpath.dirname(name), said.strip("/ "))
        if f"~{path}" in self.asked:
            return
        if path in self.asked and self.read(f"{path}/{self.asked[path]}") is not None:
            option = self.asked[path]
            self.chosen.add(path)
        elif path in self.overriding:
            option = self.overriding[path]
        for one in option if isinstance(option, list) else [option]:
            if isinstance(one, str) and "${" not in one:
                self.take(made, f"{path}/{one}", depth, package.replace("_global_", "") if package else None)

    def take(self, made: Items, name: str, depth: int, package: str | None) -> None:
        found = self.config(name, depth + 1, package)
        if found is None:
            made.rest = made.rest or f"{name}.yaml is not among the files read"
        else:
            _merge(made, found)


def _placed(own: Items, place: str) -> Items:
    for part in reversed([one for one in place.split(".") if one]):
        own = Items(own.at, True, {part: own})
    return own


def _merge(held: Items, other: Items) -> None:
    held.rest = held.rest or other.rest
    for key, value in other.items.items():
        inner = held.items.get(key)
        if isinstance(inner, Items) and isinstance(value, Items):
            _merge(inner, value)
        else:
            held.items[key] = value


def _put(made: Items, parts: list[str], value: Value) -> None:
    for part in parts[:-1]:
        inner = made.items.get(part)
        if not isinstance(inner, Items):
            inner = made.items[part] = Items(value.at, True)
        made = inner
    made.items[parts[-1]] = value


def _drop(made: Items, parts: list[str]) -> None:
    """Take out a key: `~a.b` on the command line."""
    inner: Value | None = made
    for part in parts[:-1]:
        inner = inner.items.get(part) if isinstance(inner, Items) else None
    if isinstance(inner, Items):
        inner.items.pop(parts[-1], None)


def _scalar(text: str, at: str | None) -> Const:
    found = number(text)
    words = {"true": True, "false": False, "null": None}
    return Const(at, True, found if found is not None else words.get(text.lower(), text))


def _resolve(here: Value, root: Items, depth: int) -> None:
    """Fill in `${a.b}` and the fallback of `${oc.env:NAME,fallback}`; anything else in braces is unknown."""
    if depth > 12:
        return
    if isinstance(here, Items):
        for key, value in here.items.items():
            here.items[key] = _filled(value, root)
            _resolve(here.items[key], root, depth + 1)
    elif isinstance(here, Sequence):
        here.elements = [_filled(value, root) for value in here.elements]


def _filled(value: Value, root: Items) -> Value:
    if isinstance(value, Const):
        value.cli = True
    for _ in range(5):
        if not (isinstance(value, Const) and isinstance(value.value, str) and "${" in value.value):
            return value
        other = fallback_of(value.value)
        if other is not None:
            return Const(value.at, True, _scalar(other[1], None).value, other[0])
        named = interpolated(value.value)
        found: Value | None = root if named else None
        for part in named.split(".") if named else ():
            found = found.items.get(part) if isinstance(found, Items) else None
        if found is None or not _closed(found):
            return Unknown(value.at, True, f"{value.value[:80]!r} is filled in by something outside the configs")
        value = found
    return value


def _closed(found: Value) -> bool:
    """Tell whether a value may stand for an interpolation: a scalar, or a small section without interpolations."""
    if not isinstance(found, Items | Sequence):
        return True
    waiting: list[Value] = [found]
    for _ in range(MOST_TAKEN):
        if not waiting:
            return True
        one = waiting.pop()
        if isinstance(one, Const) and isinstance(one.value, str) and "${" in one.value:
            return False
        waiting += one.items.values() if isinstance(one, Items) else one.elements if isinstance(one, Sequence) else ()
    return False
