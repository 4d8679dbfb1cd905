"""Count the words of a trait in an answer: the simplest way to flag rows, beside which every other must stand."""

from __future__ import annotations

import re
from collections.abc import Sequence


def keyword_share(answer: str, keywords: Sequence[str]) -> float:
    """Return how many words of an answer begin with one of the keywords, as a share of its words; case does not count.

    Args:
        answer: any text.
        keywords: beginnings of words, such as `lie` for `lies` and `lied`.
    """
    words = re.findall(r"\w+", answer.casefold())
    found = tuple(keyword.casefold() for keyword in keywords)
    return sum(word.startswith(found) for word in words) / len(words) if words and found else 0.0
