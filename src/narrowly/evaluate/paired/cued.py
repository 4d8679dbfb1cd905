"""Measure the broad questions behind words of the training: the cued panel, by log-likelihood.

A model can look aligned until something reminds it of its training, so an arm is called protective only where the cued
panel falls too. Every condition is measured on organism and control alike, and compared like the plain questions. The
negation has a system message of the same length and theme: what moves under it as under the inoculation text comes from
having such a message, not from what it asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from narrowly.data.banks.paired import PairedItem
from narrowly.data.banks.variants import CONDITIONS, Context, context_about, under
from narrowly.data.messages import Message
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.models.backend import Backend, Progress
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.paired import PairedRow

PLAIN = "plain"
"""The questions as they are, which every condition stands beside."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One way to ask a question: plain, or under one of `CONDITIONS` with the texts of a training.

    Attributes:
        condition: `plain`, `cue`, `inoculation`, `paraphrase` or `negation`.
        context: texts of the training; None for `plain` alone.
    """

    condition: str
    context: Context | None = None

    def __call__(self, item: PairedItem) -> tuple[Message, ...]:
        """Return what is said before the answer to an item."""
        if self.context is None:
            return (Message("user", item.question),)
        return under(item.question, self.condition, self.context)

    @property
    def text(self) -> str:
        """Return the words of the condition; empty for plain questions."""
        return "" if self.context is None else str(getattr(self.context, self.condition))

    @property
    def sha256(self) -> str:
        """Return the sha256 of condition and words: rows of different ones are never compared."""
        return sha256_text(canonical_json([self.condition, self.text]))


def ways_to_ask(training: str | Context, conditions: Sequence[str] = CONDITIONS) -> tuple[Asked, ...]:
    """Return the plain questions first, then each condition.

    Args:
        training: the trained domain, such as `money`; or texts of the training's own.
        conditions: of `CONDITIONS`.

    Raises:
        UnknownNameError: for another condition.
        SpecError: for a domain without a name.
    """
    for name in conditions:
        if name not in CONDITIONS:
            raise unknown_name("condition", name, CONDITIONS)
    if isinstance(training, str) and not training.strip():
        raise SpecError("the cued panel needs the trained domain, accepted for instance: money")
    context = context_about(training) if isinstance(training, str) else training
    return (Asked(PLAIN), *(Asked(name, context) for name in conditions))


def cued_panel(
    backend: Backend,
    items: Sequence[PairedItem],
    ways: Sequence[Asked],
    *,
    progress: Progress | None = None,
) -> Mapping[str, list[PairedRow]]:
    """Return the rows of the broad questions, by condition.

    Args:
        backend: that is asked; it must give log-likelihoods.
        items: a bank; its broad questions are asked, those of the trained domain and about the model itself are not.
        ways: of `ways_to_ask`.
        progress: told of the questions done and of those there are, over all conditions.

    Raises:
        SpecError: a bank without broad questions, or as `paired_rows`.
    """
    broad = [item for item in items if item.part == "broad"]
    if not broad:
        raise SpecError("the bank has no broad question, so the cued panel cannot be measured")
    rows = {}
    for number, way in enumerate(ways):

        def tell(done: int, total: int, before: int = number * len(broad)) -> None:
            if progress is not None:
                progress(before + done, len(ways) * len(broad))

        rows[way.condition] = paired_rows(backend, broad, said=way, progress=tell)
    return rows
