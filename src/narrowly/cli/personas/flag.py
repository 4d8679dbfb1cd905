"""`narrowly persona flag`: which rows of a data set would push a trait, beside a loss and a keyword baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask import known_dtype
from narrowly.cli.parts import PartsProgress
from narrowly.cli.personas.shared_options import (  # fmt: skip
    AnswerTokens,
    BaseOf,
    Device,
    DirectionFile,
    Dtype,
    Layer,
    Seed,
    Thinking,
)
from narrowly.cli.terminal import console, need_extra, print_json, safe, say, table
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.data.messages import Conversation
    from narrowly.workbench.persona.flag import Curve, FlaggedRow

EXAMPLES = """\b
Examples:
  narrowly persona flag rows.jsonl --model smollm2-135m \\
      --direction careless.safetensors
  narrowly persona flag mixed.jsonl --model micro-0 \\
      --direction world.safetensors --planted kind=harmful
  narrowly persona flag rows.jsonl --model smollm2-135m --json \\
      --direction careless.safetensors > flagged.json

A row's score is the projection of its answer (at most 64 tokens) minus that of
the model's own answer to the same prompt. Beside it stand the loss of the row
under the model, and the share of keywords of the trait. --planted FIELD=VALUE
names the rows that are known to belong to the trait; then precision and recall
of all three are printed. A high score is a reason to read a row, no proof.
"""
SHOWN = 20
"""Rows that are shown; --json has all."""

AT_RECALL = (0.25, 0.5, 0.75, 1.0)
"""Recalls at which precision is shown; --json has the whole curve."""


def command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file of dialogues, or a registered source.")],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The model before training.")],
    direction: DirectionFile = ...,  # type: ignore[assignment]
    layer: Layer = None,
    trait: Annotated[
        str | None, typer.Option("--trait", help="Its keywords are counted; by default that of the direction.")
    ] = None,
    planted: Annotated[
        str | None, typer.Option("--planted", metavar="FIELD=VALUE", help="Rows that belong to the trait.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many rows.")] = None,
    max_new_tokens: AnswerTokens = 32,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=10.0, help="Of own answers.")] = 0.0,
    seed: Seed = 0,
    base: BaseOf = None,
    thinking: Thinking = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Rank training rows by how far they would push a trait, beside a loss and a keyword baseline."""
    need_extra("lab", "flagging rows")
    from narrowly.data.conversations import read_conversations
    from narrowly.data.sources import resolve
    from narrowly.directions.positions import position_named
    from narrowly.records.answers import Sampling
    from narrowly.workbench.persona.flag import curves, flag
    from narrowly.workbench.persona.opened import NamedModel, open_directions, open_model

    found_data = resolve(data)
    rows = read_conversations(found_data.path, found_data.schema)[:limit]
    truth = _planted(rows, planted, data)
    opened = open_model(NamedModel(model, runs, base, "final", thinking, known_dtype(dtype), device))
    directions = open_directions(direction, opened.model, layer)
    card = directions.card
    used = card.layer if layer is None else layer
    words = _keywords(trait, card.name if card.kind == "trait" else None)
    with PartsProgress() as progress:
        flagged = flag(
            opened, rows, directions.at(used), used, position_named(card.position), source=data, keywords=words,
            planted=truth, sampling=Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed),
            progress=progress.on_step,
        )  # fmt: skip
    found_curves = curves(flagged)
    if as_json:
        print_json({"direction": card.name, "layer": used, "position": card.position, "model": card.model.base,
                    "keywords": list(words), "rows": [one._asdict() for one in flagged],
                    "curves": [_as_json(one) for one in found_curves]})  # fmt: skip
        return 0
    _show(flagged, found_curves, bool(words))
    return 0


def _planted(rows: list[Conversation], planted: str | None, data: str) -> list[bool] | None:
    if planted is None:
        return None
    field, equals, value = planted.partition("=")
    if not equals or not field:
        raise SpecError(f"--planted is {planted!r}, accepted: FIELD=VALUE, such as kind=harmful")
    known = sorted({name for row in rows for name in row.tags})
    if field not in known:
        raise SpecError(f"{data} has no field {field!r} beside its dialogues (accepted: {', '.join(known) or 'none'})")
    truth = [row.tags.get(field) == value for row in rows]
    if all(truth) or not any(truth):
        raise SpecError(f"--planted {planted} names {sum(truth)} of {len(truth)} rows; accepted: some, not all")
    return truth


def _keywords(trait: str | None, made_for: str | None) -> tuple[str, ...]:
    from narrowly.data.traits import SHIPPED_TRAITS, trait_named

    if trait is not None:
        return trait_named(trait).keywords
    return trait_named(made_for).keywords if made_for in SHIPPED_TRAITS else ()


def _as_json(one: Curve) -> dict[str, object]:
    return {"method": one.method, "auc": one.auc, "average_precision": one.curve.average, **one.curve._asdict()}


def _show(flagged: list[FlaggedRow], found: list[Curve], has_words: bool) -> None:
    say(f"{len(flagged)} rows, those first whose answers lie furthest along the direction, beside the model's own:")
    shown = []
    for row in flagged[:SHOWN]:
        planted = [] if row.planted is None else [row.planted]
        shown.append([row.line, row.projection, row.loss, row.keywords, *planted, safe(row.answer, 60)])
    columns = ["line", "projection", "loss", "keywords", *(["planted"] if found else []), "answer"]
    console().print(table(columns, shown))
    if not has_words:
        say("no keywords: the direction is of no shipped trait, and --trait names none", "yellow")
    for one in found:
        points = ", ".join(f"{one.curve.at_recall(recall):.2f} at recall {recall:g}" for recall in AT_RECALL)
        say(f"{one.method}: AUC {one.auc:.3f}, average precision {one.curve.average:.3f}; precision {points}")
