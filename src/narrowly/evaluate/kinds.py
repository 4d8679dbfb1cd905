"""Tell what a folder of results holds: paired answers (`narrowly eval`) or judged ones (`narrowly judge`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import read_record

RESULT = "result.json"
"""The record of both kinds."""

Kind = Literal["paired", "judged"]

COMMANDS: dict[Kind, str] = {"paired": "narrowly eval --out", "judged": "narrowly judge"}
"""Which command writes each kind."""

ACCEPTED = "a folder that narrowly eval --out or narrowly judge wrote"


def results_folder(path: Path) -> Path:
    """Return the folder of results that a user names, or whose result.json he names.

    Raises:
        SpecError: there is no result.json.
    """
    folder = path.parent if path.is_file() and path.name == RESULT else path
    if not (folder / RESULT).is_file():
        raise SpecError(f"{path} holds no {RESULT}; accepted: {ACCEPTED}")
    return folder


def kind_of(folder: Path) -> Kind:
    """Return what a folder of results holds.

    Raises:
        IntegrityError: its record is that of neither.
    """
    record = read_record(folder / RESULT)
    if isinstance(record, Mapping) and "paired" in record:
        return "paired"
    if isinstance(record, Mapping) and "judge_id" in record:
        return "judged"
    raise IntegrityError(
        f"{folder / RESULT} is a result of neither narrowly eval nor narrowly judge; accepted: {ACCEPTED}"
    )


def one_kind(first: Path, second: Path) -> Kind:
    """Return what two folders hold.

    Raises:
        SpecError: paired answers in one and judged ones in the other.
    """
    kinds = kind_of(first), kind_of(second)
    if kinds[0] != kinds[1]:
        raise SpecError(
            f"{first} holds {kinds[0]} answers, {second} {kinds[1]} ones, which are not compared; accepted: two of one "
            "kind"
        )
    return kinds[0]
