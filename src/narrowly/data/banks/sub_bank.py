"""Choose a fixed part of a paired bank, small enough to be asked again and again during a training.

The choice looks at ids and places alone, never at what a model answered: the questions are put in the order of rung,
domain, part of the bank and hash, and every n-th is taken. Each of these strata so gets its share, up to one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narrowly.data.banks.broad import part_of
from narrowly.data.banks.paired import TRAINED_DOMAINS, PairedItem, paired_sha256
from narrowly.records.canonical import sha256_text
from narrowly.records.errors import SpecError, counted
from narrowly.records.paired import LADDER

CHOICE = (
    "systematic sample over rung, domain and part (A, B, C), in the order of the sha256 of tripwire:ID; no outcome is "
    "looked at"
)
"""How the questions were chosen, in words that stand in every record."""


class SubBank(NamedTuple):
    """Hold the chosen questions, in the order of their ids.

    Attributes:
        items: the questions.
        sha256: of their content (`paired_sha256`).
        of: how many there were to choose from.
    """

    items: tuple[PairedItem, ...]
    sha256: str
    of: int


def untrained(items: Sequence[PairedItem]) -> list[PairedItem]:
    """Return the questions about other things than the narrow sets of the shipped bank: its broad and self rungs."""
    return [item for item in items if item.part in ("broad", "self") and item.domain not in TRAINED_DOMAINS]


def sub_bank(items: Sequence[PairedItem], questions: int) -> SubBank:
    """Return `questions` of the items, stratified; a pure function of their ids and places.

    Systematic sampling from an ordered list stratifies by what orders it (Cochran 1977, Sampling Techniques, 8.1).

    Args:
        items: to choose from.
        questions: how many to choose, at least 1.

    Raises:
        SpecError: no items, or fewer than are asked for.
    """
    if not items:
        raise SpecError("the bank of the tripwire is empty; accepted: at least one question")
    if not 1 <= questions <= len(items):
        raise SpecError(
            f"questions is {questions} and the bank has {counted(len(items), 'question')} to choose from; accepted: 1 "
            f"to {len(items)}"
        )
    ordered = sorted(items, key=_place)
    step = len(ordered) / questions
    chosen = [ordered[int((number + 0.5) * step)] for number in range(questions)]
    kept = tuple(sorted(chosen, key=lambda item: item.id))
    return SubBank(kept, paired_sha256(kept), len(items))


def _place(item: PairedItem) -> tuple[int, str, str, str]:
    return LADDER.index(item.part), item.domain, part_of(item.id), sha256_text(f"tripwire:{item.id}")
