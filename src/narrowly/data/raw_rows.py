"""Read a file into plain rows with line numbers: JSONL, JSON, CSV, Parquet, packed or not.

Everything read here comes from outside: lines have a longest length, text must be UTF-8 without NUL, a key may stand
once in an object. `unpack` opens the files.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from narrowly.data.unpack import open_data
from narrowly.records.errors import IntegrityError, NarrowlyWarning, SpecError

LONGEST_LINE = 16 * 2**20
"""Bytes of one line of JSONL or one field of CSV; the longest row of the published corpora has about 10 kB."""

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files that hold rows; `.gz` may follow all but the last."""


class DataWarning(NarrowlyWarning):
    """Something in a data file was mended by a documented rule; the message names file, number of rows and line."""


class RawRow(NamedTuple):
    """One row before any schema: where it starts (line; row in JSON arrays and Parquet), and its fields."""

    line: int
    fields: dict[str, Any]


class BadRow(NamedTuple):
    """One row that cannot be trained on, and was left out: its line, and why."""

    line: int
    reason: str


def way_out(bad: int, rows: int) -> str:
    """Return how many of a file's rows are bad, and the setting that leaves them out; nothing where none is good."""
    if bad == rows:
        return ""
    are, them = ("is", "it") if bad == 1 else ("are", "them")
    return f"; {bad} of {rows} rows {are} bad (bad_rows: drop leaves {them} out)"


def refuse_row(path: Path, line: int, reason: str, bad: list[BadRow] | None) -> None:
    """Note one row as bad where such rows are left out (`bad` is a list).

    Raises:
        IntegrityError: where they are not.
    """
    if bad is None:
        raise fault(path, line, reason)
    bad.append(BadRow(line, reason))


def fault(path: Path, line: int, message: str) -> IntegrityError:
    """Build the error for one row of a file."""
    return IntegrityError(f"{path}, line {line}: {message}")


def read_raw_rows(path: Path, bad: list[BadRow] | None = None) -> list[RawRow]:
    """Read the rows of a file in any accepted container, without looking at what the fields mean.

    Args:
        path: the file.
        bad: takes up what is no row (a line that is no JSON object, a record with other fields than the header), in
            place of an error. A file that is damaged as a whole stays an error: cut off, no text, an open quote.

    Raises:
        IntegrityError: naming file and line, for what is no row.
        SpecError: for an ending that is not accepted, or an encrypted file.
    """
    with open_data(path) as (stream, kind):
        if kind in (".jsonl", ".ndjson"):
            rows = list(_json_lines(path, stream, bad))
        elif kind == ".json":
            rows = _json(path, stream, bad)
        elif kind in (".csv", ".tsv"):
            rows = list(_csv(path, stream, bad))
        elif kind == ".parquet":
            rows = _parquet(path)
        else:
            raise SpecError(f"{path} ends in {kind or 'nothing'!r} (accepted: {', '.join(KINDS)}, .gz of these, .zip)")
    if not rows:
        if bad:
            raise fault(path, bad[0].line, bad[0].reason)
        raise IntegrityError(f"{path} has no rows, accepted: at least one")
    return rows


def _json_lines(path: Path, stream: BinaryIO, bad: list[BadRow] | None) -> Iterator[RawRow]:
    for number, line in _lines(path, stream):
        text = _text(path, number, line)
        if not text.strip():
            continue
        try:
            fields = parse_json(text)
        except ValueError as error:
            if not line.endswith(b"\n"):
                cut = "the file ends inside this line: it was probably cut off"
                raise fault(path, number, f"{error}; {cut}") from error
            refuse_row(path, number, str(error), bad)
            continue
        if isinstance(fields, dict):
            yield RawRow(number, fields)
        else:
            refuse_row(path, number, f"{type(fields).__name__} found, accepted: one JSON object per line", bad)


def _lines(path: Path, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers; one that is too long is never read whole."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise fault(path, number, f"longer than {LONGEST_LINE} bytes, the longest line that is accepted")
        yield number, line


def _text(path: Path, number: int, line: bytes) -> str:
    if number == 1:
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise fault(path, 1, f"UTF-16 found, accepted: UTF-8; type: iconv -f UTF-16 -t UTF-8 {path} > FILE")
        line = line.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in line:
        raise fault(path, number, f"NUL byte at column {line.index(0) + 1}; the file is binary or damaged")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fault(path, number, f"not UTF-8 ({error.reason} at byte {error.start + 1} of the line)") from error


def parse_json(text: str) -> Any:
    """Parse JSON strictly: no key twice in an object, no NaN or infinity.

    Raises:
        ValueError: one clause that says what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        hint = "; a byte order mark stands inside the file" if text.startswith("\ufeff") else ""
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno}){hint}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply to be a row") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object, accepted: once")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _json(path: Path, stream: BinaryIO, bad: list[BadRow] | None) -> list[RawRow]:
    text = "".join(_text(path, number, line) for number, line in enumerate(stream, start=1))
    try:
        value = parse_json(text)
    except ValueError as error:
        if not text.lstrip().startswith("{"):
            raise IntegrityError(f"{path}: {error}") from error
        return list(_json_lines(path, io.BytesIO(text.encode("utf-8")), bad))  # one object per line, as some call .json
    rows = value if isinstance(value, list) else [value]
    for number, fields in enumerate(rows, start=1):
        if not isinstance(fields, dict):
            refuse_row(path, number, f"{type(fields).__name__} found, accepted: an object", bad)
    return [RawRow(number, fields) for number, fields in enumerate(rows, start=1) if isinstance(fields, dict)]


def _csv(path: Path, stream: BinaryIO, bad: list[BadRow] | None) -> Iterator[RawRow]:
    lines = (_text(path, number, line) for number, line in _lines(path, stream))
    first = next(lines, "")
    delimiter = max(",;\t", key=lambda candidate: len(next(csv.reader([first], delimiter=candidate), [])))
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(_chain(first, lines), delimiter=delimiter, strict=True)
    start = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        # a table library writes its index so, unless it is told not to
        counted = len(header) > 1 and not header[0]
        header = header[counted:]
        count = -1
        if len(set(header)) != len(header) or not all(header):
            raise fault(path, 1, f"columns {header} found, accepted: a header of different names")
        start = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) == len(header) + counted:
                    if counted:
                        count = _next_count(path, start, cells.pop(0), count)
                    yield RawRow(start, dict(zip(header, cells, strict=True)))
                else:
                    found = f"{len(cells)} fields found, the header has {len(header) + counted}"
                    refuse_row(path, start, found, bad)
            start = reader.line_num + 1
        if counted and count >= 0:
            note = "the first column has no name and counts the rows; it was left out"
            warnings.warn(f"{path}: {note}", DataWarning, stacklevel=4)
    except csv.Error as error:
        raise fault(path, start, f"no valid CSV ({error}); a quote is open, or the file was cut off") from error


def _next_count(path: Path, line: int, cell: str, before: int) -> int:
    """Return the number in a column without a name, which has to rise from row to row, as that of an index does."""
    if not (cell.isascii() and cell.isdigit() and len(cell) < 19 and int(cell) > before):
        raise fault(
            path, line, f"{cell[:40]!r} found in a first column without a name, accepted: numbers that count rows"
        )
    return int(cell)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _parquet(path: Path) -> list[RawRow]:
    import polars

    try:
        frame = polars.read_parquet(path)
    except Exception as error:
        raise IntegrityError(f"{path} is no readable Parquet file ({type(error).__name__})") from error
    return [RawRow(number, row) for number, row in enumerate(frame.iter_rows(named=True), start=1)]
