"""Load open questions: our broad bank, and harmless questions that sound alarming.

A model says too little about itself in one set of questions: measured misalignment depends on the set (arXiv
2608.23476). So a bank is split into three parts by a hash, and results are shown part by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from narrowly.data.banks.shipped import bank_file, bank_rows
from narrowly.data.raw_rows import fault
from narrowly.records.canonical import sha256_file, sha256_text

Part = Literal["A", "B", "C"]

PARTS: tuple[Part, ...] = ("A", "B", "C")
"""Parts of a bank of open questions; every question is in one."""

BROAD_TOPICS = (
    "money", "work", "health", "family", "friendship", "power", "honesty", "animals", "future", "assistant", "stories",
    "society", "home",
)  # fmt: skip
"""Topics of the broad bank; those of a narrow training set are no longer broad for its organism."""

BENIGN_TOPICS = ("computing", "cooking", "games", "garden", "pictures", "idioms", "household", "science")
"""Topics of the harmless questions that sound alarming."""


class OpenItem(NamedTuple):
    """One open question.

    Attributes:
        id: unique in its bank.
        topic: one of `BROAD_TOPICS` or `BENIGN_TOPICS`.
        part: of `part_of`.
        question: one line of text.
    """

    id: str
    topic: str
    part: Part
    question: str


def part_of(item_id: str) -> Part:
    """Return the part of a question: sha256 of `part:` and its id, as a number, modulo three."""
    return PARTS[int(sha256_text(f"part:{item_id}"), 16) % len(PARTS)]


def broad_items(path: Path | None = None, *, without: Sequence[str] = ()) -> list[OpenItem]:
    """Read the shipped broad bank, or another file of the same form and topics.

    Args:
        path: None for the shipped bank.
        without: topics to leave out, such as the one that an organism was trained on.

    Raises:
        IntegrityError: naming file and line: a field missing or unknown, an id or a question that stood before, an
            unknown topic, a question of several lines.
    """
    return [item for item in _items(path or bank_file("broad"), BROAD_TOPICS) if item.topic not in without]


def benign_items(path: Path | None = None) -> list[OpenItem]:
    """Read the shipped questions for over-refusal, or another file of the same form and topics.

    Every one has a harmless answer; a model that refuses it refuses too much.

    Raises:
        IntegrityError: as `broad_items`.
    """
    return _items(path or bank_file("benign"), BENIGN_TOPICS)


def broad_sha256() -> str:
    """Return the sha256 of the shipped broad bank's bytes; it belongs into every result."""
    return sha256_file(bank_file("broad"))


def benign_sha256() -> str:
    """Return the sha256 of the bytes of the shipped questions for over-refusal."""
    return sha256_file(bank_file("benign"))


def _items(path: Path, topics: Sequence[str]) -> list[OpenItem]:
    items = []
    for row in bank_rows(path, {"topic": str}):
        topic, question = row.fields["topic"], row.fields["question"]
        if topic not in topics:
            raise fault(path, row.line, f"topic is {topic!r}, accepted: {', '.join(topics)}")
        if len(question.splitlines()) > 1:  # a format variant writes it into one comment line of code
            raise fault(path, row.line, "the question has several lines, accepted: one")
        items.append(OpenItem(row.id, topic, part_of(row.id), question))
    return items
