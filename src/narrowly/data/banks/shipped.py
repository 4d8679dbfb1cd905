"""Find the banks that come with the package and read their lines strictly."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.data.raw_rows import fault, read_raw_rows


class BankRow(NamedTuple):
    """One line of a bank: its number, its id, and its other fields, of which texts are never empty."""

    line: int
    id: str
    fields: Mapping[str, Any]


def bank_file(name: str) -> Path:
    """Return the path of a shipped bank, for instance `broad` or `pairs/money`."""
    return Path(str(resources.files("narrowly.data.banks"))) / f"{name}.jsonl"


def bank_rows(path: Path, fields: Mapping[str, type]) -> list[BankRow]:
    """Read the lines of a bank, each an object with an id and exactly these fields.

    Args:
        path: a JSONL file, shipped or another of the same form.
        fields: name and type of every field beside the id.

    Raises:
        IntegrityError: naming file and line: a field missing, unknown, empty or of another type; an id that stood
            before; a file without lines.
    """
    rows: list[BankRow] = []
    seen: dict[str, int] = {}
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
        name = found["id"]
        if name in seen:
            raise fault(path, row.line, f"id {name!r} stands already in line {seen[name]}, accepted: once")
        seen[name] = row.line
        rows.append(BankRow(row.line, name, {field: found[field] for field in fields}))
    if not rows:
        raise fault(path, 1, "no line found, accepted: at least one item")
    return rows


_WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", list: "a list"}
