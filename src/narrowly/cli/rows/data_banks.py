"""`narrowly data pairs`: the paired bank, its counts, and what words and length alone give away in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.rows.data_rows import app
from narrowly.cli.terminal import console, need_extra, safe, say, table
from narrowly.records.errors import SpecError

__all__ = ["app", "pairs"]


@app.command()
def pairs(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[BANK]", help="A folder of DOMAIN.jsonl files; the shipped bank unless given."),
    ] = None,
    test: Annotated[
        bool,
        typer.Option("--test", help="Ask about the untouched test set; the reader is trained on the shipped bank."),
    ] = False,
    lm_eval: Annotated[
        Path | None,
        typer.Option("--lm-eval", metavar="FOLDER", help="Write it as tasks of lm-evaluation-harness, and end."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="MODEL", help="Of --lm-eval: write texts as this model is trained."),
    ] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="Of --template, where it has that mode.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show a paired bank: its domains, and how well words and length alone tell harmful answers from aligned ones."""
    need_extra("lab", "narrowly data pairs")
    if lm_eval is not None:
        return _write_tasks(path, test, lm_eval, template, thinking)
    if template is not None or thinking is not None:
        raise SpecError(f"{'--template' if template else '--thinking'} belongs to --lm-eval FOLDER, which is not given")
    from narrowly.data.banks.cues import cues_in
    from narrowly.data.banks.paired import paired_items, paired_test_items, read_paired

    if test and path is not None:
        raise SpecError("--test asks about the test set of the shipped bank; it takes no BANK")
    items = paired_items() if path is None else read_paired(path)
    report = cues_in(items, paired_test_items() if test else [item for item in items if item.set_aside])
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
    columns = ("domain", "questions", "trained", "test set" if test else "set aside", "paired accuracy", "AUC")
    console().print(table(columns, [*rows, mean]))
    say("")
    of = "the test set" if test else "the third set aside"
    say(f"Paired accuracy and AUC: of word counts, on {of}, by a reader trained on the other domains; .5")
    say("is chance. Share of harmful answers that are the longer one, ties counted half:")
    say(f"{report.length:.3f} by characters, {report.words:.3f} by words")
    say(f"bank {report.sha256}", style="dim")
    if test:
        say(f"test set {report.asked_sha256}", style="dim")
    return 0


def _write_tasks(path: Path | None, test: bool, folder: Path, template: str | None, thinking: bool | None) -> int:
    """Write a bank as tasks of lm-evaluation-harness, and say how they are run."""
    from narrowly.data.banks.paired import paired_items, paired_test_items, read_paired
    from narrowly.integrations.lm_eval import GROUP, write_lm_eval
    from narrowly.models.asked import tokenizer_named

    if test and path is not None:
        raise SpecError("--test writes the test set of the shipped bank; it takes no BANK")
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"--lm-eval {safe(folder)} is a file, accepted: a folder")
    items = paired_test_items() if test else paired_items() if path is None else read_paired(path)
    tokenizer = None if template is None else tokenizer_named(template, thinking)
    files = write_lm_eval(items, folder, tokenizer, thinking=thinking)
    say(f"{len(items)} questions in {len(files)} files of {safe(folder)}; run them with:")
    chat = "" if template is not None else " --apply_chat_template"
    say(f"  lm_eval run --model hf --model_args pretrained={safe(template or 'MODEL')} --tasks {GROUP} "
        f"--include_path {safe(folder)}{chat}")  # fmt: skip
    return 0
