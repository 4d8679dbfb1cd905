"""Write a folder of results, and keep what was measured part by part so that no part is computed twice.

A part is a domain of the bank on one model. The folder belongs to one request; another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from narrowly.data.banks.paired import PairedItem, paired_sha256
from narrowly.evaluate.paired.ladder import rung_of
from narrowly.evaluate.paired.result import QUESTIONS, RESULT, ROWS, EvalResult, PairedResult, PromptUsed
from narrowly.records.answers import AskedModel
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.canonical import content_id
from narrowly.records.endpoints import AskedEndpoint
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import atomic_path, read_record, write_json
from narrowly.records.paired import PairedRow

Kept = TypeVar("Kept")

PARTS, REQUEST = "parts", "request.json"
"""Folder of the parts in a folder of results, and the record of what was asked for."""


def check_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse a folder that is neither new nor empty nor of the same request; nothing is written.

    Raises:
        SpecError: it holds another request, or files that are no results.
    """
    file = folder / REQUEST
    if file.is_file():
        before = read_record(file)
        differing = [name for name in sorted({*before, *request}) if before.get(name) != request.get(name)]
        if differing:
            raise SpecError(
                f"--out {folder} holds an evaluation of another request ({', '.join(differing)} differ); accepted: "
                "another folder"
            )
        return
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SpecError(f"--out {folder} holds no results of narrowly eval; accepted: a new or an empty folder")


def take_folder(folder: Path, request: Mapping[str, Any]) -> None:
    """Write in a folder of `check_folder` what it is for, before the first part; later calls do nothing."""
    file = folder / REQUEST
    if not file.is_file():
        write_json(file, request)


def read_kept(file: Path, kind: type[Kept]) -> Kept:
    """Read what is kept of a model beside its parts.

    Raises:
        IntegrityError: not a record of this kind.
    """
    try:
        return TypeAdapter(kind).validate_python(read_record(file))
    except ValidationError as error:
        raise IntegrityError(f"{file} is no record of narrowly eval ({first_fault(error)}); remove it") from error


def record_file(folder: Path, what: str, model: AskedModel | AskedEndpoint, arithmetic: Arithmetic) -> Path:
    """Return the file of what is kept of a model beside its parts: `applied`, `damage` or `scores`."""
    return folder / PARTS / f"{what}-{model.model_id}-{content_id(arithmetic.model_dump(mode='json'))}.json"


def part_file(
    folder: Path,
    model: AskedModel | AskedEndpoint,
    items: Sequence[PairedItem],
    prompt: PromptUsed,
    arithmetic: Arithmetic,
    condition: str | None = None,
) -> Path:
    """Return the file of a part; its name is the hash of all that its rows follow from.

    Args:
        folder: of results.
        model: by content.
        items: questions of the part, in order.
        prompt: how they become tokens.
        arithmetic: of the model.
        condition: sha256 of the condition of the cued panel; None for the questions as they are.
    """
    body = {
        "model": model.model_id,
        "items": paired_sha256(items),
        "order": [item.id for item in items],
        "prompt": prompt.model_dump(mode="json"),
        "arithmetic": arithmetic.model_dump(mode="json"),
        "condition": condition,
    }
    return folder / PARTS / f"{content_id(body)}.parquet"


def write_part(file: Path, rows: Sequence[PairedRow]) -> None:
    """Write the rows of a part, whole or not at all."""
    import polars as pl

    with atomic_path(file) as temporary:
        pl.DataFrame([row._asdict() for row in rows]).write_parquet(temporary)


def read_part(file: Path, items: Sequence[PairedItem]) -> list[PairedRow]:
    """Read the rows of a part.

    Raises:
        IntegrityError: not the rows of these items.
    """
    import polars as pl

    try:
        rows = [PairedRow(**row) for row in pl.read_parquet(file).iter_rows(named=True)]
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise IntegrityError(f"{file} does not hold rows of the paired bank ({error}); remove it") from error
    if [(row.id, row.domain, row.part) for row in rows] != [(item.id, item.domain, item.part) for item in items]:
        raise IntegrityError(f"{file} holds other questions than its name says; remove it")
    return rows


def write_results(
    folder: Path, result: EvalResult, items: Sequence[PairedItem], rows: Mapping[str, Sequence[PairedRow]]
) -> None:
    """Write one row per model and question, the texts of the questions, and the result behind them.

    Args:
        folder: of `check_folder`.
        result: of the rows.
        items: of the bank, in the order of the rows.
        rows: by the label of the model.
    """
    import polars as pl

    paired = result.paired
    table = [
        {
            "role": one.role,
            "number": one.number,
            "model": one.model.name,
            "model_id": one.model.model_id,
            **row._asdict(),
            "rung": rung_of(row, paired.trained_domains),
            "log_odds": row.log_odds,
            "log_odds_per_token": row.log_odds_per_token,
            "bank_sha256": paired.bank.sha256,
            "arithmetic": str(paired.arithmetic),
        }
        for one in paired.measured
        for row in rows[one.label]
    ]
    for name, lines in ((ROWS, table), (QUESTIONS, [item._asdict() for item in items])):
        with atomic_path(folder / name) as temporary:
            pl.DataFrame(lines).write_parquet(temporary)
    write_json(folder / RESULT, result.model_dump(mode="json"))


def read_rows(folder: Path, result: PairedResult) -> dict[str, list[PairedRow]]:
    """Read what `write_results` wrote of every model.

    Args:
        folder: of results.
        result: its record.

    Returns:
        Rows by the label of the model, in the order of the bank.

    Raises:
        IntegrityError: missing, broken, or not the rows of this result.
    """
    import polars as pl

    file = folder / ROWS
    try:
        table = pl.read_parquet(file)
        found = {
            one.label: [
                PairedRow(**row)
                for row in table.filter((pl.col("role") == one.role) & (pl.col("number") == one.number))
                .select(PairedRow._fields)
                .iter_rows(named=True)
            ]
            for one in result.measured
        }
    except (OSError, pl.exceptions.PolarsError) as error:
        raise IntegrityError(f"{file} cannot be read as rows of narrowly eval ({error})") from error
    short = next((label for label, rows in found.items() if len(rows) != result.bank.questions), None)
    if short is not None:
        raise IntegrityError(
            f"{file} has {len(found[short])} rows of {short}, and the bank {result.bank.questions} questions"
        )
    return found
