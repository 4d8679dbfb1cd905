"""Read verdicts on free answers back from a Parquet file, each row checked."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from pydantic import ValidationError

from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.records.verdicts import Verdict


def read_verdict_rows(path: Path) -> list[Verdict]:
    """Return the verdicts in a file.

    Raises:
        IntegrityError: no Parquet table, or a row that is no verdict; its number is named.
    """
    try:
        rows = pl.read_parquet(path, glob=False).to_dicts()
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path} is no Parquet table ({first})") from None
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(Verdict.model_validate(row))
        except ValidationError as error:
            raise IntegrityError(f"{path}, row {number} is no verdict of ours ({first_fault(error)})") from error
    return found
