"""Read the rows of a run from a file of pre-tokenised rows."""

from __future__ import annotations

from pathlib import Path

from narrowly.data.rows import read_rows, rows_sha256
from narrowly.data.run_rows import RowsBase, RunRows
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError
from narrowly.records.run_spec import RowsData


def file_rows(data: RowsData, base: RowsBase, seed: int) -> RunRows:
    """Read pre-tokenised rows from JSONL; base and run seed play no part.

    Raises:
        IntegrityError: another content than `data.sha256` says.
        RunDirectoryError, SpecError: no such file, a broken line.
    """
    path = Path(data.path).expanduser()
    rows = read_rows(path)
    found, canonical = sha256_file(path), rows_sha256(rows)
    if data.sha256 not in (None, found, canonical):
        raise IntegrityError(
            f"data.sha256 is {data.sha256}, but {data.path} has {found} (its rows in canonical form: {canonical})"
        )
    return RunRows(data.path, tuple(rows))
