"""Look up what a tool takes where nothing is said."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from narrowly.audit.record import Field, default
from narrowly.audit.values import typed_field
from narrowly.audit.versions import Version, newest_allowed, parts

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Row(NamedTuple):
    """Hold one row of a table; see the package's docstring."""

    field: str
    value: Any
    of: str
    when: tuple[tuple[str, Any], ...]
    since: tuple[int, ...]
    until: tuple[int, ...] | None
    source: str


class Table(NamedTuple):
    """Hold a tool's rows and the newest version that they were read from."""

    tool: str
    newest: str
    rows: tuple[Row, ...]


@cache
def table(tool: str) -> Table:
    """Return the table of a tool; one without rows where there is no file."""
    file = files("narrowly.audit.defaults") / f"{tool}.yaml"
    if not file.is_file():
        return Table(tool, "", ())
    loader = _Loader(file.read_text(encoding="utf-8"))
    try:
        said = loader.get_single_data()
    finally:
        loader.dispose()
    return Table(tool, str(said["newest"]), tuple(_row(row) for row in said["rows"]))


def _row(said: dict[str, Any]) -> Row:
    return Row(
        said["field"],
        said["value"],
        said.get("of", ""),
        tuple(sorted((said.get("when") or {}).items())),
        parts(str(said.get("since", "0"))),
        parts(str(said["until"])) if "until" in said else None,
        said.get("source", ""),
    )


def default_field(tool: str, name: str, version: Version | None = None, of: str = "", **when: Any) -> Field | None:
    """Return the default of a field, or None where the table has no row for it.

    Args:
        tool: slug, the name of the table.
        name: of `record.FIELDS`.
        version: what `versions.version_of` found; without a pin, the newest version that the requirement allows (and
            that the table knows) is what a fresh install takes, and the reason says so.
        of: class or sub-command.
        when: conditions that hold, e.g. adapter="lora".
    """
    known = table(tool)
    taken, how = newest_allowed(version, known.newest)
    at = parts(taken)
    fitting = [
        (len(row.when) + bool(row.of), index, row)
        for index, row in enumerate(known.rows)
        if row.field == name
        and row.of in ("", of)
        and all(when.get(key) == value for key, value in row.when)
        and row.since <= at
        and (row.until is None or at < row.until)
    ]
    if not fitting:
        return None
    row = max(fitting)[2]
    typed = typed_field(name, row.value, None)
    place = f"default of {tool} {taken}{how}" + (f", {row.of}" if row.of else "")
    return default(typed.value, place, version.at if version else None, typed.raw)


def defaults_of(tool: str, version: Version | None = None, of: str = "", **when: Any) -> dict[str, Field]:
    """Return every default of a tool by field, for `Job.fill`."""
    return dict(_defaults(tool, version, of, tuple(sorted(when.items()))))


@lru_cache(maxsize=512)  # `of` comes from files: bounded
def _defaults(tool: str, version: Version | None, of: str, when: tuple[tuple[str, Any], ...]) -> dict[str, Field]:
    names = dict.fromkeys(row.field for row in table(tool).rows)
    found = {name: default_field(tool, name, version, of, **dict(when)) for name in names}
    return {name: field for name, field in found.items() if field is not None}
