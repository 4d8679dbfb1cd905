"""Say where cells ran on a cluster, and where their lines went: OUT/STUDY/places.jsonl, as `execution` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.records.errors import IntegrityError
from narrowly.records.files import read_jsonl
from narrowly.study.layout import PLACES_FILE


class CellPlaces(NamedTuple):
    """Hold where one cell was, in order of time.

    Attributes:
        where: the last place, in words.
        logs: the files that have its lines, each once, the last one last.
    """

    where: str
    logs: tuple[Path, ...]


def read_places(study_dir: Path) -> dict[str, CellPlaces]:
    """Return the places of a study's cells by run-id; none of cells that ran in processes of their command."""
    path = study_dir / PLACES_FILE
    if not path.is_file():
        return {}
    try:
        rows = [row for row in read_jsonl(path) if isinstance(row, dict)]
    except IntegrityError:  # two commands have written at once; what can be read no longer is no reason to stop
        return {}
    found: dict[str, CellPlaces] = {}
    for row in rows:
        for run in row.get("runs", ()):
            logs = list(found[run].logs) if run in found else []
            if isinstance(row.get("log"), str):
                logs = [log for log in logs if str(log) != row["log"]] + [Path(row["log"])]
            found[run] = CellPlaces(str(row.get("where", "")), tuple(logs))
    return found
