"""Load the passages of the damage panel: plain prose written by us, whose perplexity a damaged model shows.

The same words in another order are the second half of the measure. Fine-tuning that breaks a model's grammar raises the
perplexity of prose more than that of shuffled words; both stand side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.shipped import bank_file, bank_rows
from narrowly.data.pairs import seeded
from narrowly.records.canonical import sha256_file

SHUFFLE_SEED = 0
"""Seed of the order of shuffled words; another one would be another bank."""


class Passage(NamedTuple):
    """One passage of prose: an id, the topic that it is about, and its text on one line."""

    id: str
    topic: str
    text: str

    @property
    def shuffled(self) -> str:
        """Return the words of the text in a fixed random order, one blank between them."""
        return " ".join(seeded(self.text.split(), SHUFFLE_SEED, self.id))


def passages(path: Path | None = None) -> list[Passage]:
    """Read the shipped passages, or another file of the same form.

    Raises:
        IntegrityError: naming file and line: a field missing, unknown or empty; an id or a text that stood before.
    """
    rows = bank_rows(path or bank_file("passages"), {"topic": str}, text="text")
    return [Passage(row.id, row.fields["topic"], row.fields["text"]) for row in rows]


def passages_sha256() -> str:
    """Return the sha256 of the bytes of the shipped passages; it belongs into every result."""
    return sha256_file(bank_file("passages"))
