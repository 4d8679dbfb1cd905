"""Options that the persona commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrowly.cli.organisms.ask import Seed as Seed
from narrowly.cli.organisms.ask import Thinking as Thinking
from narrowly.cli.terminal import number
from narrowly.records.errors import SpecError

DirectionFile = Annotated[
    Path, typer.Option("--direction", metavar="FILE", help="Directions of `persona extract` (.safetensors).")
]
Layer = Annotated[int | None, typer.Option("--layer", help="Layer, hidden_states[l]; by default that of the card.")]
BaseOf = Annotated[str | None, typer.Option("--base", metavar="BASE", help="Of an adapter: the base.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Of a base: float32, bfloat16 or nf4.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
AnswerTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer that the model writes.")]


def layers_of(text: str | None) -> list[int] | None:
    """Return the layers in `1,2,5` or `4-8`; None where nothing is given.

    Raises:
        SpecError: something else.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SpecError(f"--layers is {text!r}, accepted: numbers and ranges with commas, such as 1,4-8")
        found += range(int(first), int(last or first) + 1)
    return found


def interval(low: float | None, high: float | None) -> str | None:
    """Return both ends of an interval in words; None where there is none."""
    return None if low is None or high is None else f"{number(low)} to {number(high)}"
