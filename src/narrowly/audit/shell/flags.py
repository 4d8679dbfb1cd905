"""Read a command's arguments as flags: `--lr 2e-5`, `--lr=2e-5`, `--bf16`, `key=value`, lists of values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from narrowly.audit.shell.commands import Word
from narrowly.audit.trees import Document

_OVERRIDE = re.compile(r"\+{0,2}([A-Za-z_][\w.\-/@]*)=(.*)", re.DOTALL)
_DELETED = re.compile(r"(~[A-Za-z_][\w.\-/@]*)(?:=.*)?", re.DOTALL)
_NEGATIVE = re.compile(r"-\d")
_PASSED_ON = re.compile(r"\$[@*]|\$\{[@*][^}]*\}")
"""The arguments of the script itself."""

IN_BASE = 10_000_000
"""Added to the lines of a base file, to tell them from the command's own; no file that is read has so many."""


@dataclass(slots=True)
class Flags:
    """Hold the arguments of a command.

    Attributes:
        named: flag without dashes -> (text, list of texts, or None for a switch; line; what is not filled in).
        overrides: `key=value` pairs without dashes, the same way.
        positional: all other words.
    """

    named: dict[str, tuple[str | list[str] | None, int, str]] = field(default_factory=dict)
    overrides: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    positional: list[Word] = field(default_factory=list)

    def text(self, *names: str) -> str | None:
        """Return the text of the first flag that is there, with dashes or underscores."""
        for name in names:
            for key in (name, name.replace("_", "-")):
                found = self.named.get(key)
                if found is not None and isinstance(found[0], str):
                    return found[0]
        return None

    def document(self, shown: str, base: Document | None = None, *, dotted: bool = False) -> Document:
        """Return the flags as a document of settings, on top of a base file where there is one.

        Args:
            shown: path of the shell script.
            base: settings of the file that the command names; its lines are kept with `IN_BASE` added.
            dotted: make sections of dotted keys.
        """
        lines: dict[tuple[str | int, ...], int] = {}
        content: dict[str, Any] = _copied(base.value) if base is not None and isinstance(base.value, dict) else {}
        if base is not None:
            apart = 0 if base.file == shown else IN_BASE
            lines.update({path: line + apart for path, line in base.lines.items()})
        given: list[tuple[str, Any, int]] = []
        for key, (text, line, left) in self.named.items():
            given.append((key.replace("-", "_"), True if text is None else _open(text, left), line))
        for key, (value, line, left) in self.overrides.items():
            if key.startswith("~"):
                _taken_out(content, key[1:].split(".") if dotted else [key[1:]])
                continue
            given.append((key, _open(value, left), line))
        for key, value, line in given:
            _place(content, lines, key.split(".") if dotted else [key], value, line)
        return Document(content, shown, lines, {}, (), content)


def _open(text: str | list[str], left: str) -> Any:
    return f"${{{left}}}" if left and "$" not in str(text) else text


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def _place(
    content: dict[str, Any], lines: dict[tuple[str | int, ...], int], parts: list[str], value: Any, line: int
) -> None:
    here = content
    for depth, part in enumerate(parts[:-1], 1):
        inner = here.get(part)
        if not isinstance(inner, dict):
            inner = here[part] = {}
        here = inner
        lines[tuple(parts[:depth])] = line
    here[parts[-1]] = value
    lines[tuple(parts)] = line
    lines.setdefault((), line)


def _taken_out(content: dict[str, Any], parts: list[str]) -> None:
    here: Any = content
    for part in parts[:-1]:
        here = here.get(part) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(parts[-1], None)


def flags_of(words: list[Word]) -> Flags:
    """Return the flags among the words of a command."""
    found = Flags()
    words = [word for word in words if not _PASSED_ON.fullmatch(word.text)]
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        text = word.text
        if text.startswith("-") and len(text) > 1 and not _NEGATIVE.match(text):
            name, equals, value = text.lstrip("-").partition("=")
            if equals:
                found.named[name] = (value, word.line, word.open)
                continue
            values: list[Word] = []
            while position < len(words) and not _is_flag(words[position].text):
                values.append(words[position])
                position += 1
            if not values:
                found.named[name] = (None, word.line, "")
            elif len(values) == 1:
                found.named[name] = (values[0].text, values[0].line, values[0].open)
            else:
                found.named[name] = ([each.text for each in values], values[0].line, "")
        elif (match := _OVERRIDE.fullmatch(text)) is not None:
            found.overrides[match.group(1)] = (match.group(2).strip("'\""), word.line, word.open)
        elif (match := _DELETED.fullmatch(text)) is not None:
            found.overrides[match.group(1)] = ("", word.line, "")
        else:
            found.positional.append(word)
    return found


def _is_flag(text: str) -> bool:
    return (text.startswith("-") and len(text) > 1 and not _NEGATIVE.match(text)) or _OVERRIDE.fullmatch(
        text
    ) is not None
