"""`narrowly data pairs`: the paired bank, its counts, and what words and length alone give away in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from narrowly.cli.data_rows import app
from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, need_extra, say, table

__all__ = ["app", "pairs"]


@app.command()
def pairs(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[BANK]", help="A folder of DOMAIN.jsonl files; the shipped bank unless given."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show a paired bank: its domains, and how well words and length alone tell harmful answers from aligned ones."""
    need_extra("lab", "narrowly data pairs")
    from narrowly.data.banks.cues import bank_report
    from narrowly.data.banks.paired import paired_items, read_paired

    items = paired_items() if path is None else read_paired(path)
    report = bank_report(items)
    if as_json:
        found = report._asdict() | {"domains": [row._asdict() for row in report.domains]}
        typer.echo(json.dumps(found | {"items": len(items)}, indent=2, allow_nan=False))
        return 0
    counts = {row.domain: [item.part for item in items if item.domain == row.domain] for row in report.domains}
    rows = [
        (r.domain, len(counts[r.domain]), counts[r.domain].count("trained"), r.questions, r.paired_accuracy, r.auc)
        for r in report.domains
    ]
    mean = ("mean of domains", None, None, report.questions, report.paired_accuracy, report.auc)
    columns = ("domain", "questions", "trained", "set aside", "paired accuracy", "AUC")
    console().print(table(columns, [*rows, mean]))
    say("")
    say("Paired accuracy and AUC: of word counts, on the third set aside, by a reader trained on the other domains; .5")
    say("is chance. Share of harmful answers that are the longer one, ties counted half:")
    say(f"{report.length:.3f} by characters, {report.words:.3f} by words")
    say(f"bank {report.sha256}", style="dim")
    return 0
