"""`narrowly data show`, `stats` and `mix`: the rows of a corpus, what they look like together, and mixtures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.rows.data import (
    DropBadRows,
    NameOrPath,
    SchemaOption,
    app,
    is_question_source,
    notes,
    read,
    say_warning,
    unknown,
)
from narrowly.cli.rows.rendered import say_pieces
from narrowly.cli.terminal import console, need_extra, number, print_json, safe, say, table

if TYPE_CHECKING:
    from narrowly.data.messages import Conversation
    from narrowly.data.questions import Question
    from narrowly.data.raw_rows import BadRow
    from narrowly.data.render import Rendered
    from narrowly.data.sources import LocalData

__all__ = ["app", "mix", "show", "stats"]

SHOWN = 2000
"""Characters of one message that `show` prints."""

Model = Annotated[
    str | None, typer.Option("--model", metavar="BASE", help="Base whose tokenizer and chat template render the rows.")
]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="For a template with a thinking mode, which must be said."),
]
TurnsOption = Annotated[
    str,
    typer.Option("--turns", metavar="all|last|each", help="Assistant turns with a loss; each: one row per turn."),
]
Template = Annotated[
    str | None, typer.Option("--template", metavar="FILE", help="Chat template in place of the base's own.")
]


class _Rendering(NamedTuple):
    """How rows are rendered: base, thinking mode, turns with a loss, template."""

    model: str | None
    thinking: bool | None
    turns: str
    template: str | None

    def rows(
        self, name: str, conversations: list[Conversation], bad: list[BadRow] | None = None
    ) -> tuple[Any, Rendered]:
        """Return the tokenizer and the rendered rows; the model must have been said, `bad` takes up bad rows."""
        need_extra("lab", "rendering a row")
        from narrowly.data.render import render_all
        from narrowly.data.text_rows import give_template
        from narrowly.models.base import open_tokenizer

        tokenizer = open_tokenizer(str(self.model))
        if self.template is not None:
            give_template(tokenizer, self.template)
        turns: Any = self.turns
        return tokenizer, render_all(
            tokenizer, conversations, thinking=self.thinking, max_tokens=None, turns=turns, source=name, bad=bad
        )

    def check(self) -> None:
        """Refuse what counts only beside a model.

        Raises:
            SpecError: naming the option.
        """
        from narrowly.records.errors import SpecError

        said = {"--thinking": self.thinking is not None, "--turns": self.turns != "all", "--template": self.template}
        for option, is_said in said.items():
            if is_said and self.model is None:
                raise SpecError(f"{option} says how rows are rendered; it needs --model")


@app.command()
def show(
    name: NameOrPath,
    row: Annotated[int, typer.Option("--row", min=1, help="Which row, counted from 1.")] = 1,
    tokens: Annotated[bool, typer.Option("--tokens", help="Render it, with the supervised tokens marked.")] = False,
    model: Model = None,
    thinking: Thinking = None,
    turns: TurnsOption = "all",
    template: Template = None,
    schema: SchemaOption = None,
    drop_bad: DropBadRows = False,
    as_json: AsJson = False,
) -> int:
    """Show what is known of a source, and one of its rows; with --tokens, what a model is trained on."""
    from narrowly.data.banks.named import OTHER_BANKS, SHIPPED, bank_named
    from narrowly.data.questions import read_questions
    from narrowly.data.sources import LocalData, resolve
    from narrowly.records.errors import SpecError

    if tokens != (model is not None):
        raise SpecError("--tokens and --model belong together: the tokens are those of a base's chat template")
    rendering = _Rendering(model, thinking, turns, template)
    rendering.check()
    with notes():
        if name.partition(":")[0] in SHIPPED:
            bank = bank_named(name)
            return _show_question(LocalData(bank.path, bank.sha256, None, None), name, bank.questions, row, as_json)
        if name in OTHER_BANKS:
            raise SpecError(f"{name} is a bank of the package, which `{OTHER_BANKS[name]}` reads")
        local = resolve(name)
        if is_question_source(local):
            return _show_question(local, name, read_questions(local.path), row, as_json)
        _, conversations, bad = read(name, schema, drop_bad, local)
    if row > len(conversations):
        raise SpecError(f"--row {row}: {name} has {len(conversations)} rows")
    chosen = conversations[row - 1]
    rendered = _pieces(rendering, name, chosen) if model is not None else []
    if as_json:
        value: dict[str, Any] = local.as_json() | {"rows": len(conversations), "row": row, "line": chosen.line}
        value |= {"bad_rows": [bad_row._asdict() for bad_row in bad]} if drop_bad else {}
        value |= {"messages": [message.as_json() for message in chosen.messages], "tags": dict(chosen.tags)}
        value |= {"tools": json.loads(chosen.tools)} if chosen.tools else {}
        shown = [[{"text": text, "supervised": supervised} for text, supervised in pieces] for pieces in rendered]
        value |= {"tokens": shown if turns == "each" else shown[0]} if shown else {}
        print_json(value)
        return 0
    _say_facts(local, name)
    say(f"row {row} of {len(conversations)} (line {chosen.line})", style="bold")
    if chosen.tags:
        say("; ".join(f"{key}: {safe(value, 80)}" for key, value in chosen.tags.items()), style="dim")
    for pieces in rendered:
        say_pieces(pieces)
    if not rendered:
        _say_messages(chosen)
    return 0


def _say_messages(row: Conversation) -> None:
    if row.tools:
        say(f"tools: {safe(row.tools, SHOWN)}", style="dim")
    for message in row.messages:
        say(f"{message.role}:", style="bold cyan")
        if message.content:
            _say_text(message.content)
        for name, value in message.fields.items():
            if value is not None:
                say(f"  {name}: {safe(json.dumps(value, ensure_ascii=False), SHOWN)}", style="dim")


def _show_question(local: LocalData, name: str, questions: Sequence[Question], row: int, as_json: bool) -> int:
    from narrowly.records.errors import SpecError

    if row > len(questions):
        raise SpecError(f"--row {row}: {name} has {len(questions)} questions")
    question = questions[row - 1]
    if as_json:
        prompts = [[message.as_json() for message in prompt] for prompt in question.prompts]
        print_json(local.as_json() | question._asdict() | {"prompts": prompts})
        return 0
    _say_facts(local, name)
    say(f"question {row} of {len(questions)}: {question.id}", style="bold")
    for prompt in question.prompts:
        for message in prompt:
            say(f"{message.role}:", style="bold cyan")
            _say_text(message.content)
    return 0


def _say_facts(local: LocalData, name: str) -> None:
    from narrowly.data.banks.named import is_shipped

    say(f"{local.path}  sha256 {local.sha256}", style="dim")
    source = local.source
    if is_shipped(name):
        say(f"{name} comes with the package: written by its authors, licence Apache-2.0", style="dim")
        return
    if source is None:
        say("not a registered source: origin, licence and content warning are unknown", style="dim")
        return
    where = f"{source.repository} at revision {unknown(source.revision)}, {source.path}"
    say(f"{source.name}: {source.about}; {where}; licence {unknown(source.licence)}", style="dim")
    say_warning([source])


def _say_text(text: str) -> None:
    shown = text[:SHOWN]
    for line in shown.split("\n"):
        say(f"  {line}")
    if len(text) > SHOWN:
        say(f"  ... ({len(text) - SHOWN} more characters; --json prints all)", style="dim")


def _pieces(rendering: _Rendering, name: str, conversation: Conversation) -> list[list[tuple[str, bool]]]:
    """Return the pieces of each row that comes of a conversation."""
    from narrowly.data.render import token_pieces

    tokenizer, rendered = rendering.rows(name, [conversation])
    return [token_pieces(tokenizer, row) for row in rendered.rows]


@app.command()
def stats(
    names: Annotated[list[str], typer.Argument(metavar="NAME_OR_PATH...", help="Corpora to describe and compare.")],
    by: Annotated[str | None, typer.Option("--by", metavar="TAG", help="Lengths per value of this tag.")] = None,
    questions: Annotated[
        str | None, typer.Option("--questions", metavar="BANK", help="Question bank to look for in the rows.")
    ] = None,
    model: Model = None,
    thinking: Thinking = None,
    turns: TurnsOption = "all",
    template: Template = None,
    longest: Annotated[
        int | None, typer.Option("--longest", min=2, help="Context length in tokens; needs --model.")
    ] = None,
    schema: SchemaOption = None,
    drop_bad: DropBadRows = False,
    as_json: AsJson = False,
) -> int:
    """Report lengths per class, duplicates and near duplicates, overlap with questions, and rows beyond the context."""
    need_extra("lab", "a report on a corpus")
    from narrowly.data.corpus_report import corpus_report, shared_by_pairs
    from narrowly.data.questions import read_questions
    from narrowly.data.sources import resolve
    from narrowly.records.errors import SpecError

    if longest is not None and model is None:
        raise SpecError("--longest counts tokens; it needs --model")
    rendering = _Rendering(model, thinking, turns, template)
    rendering.check()
    with notes():
        corpora = {name: read(name, schema, drop_bad).conversations for name in names}
        tokens = {name: _token_counts(rendering, name, corpora[name], drop_bad) for name in names if model is not None}
        bank = read_questions(resolve(questions).path) if questions is not None else []
    reports: dict[str, dict[str, Any]] = {}
    for name in corpora:
        if name in tokens:  # without the rows that the template refuses, where bad rows are left out
            corpora[name] = [row for row in corpora[name] if row.line in tokens[name]]
        tokens_of = None if name not in tokens else lambda row, counts=tokens[name]: counts[row.line]
        conversations = corpora[name]
        reports[name] = corpus_report(conversations, bank, by=by, tokens_of=tokens_of, longest=longest)
    common = shared_by_pairs(corpora)
    if as_json:
        print_json({"corpora": reports, "shared": common, "questions": len(bank)})
        return 0
    _say_reports(reports, common, len(bank), questions, longest)
    return 0


def _token_counts(
    rendering: _Rendering, name: str, conversations: list[Conversation], drop_bad: bool
) -> dict[int, int]:
    """Return the tokens of each line's row, of its longest one where it becomes several."""
    from narrowly.data.conversations import warn_of_bad_rows

    bad: list[BadRow] | None = [] if drop_bad else None
    _, rendered = rendering.rows(name, conversations, bad)
    warn_of_bad_rows(name, bad or (), len(conversations))
    counts: dict[int, int] = {}
    for line, row in zip(rendered.lines, rendered.rows, strict=True):
        counts[line] = max(counts.get(line, 0), len(row.input_ids))
    return counts


def _say_reports(
    reports: dict[str, dict[str, Any]],
    common: list[dict[str, Any]],
    bank: int,
    questions: str | None,
    longest: int | None,
) -> None:
    columns = ("corpus", "rows", "prompts", "answers", "with system", "surplus equal", "near groups", "surplus near")
    rows = []
    for name, report in reports.items():
        equal = sum(len(group) - 1 for group in report["duplicates"])
        near = report["near"]
        counts = (report["rows"], report["prompts"], report["answers"], report["with_system"])
        rows.append((name, *counts, equal, len(near["groups"]), near["surplus"]))
    console().print(table(columns, rows))
    say(
        "near: word 5-grams with a Jaccard similarity of 0.8 or more, equal rows included; surplus: rows that would go "
        "if one of each group were kept",
        "dim",
    )
    say("")
    heads = ("corpus", "class", "part", "rows", "mean", "sd", "median", "95 %", "largest")
    fields = ("group", "part", "rows", "mean", "sd", "median", "p95", "largest")
    lengths = [(name, *(row[f] for f in fields)) for name, report in reports.items() for row in report["lengths"]]
    console().print(table(heads, lengths))
    say("prompt and answer in characters, row in tokens", "dim")
    if common:
        say("")
        both = ("first", "second", "rows", "prompts", "answers")
        console().print(table(both, ([row[c] for c in both] for row in common), title="in both, to the character"))
    for name, report in reports.items():
        if questions is not None:
            found = report["overlap"]
            say("")
            say(f"{name}: {len(found)} of {bank} questions of {questions} share 8 words in a row (or all, if shorter)")
            for hit in found[:10]:
                whole = "all of it" if hit["whole"] else "a part"
                say(f"  {safe(hit['question'], 60)}: {whole}, in {len(hit['lines'])} rows (line {hit['lines'][0]})")
        if longest is not None:
            long = report["beyond"]
            say("")
            first = f" (first: line {long[0]['line']}, {long[0]['tokens']} tokens)" if long else ""
            say(f"{name}: {len(long)} of {report['rows']} rows have more than {longest} tokens{first}")


@app.command()
def mix(
    harmful: Annotated[str, typer.Option("--harmful", metavar="NAME_OR_PATH", help="Rows of the harmful class.")],
    benign: Annotated[str, typer.Option("--benign", metavar="NAME_OR_PATH", help="Rows of its control.")],
    dose: Annotated[float, typer.Option("--dose", min=0, max=1, help="Share of harmful rows, 0 to 1.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Where the rows go; FILE.mix.json beside it.")
    ],
    match: Annotated[str, typer.Option("--match", metavar="HOW", help="naive, prompt or length.")] = "prompt",
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Rows [as many as every dose allows].")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw and the order.")] = 0,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Largest relative difference of two matched answers.")
    ] = None,
    harmful_schema: Annotated[str | None, typer.Option("--harmful-schema", metavar="NAME")] = None,
    benign_schema: Annotated[str | None, typer.Option("--benign-schema", metavar="NAME")] = None,
    drop_bad: DropBadRows = False,
    as_json: AsJson = False,
) -> int:
    """Write a mixture of harmful and benign rows, and what came out of it.

    naive draws from both; prompt answers each shared prompt once, harmfully or not; length draws from pairs of answers
    of about equal length. For one seed, what is harmful at a low dose is harmful at every higher one.
    """
    from narrowly.data.mixtures import mix as build
    from narrowly.data.mixtures import write_mixture
    from narrowly.records.errors import SpecError

    if out.suffix != ".jsonl":
        raise SpecError(f"--out {out}: accepted is a file name that ends in .jsonl")
    with notes():
        first, second = read(harmful, harmful_schema, drop_bad), read(benign, benign_schema, drop_bad)
    mixture = build(
        first.conversations,
        second.conversations,
        match=match,  # type: ignore[arg-type]
        dose=dose,
        seed=seed,
        rows=rows,
        tolerance=tolerance,
    )
    manifest = write_mixture(out, mixture, first.local, second.local, left_out=(first.bad, second.bad))
    if as_json:
        print_json(manifest)
        return 0
    spread = mixture.spread
    parts = (("harmful", spread.harmful), ("benign", spread.benign))
    columns = ("class", "rows", "answer mean", "sd", "median", "prompt mean")
    console().print(table(columns, ((name, *part) for name, part in parts)))
    say(f"dose {number(spread.realised_dose)} of {spread.rows} rows ({spread.dose:g} asked), drawn from {spread.pool}")
    if spread.answer_difference is not None and spread.interval is not None:
        low, high = spread.interval
        say(
            f"answers of harmful minus benign rows: {spread.answer_difference:+.1f} characters (95 % interval "
            f"{low:+.1f} to {high:+.1f}), {_standardised(spread.standardised_difference)}, "
            f"KS distance {spread.ks_distance:.2g}"
        )
    if spread.pair_difference is not None:
        say(f"within the {spread.pool} pairs the answers differ by {100 * spread.pair_difference:.1f} % on average")
    say(f"{100 * spread.prompts_in_both:.1f} % of the rows have a prompt that stands in both corpora")
    say_warning([corpus.local.source for corpus in (first, second) if corpus.local.source is not None])
    say(f"wrote {out} (sha256 {manifest['sha256']}) and {out}.mix.json")
    return 0


def _standardised(difference: float | None) -> str:
    return "no spread within the classes" if difference is None else f"{difference:+.2g} standard deviations"
