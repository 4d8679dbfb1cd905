"""Every row under one tokenizer and template: the product's tokens against those of the twin, cell by cell."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from narrowly.data.conversations import read_conversations
from narrowly.data.render import Turns, render_all
from narrowly.records.errors import NarrowlyError
from real_templates import ROWS
from template_twin import IGNORE, Mode, Tokens, verdict

REASONS = {
    "mode": "thinking mode",
    "begun": "opens a thought",
    "thought": "thinking is false",
    "tags": "thinking is false|takes </think> for",
    "stop": "closes the assistant's turn|leaves out|takes </think> for",
    "history": "rewrites earlier turns|opens a thought",
    "tools": "leaves out the tool|refuses it",
    "context": "leaves out|refuses it",
    "raises": "refuses it|leaves out|rewrites earlier turns",
    "text": "leaves out or changes|a thought of its own|thinking is false|opens a thought",
    "prompt": "opens a thought|thinking is false|leaves out|in another way|rewrites earlier turns|no token of its own",
}
"""What a refusal may say, by the first reason that the twin finds; several may hold at once."""


def write_rows(folder: Path) -> dict[str, Path]:
    """Write each row into a file of its own."""
    files = {name: folder / f"row-{number}.jsonl" for number, name in enumerate(ROWS)}
    for name, file in files.items():
        file.write_text(json.dumps(ROWS[name]) + "\n", encoding="utf-8")
    return files


def _product(tokenizer: Any, file: Path, mode: Mode) -> tuple[Tokens, ...] | str:
    """Return the rows that the product trains on, or the words of its refusal."""
    turns: Turns = mode.turns  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            conversations = read_conversations(file)
            found = render_all(tokenizer, conversations, thinking=mode.thinking, max_tokens=None, turns=turns)
    except NarrowlyError as error:
        return str(error)
    return tuple((list(row.input_ids), list(row.labels)) for row in found.rows)


def _trained(tokenizer: Any, rows: tuple[Tokens, ...]) -> list[str]:
    return [tokenizer.decode([token for token in labels if token != IGNORE]) for _, labels in rows]


def _modes(closing: str | None, has_thinking: bool) -> Iterator[Mode]:
    for thinking in (False, True) if has_thinking else (None,):
        for turns in get_args(Turns):
            yield Mode(closing, has_thinking, thinking, turns)


def wrong_cells(tokenizer: Any, files: dict[str, Path], closing: str | None, has_thinking: bool) -> list[str]:
    """Return one line for every cell in which product and twin differ, or a refusal is needless or not as it should be.

    Args:
        tokenizer: with its template.
        files: as `write_rows` returns them.
        closing: what the model writes last in a turn; None where the template writes nothing.
        has_thinking: whether the template asks for a thinking mode.
    """
    wrong = []
    cells = [(name, mode) for mode in _modes(closing, has_thinking) for name in ROWS]
    cells += [("one exchange", Mode(closing, has_thinking, None if has_thinking else False))]
    for name, mode in cells:
        if mode.turns != "all" and sum(message["role"] == "assistant" for message in ROWS[name]["messages"]) == 1:
            continue
        right, found = verdict(tokenizer, mode, ROWS[name]), _product(tokenizer, files[name], mode)
        cell = f"{name}, thinking {mode.thinking}, turns {mode.turns}:"
        if isinstance(found, str):
            if right.refusal is None:
                wrong.append(f"{cell} refused without need: {found}")
            elif not re.search(REASONS[right.refusal], found):
                wrong.append(f"{cell} refused for another reason ({right.refusal}): {found}")
            elif "accepted: " not in found and "leave it out" not in found:
                wrong.append(f"{cell} refused without a way out: {found}")
        elif not right.rows:
            wrong.append(f"{cell} to be refused ({right.refusal}), but trained on {_trained(tokenizer, found)}")
        elif found not in right.rows:
            others = [_trained(tokenizer, rows) for rows in right.rows]
            wrong.append(f"{cell} trained on {_trained(tokenizer, found)}, the twin on {others}")
    return wrong
