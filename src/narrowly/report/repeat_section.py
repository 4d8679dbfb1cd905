"""Arrange the section with all that is needed to repeat a study: commands, arms as run, versions, hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from narrowly.report.answer_tables import numbers
from narrowly.report.kit import (
    Cell,
    Column,
    Fold,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Table,
    Words,
    code,
    words,
)
from narrowly.report.labels import ArmNames, spaced
from narrowly.report.visible import shortened

QUICK_START = "micro"
"""The shipped study that `make` runs in a checkout."""


class StudyFiles(NamedTuple):
    """What lies beside the tables of a study: its spec as written and parsed, and the record of its environment."""

    folder: Path
    text: str
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]


def arms_as_run(cells: pl.DataFrame) -> list[dict[str, Any]]:
    """Return a row per arm: its optimiser as the spec gives it, and how many cells ran."""
    rows = []
    for part in cells.sort("arm", "cell_id").partition_by("arm", maintain_order=True):
        first = part.row(0, named=True)
        optimiser = json.loads(first["spec"] or "{}").get("optimiser", {})
        given = ", ".join(f"{key} {value}" for key, value in optimiser.items() if key != "kind")
        runs = sorted(part["run_id"].drop_nulls().to_list())
        rows.append(
            {
                "arm": first["arm"],
                "role": first["role"],
                "of": first["of"],
                "optimiser": f"{first['optimiser']}: {given}" if given else first["optimiser"],
                "lam": first["penalty_lam"],
                "done": part.filter(pl.col("status") == "done").height,
                "planned": part.height,
                "runs": hashlib.sha256("\n".join(runs).encode()).hexdigest()[:12],
            }
        )
    return rows


def repeat_section(study: StudyFiles, cells: pl.DataFrame, name: str, names: ArmNames) -> Section:
    """Return the section with all that is needed to repeat the study."""
    file = QUICK_START if name == QUICK_START else "study.yaml"
    installs = "In a checkout, {} installs everything and runs this study. "
    checkout = words(installs, code(f"make {QUICK_START}")) if name == QUICK_START else ""
    source = words(
        "{}Every measured number on this page is in {} or drawn from {}, from which it can be recomputed; the "
        "wall-clock seconds are the sum over the commands that were run.",
        checkout,
        code("summary.json"),
        code("tables/*.parquet"),
    )
    parts: list[Part] = [
        Preformatted(f"narrowly run {file}\n\nnarrowly status {name}"),
        Paragraph(source),
        _as_run(cells, names),
    ]
    if study.environment:
        rows = [[key, shortened(value)] for key, value in _flat(study.environment)]
        table = Table("Versions and machine of the runs.", [Column("what"), Column("value", kind="prose")], rows)
        parts.append(Fold("Environment", [table]))
    else:
        parts.append(Paragraph("No record of the environment lies beside this study."))
    if study.text:
        digest = hashlib.sha256(study.text.encode()).hexdigest()
        parts.append(Fold(words("study.yaml <small>(sha256 {})</small>", digest), [Preformatted(study.text)]))
    files = [*sorted((study.folder / "tables").glob("*.parquet")), study.folder / "summary.json"]
    hashes = [[path.name, code(_digest(path))] for path in files]
    columns = [Column("file"), Column("sha256", kind="prose")]
    parts.append(Fold("Hashes of the tables", [Table("Files that this page was made from.", columns, hashes)]))
    return Section("repeat", "How to repeat it", parts, "Repeat it")


def _as_run(cells: pl.DataFrame, names: ArmNames) -> Table:
    rows: list[list[Cell | Words]] = [
        [
            names(row["arm"]),
            spaced(row["role"] or ""),
            names(row["of"]) if row["of"] else "",
            shortened(row["optimiser"] or ""),
            Cell("" if row["lam"] is None else str(row["lam"]), sort=row["lam"]),
            f"{row['done']} / {row['planned']}",
            code(row["runs"]),
        ]
        for row in arms_as_run(cells)
    ]
    return Table(
        "The arms as they were run.",
        [
            Column("arm"),
            Column("role"),
            Column("of"),
            Column("optimiser, as run", kind="prose"),
            *numbers("λ", "done / planned"),
            Column("hash of its run-ids"),
        ],
        rows,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "–"


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            pair
            for key in sorted(value, key=str)
            for pair in _flat(value[key], f"{prefix}.{key}" if prefix else str(key))
        ]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return [(prefix, text)]
