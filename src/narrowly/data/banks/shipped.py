"""Find the banks that come with the package and read their lines strictly."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.data.raw_rows import fault, read_raw_rows
from narrowly.data.turns import text_of


class BankRow(NamedTuple):
    """One line of a bank: its number, its id, and its other fields, of which texts are never empty."""

    line: int
    id: str
    fields: Mapping[str, Any]


def bank_file(name: str) -> Path:
    """Return the path of a shipped bank, for instance `broad` or `pairs/money`."""
    return Path(str(resources.files("narrowly.data.banks"))) / f"{name}.jsonl"


Seen = dict[tuple[str, str], tuple[Path, int]]
"""File and line where an id or a question of a bank stands, for a bank of several files."""


def bank_rows(
    path: Path, fields: Mapping[str, type], seen: Seen | None = None, *, text: str = "question"
) -> list[BankRow]:
    """Read the lines of a bank, each an object with an id, a text that stands once and exactly these fields.

    Args:
        path: a JSONL file, shipped or another of the same form.
        fields: name and type of every field beside the id and the text.
        seen: what stands in other files of the same bank; takes up what stands in this one.
        text: name of the field that may stand once in a bank.

    Raises:
        IntegrityError: naming file and line: a field missing, unknown, empty, of another type or no valid
            text; an id or a text that stood before, case and spaces apart; a file without lines.
    """
    fields = {text: str, **fields}
    seen = {} if seen is None else seen
    rows: list[BankRow] = []
    for row in read_raw_rows(path):
        found = row.fields
        if set(found) != {"id", *fields}:
            raise fault(path, row.line, f"fields {sorted(found)} found, accepted: {sorted(['id', *fields])}")
        for name, kind in {"id": str, **fields}.items():
            value = found[name]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise fault(path, row.line, f"{name} is {str(value)[:40]!r}, accepted: {_WORDS[kind]}")
            if isinstance(value, str) and (not value or value != value.strip()):
                raise fault(path, row.line, f"{name} is {value[:40]!r}, accepted: a text without blanks at its ends")
            if isinstance(value, str):
                _check_text(path, row.line, name, value)
        for name, value in (("id", found["id"]), (text, folded(found[text]))):
            file, line = seen.setdefault((name, value), (path, row.line))
            if (file, line) != (path, row.line):
                where = f"line {line}" if file == path else f"{file.name}, line {line}"
                raise fault(path, row.line, f"{name} {found[name][:40]!r} stands already in {where}, accepted: once")
        rows.append(BankRow(row.line, found["id"], {field: found[field] for field in fields}))
    if not rows:
        raise fault(path, 1, "no line found, accepted: at least one item")
    return rows


def _check_text(path: Path, line: int, name: str, value: str) -> None:
    try:
        text_of(value, name)
    except ValueError as error:
        raise fault(path, line, str(error)) from error


def folded(text: str) -> str:
    """Return a text without differences of case and spacing."""
    return " ".join(text.split()).casefold()


_WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", list: "a list"}
