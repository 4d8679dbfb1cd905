"""Arrange a review of training jobs as a page: the jobs, the findings with their changes, what was skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.audit.record import NAMED
from narrowly.audit.rules.rule import RISK
from narrowly.report.kit import (
    Cell,
    Column,
    Definitions,
    Fold,
    Note,
    Page,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Table,
    number,
    write_page,
)

LEVELS = ("error", "warning", "note")
TOGETHER = {
    "dose": {"epochs": "epochs", "max_steps": "steps", "scheduler": "schedule"},
    "LoRA": {
        "lora_r": "r",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "lora_targets": "on",
        "use_rslora": "rsLoRA",
    },
}
"""Columns that hold several fields of a job, so that the table is not wider than a page."""


def write_audit_page(record: Mapping[str, Any], path: Path) -> None:
    """Write the page of a review.

    Args:
        record: what `narrowly audit --json` prints.
        path: of the page.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    write_page(audit_page(record), path)


def audit_page(record: Mapping[str, Any]) -> Page:
    """Return the page of a review; see `write_audit_page`."""
    sections = [_jobs(record["jobs"]), _findings(record["findings"]), _skipped(record["skipped"])]
    if record.get("adapters"):
        sections.append(_adapters(record["adapters"]))
    return Page(
        "Fine-tuning jobs and their optimisers",
        "narrowly audit",
        sections,
        [Note(f"Every finding is {RISK}. What the fine-tuned model does decides, not its optimiser.")],
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _field(field: Mapping[str, Any]) -> Cell:
    if field["provenance"] == "unknown":
        return Cell("?", [field["reason"] or "unknown"])
    below = [] if field["provenance"] == "explicit" else [field["provenance"]]
    return Cell(_text(field["value"]), [*below, *([field["reason"]] if field["reason"] else [])])


def _fields(job: Mapping[str, Any], names: Mapping[str, str]) -> Cell:
    """Return one cell for fields that belong together; what is not set is left out, reasons follow once each."""
    stated = [
        f"{said} {'?' if job[name]['provenance'] == 'unknown' else _text(job[name]['value'])}"
        for name, said in names.items()
        if job[name]["provenance"] == "unknown" or job[name]["value"] is not None
    ]
    if stated and all(one.endswith(" ?") for one in stated):
        stated = ["?"]
    reasons = dict.fromkeys(job[name]["reason"] for name in names if job[name]["reason"])
    return Cell(", ".join(stated) or "-", list(reasons))


def _jobs(jobs: Sequence[Mapping[str, Any]]) -> Section:
    alone = [name for name in NAMED if not any(name in names for names in TOGETHER.values())]
    columns = [
        Column("where", kind="prose"),
        *(Column(name.replace("_", " "), kind="prose") for name in (*alone, *TOGETHER)),
    ]
    rows = [
        [
            Cell(f"{job['file']}:{job['line']}", [job["tool"]]),
            *(_field(job[name]) for name in alone),
            *(_fields(job, names) for names in TOGETHER.values()),
        ]
        for job in jobs
    ]
    caption = "One row for each training job; below a value, where it comes from unless it is written in the file."
    return Section("jobs", "Jobs", [Table(caption, columns, rows, stacked=True, empty="No training job was found.")])


def _findings(findings: Sequence[Mapping[str, Any]]) -> Section:
    parts: list[Part] = []
    for level in LEVELS:
        for rule in dict.fromkeys(one["rule"] for one in findings if one["level"] == level):
            parts.append(_rule([one for one in findings if one["rule"] == rule], level))
    return Section("findings", "Findings", parts or [Paragraph("None.")])


def _rule(found: Sequence[Mapping[str, Any]], level: str) -> Fold:
    first = found[0]
    columns = [
        Column("where", kind="prose"),
        Column("what was found", kind="prose"),
        Column("ignored because", kind="prose"),
    ]
    rows = [[f"{one['file']}:{one['line']}", one["message"], one["ignored"] or "-"] for one in found]
    changes = dict.fromkeys(one["fix"] for one in found if one["fix"])
    parts: list[Part] = [
        Paragraph(f"Evidence: {first['evidence']}. Source: {first['source']}."),
        Table(f"Places of {first['rule']}.", columns, rows),
        *(Preformatted(change) for change in changes),
    ]
    return Fold(f"{level} {first['rule']}: {first['title']} ({len(found)})", parts, open=level != "note")


def _skipped(skipped: Sequence[Mapping[str, Any]]) -> Section:
    columns = [Column("file", kind="prose"), Column("why", kind="prose")]
    rows = [[one["file"], one["reason"]] for one in skipped]
    return Section("skipped", "Skipped files", [Table("Files that were not read or not understood.", columns, rows)])


def _adapters(adapters: Sequence[Mapping[str, Any]]) -> Section:
    parts: list[Part] = []
    for one in adapters:
        rows = [
            [
                row["name"],
                number(row["value"], 3) if isinstance(row["value"], float) else _text(row["value"]),
                row["compared"],
            ]
            for row in one["indicators"]
        ]
        columns = [Column("indicator", kind="prose"), Column("value"), Column("compared with", kind="prose")]
        parts.append(Table(f"Adapter {one['adapter']}, {one['modules']} modules.", columns, rows))
        parts += [Paragraph(fault) for fault in one["factors"]]
        parts.append(Definitions([("what this is not", sentence) for sentence in one["not"]]))
    return Section("adapters", "Adapters", parts)
