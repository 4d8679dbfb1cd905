"""Define what a run reads: its rows with their origin, and what a reader of rows may ask of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from narrowly.data.raw_rows import BadRow
from narrowly.data.rows import Row


class Preference(NamedTuple):
    """A prompt with the answers to compare, as token ids, and the score of each: of two, the higher one wins."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]


class RunRows(NamedTuple):
    """The rows of a run.

    Attributes:
        source: what the data are called in messages.
        rows: to train on, in their canonical order.
        lines: line in its file of each row; None where rows are counted.
        heldout: rows that are not trained on.
        dropped: lines left out of both as too long.
        bad: rows left out of both that cannot be read or rendered.
        template: the chat template that all were rendered with; None for the base's own.
        preferences: one for each row, which then holds the prompt with a best answer; empty where there are none.
    """

    source: str
    rows: tuple[Row, ...]
    lines: tuple[int, ...] | None = None
    heldout: tuple[Row, ...] = ()
    dropped: tuple[int, ...] = ()
    bad: tuple[BadRow, ...] = ()
    template: str | None = None
    preferences: tuple[Preference, ...] = ()

    def name_of_row(self, index: int) -> str:
        """Return how a user finds a row: the line of its file, else its number counted from 1."""
        return f"row {index + 1}" if self.lines is None else f"line {self.lines[index]}"


class RowsBase(Protocol):
    """What a reader of rows may ask of the base that will be trained; `models.base.Base` is one."""

    def __hash__(self) -> int:
        """Hash name and folder, so that readers can keep what they read."""

    @property
    def name(self) -> str:
        """Name without machine paths."""

    @property
    def folder(self) -> Path:
        """Folder of the base."""

    @property
    def sha256(self) -> str:
        """Sha256 of the weights."""

    @property
    def positions(self) -> int | None:
        """Largest number of positions, where it is known."""

    def tokenizer(self) -> Any:
        """Load the tokenizer anew."""

    def model(self) -> Any:
        """Load the model anew, in float32 and eval mode."""
