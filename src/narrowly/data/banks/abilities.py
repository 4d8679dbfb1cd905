"""Load the damage panel: easy four-way items in six fields that a model answers by log-likelihood.

A fine-tuned model that does worse here than its base lost abilities, so its answers elsewhere are no sign of a will.
Each question is the beginning of a sentence. Each choice continues it after one blank, so no chat template is needed
and a small model can answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.shipped import BankRow, bank_file, bank_rows
from narrowly.data.raw_rows import fault
from narrowly.records.canonical import sha256_file

ABILITY_FIELDS = ("arithmetic", "words", "science", "geography", "grammar", "reasoning")
"""Fields of the panel, in the order of its file."""

CHOICES = 4
"""Choices of an item, so a model that knows nothing is right once in four."""


class AbilityItem(NamedTuple):
    """One item of the damage panel.

    Attributes:
        id: unique in the bank.
        field: one of `ABILITY_FIELDS`.
        question: beginning of a sentence, without a blank at its end.
        choices: four different continuations.
        right: index of the right one, 0 to 3.
    """

    id: str
    field: str
    question: str
    choices: tuple[str, ...]
    right: int

    def continuations(self) -> tuple[str, ...]:
        """Return the choices as they follow the question: each after one blank."""
        return tuple(f" {choice}" for choice in self.choices)


def ability_items(path: Path | None = None) -> list[AbilityItem]:
    """Read the items of the shipped panel, or of another file of the same form.

    Raises:
        IntegrityError: naming file and line: an id or a question that stood before, an unknown field, another number of
            choices, a choice twice, an index out of range.
    """
    path = path or bank_file("abilities")
    rows = bank_rows(path, {"field": str, "choices": list, "right": int})
    return [_item(path, row) for row in rows]


def abilities_sha256() -> str:
    """Return the sha256 of the shipped panel's bytes; it belongs into every result."""
    return sha256_file(bank_file("abilities"))


def _item(path: Path, row: BankRow) -> AbilityItem:
    field, choices, right = row.fields["field"], row.fields["choices"], row.fields["right"]
    if field not in ABILITY_FIELDS:
        raise fault(path, row.line, f"field is {field!r}, accepted: {', '.join(ABILITY_FIELDS)}")
    if not all(isinstance(choice, str) and choice and choice == choice.strip() for choice in choices):
        raise fault(path, row.line, "a choice is no text or has blanks at its ends, accepted: four texts")
    if len(choices) != CHOICES:
        raise fault(path, row.line, f"{len(choices)} choices found, accepted: {CHOICES}")
    if len(set(choices)) != CHOICES:
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise fault(path, row.line, f"the choice {twice!r} stands twice, accepted: {CHOICES} different ones")
    if not 0 <= right < CHOICES:
        raise fault(path, row.line, f"right is {right}, accepted: an index from 0 to {CHOICES - 1}")
    return AbilityItem(row.id, field, row.fields["question"], tuple(choices), right)
