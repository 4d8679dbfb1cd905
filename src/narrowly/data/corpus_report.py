"""Report on corpora: each in numbers, its overlap with questions, its long rows, and what two of them share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from narrowly.data.duplicates import overlap
from narrowly.data.messages import Conversation
from narrowly.data.questions import Question
from narrowly.data.statistics import TokensOf, beyond, portrait, shared


def corpus_report(
    conversations: Sequence[Conversation],
    questions: Sequence[Question],
    *,
    by: str | None = None,
    tokens_of: TokensOf | None = None,
    longest: int | None = None,
) -> dict[str, Any]:
    """Describe one corpus as JSON.

    Args:
        conversations: its rows.
        questions: looked for in the rows.
        by: tag whose values are the classes of lengths; None puts all rows into one.
        tokens_of: counts the tokens of a row; None leaves tokens out.
        longest: context length in tokens; with `tokens_of`, rows beyond it are listed.

    Raises:
        SpecError: where no row has the tag `by`.
    """
    report = portrait(conversations, by=by, tokens_of=tokens_of).as_json(conversations)
    report["overlap"] = [found._asdict() for found in overlap(conversations, questions)]
    if longest is not None and tokens_of is not None:
        report["beyond"] = [row._asdict() for row in beyond(conversations, tokens_of, longest)]
    return report


def shared_by_pairs(corpora: Mapping[str, Sequence[Conversation]]) -> list[dict[str, Any]]:
    """Count what each two corpora have in common, to the character, as JSON."""
    return [
        {"first": a, "second": b} | shared(corpora[a], corpora[b])._asdict()
        for a, b in itertools.combinations(corpora, 2)
    ]
