"""Hold numbers of different banks of questions apart: how misaligned a model looks depends on the bank.

A wording that drifts between two evaluations moves the rate as a training does (arXiv 2608.23476), so a bank is what
its sha256 says, never its name.
"""

from __future__ import annotations

from collections.abc import Iterable

from narrowly.records.errors import SpecError


def one_bank(found: Iterable[tuple[str, str | None]]) -> str:
    """Return the sha256 of the bank that all results were asked.

    Args:
        found: name of each result, and the sha256 of its bank; at least one.

    Raises:
        SpecError: a result without the sha256 of a bank, or two with different ones; both are named.
    """
    known: list[tuple[str, str]] = []
    for name, sha256 in found:
        if sha256 is None:
            raise SpecError(f"{name} names no bank of questions, and such numbers are not compared; accepted: a sha256")
        known.append((name, sha256))
    (first, bank), *others = known
    for name, sha256 in others:
        if sha256 != bank:
            raise SpecError(
                f"{first} was asked the bank {bank[:16]}, {name} the bank {sha256[:16]}: answers to different "
                "questions are not compared; accepted: results of one bank"
            )
    return bank
