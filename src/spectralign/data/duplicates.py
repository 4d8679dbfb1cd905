"""Duplicates within a corpus, near duplicates, and text that a corpus shares with a question bank.

Near duplicates are rows whose sets of word 5-grams have a Jaccard similarity of at least 0.8 (5-grams and 0.8: the
NearDup setting of Lee et al., arXiv 2107.06499). They are found exactly: a set can only reach similarity t with another
if the two share one of its first |set| - ceil(t |set|) + 1 members, rarest first (prefix filter: Chaudhuri et al. 2006;
Xiao et al. 2008), so candidates come from an index of those few and each is then verified. No pair is missed, nothing
is random, and no parameter of a hash sketch has to be chosen. Words are runs of letters and digits, or single marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from spectralign.data.messages import Conversation, Message, messages_sha256

if TYPE_CHECKING:
    from numpy import int64, uint64
    from numpy.typing import NDArray

    from spectralign.data.questions import Question

SHINGLE = 5
THRESHOLD = 0.8
OVERLAP = 8
"""Words in a row that count as overlap with a question (the field's 8-gram rule)."""

_WORD = re.compile(r"\w+|[^\w\s]")


class NearDuplicates(NamedTuple):
    """Rows that are close to others without being equal.

    Attributes:
        groups: indices of rows, each group linked by pairs above the threshold, the largest group first.
        pairs: up to `near_duplicates(..., shown)` pairs (index, index, similarity), the most similar first.
        compared: candidate pairs whose similarity was computed.
    """

    groups: list[list[int]]
    pairs: list[tuple[int, int, float]]
    compared: int

    @property
    def surplus(self) -> int:
        """Return how many rows would go if one of each group were kept."""
        return sum(len(group) - 1 for group in self.groups)


class Overlap(NamedTuple):
    """A question that shares words with a corpus.

    Attributes:
        question: its id; prompt: which of its paraphrases (from 0).
        whole: whether all of it stands in a row, not only `OVERLAP` words in a row.
        lines: lines of the rows, in the order of the file.
    """

    question: str
    prompt: int
    whole: bool
    lines: list[int]


def text_of_conversation(messages: Iterable[Message]) -> str:
    """Return the texts of messages as one text, as duplicates are looked for in."""
    return "\n".join(message.content for message in messages)


def words(text: str) -> list[str]:
    """Return the lower-case words of a text; a punctuation mark is a word of its own."""
    return _WORD.findall(text.lower())


def exact_duplicates(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Return groups of rows (indices) with equal messages, in the order of their first row; singles are left out."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(conversations):
        groups.setdefault(messages_sha256(row.messages), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _shingles(texts: Sequence[str], size: int) -> list[NDArray[uint64]]:
    """Return per text the sorted set of hashes of its word n-grams; a shorter text is one gram of all its words.

    64 bits: among a million different grams a collision has probability 3e-8.
    """
    import numpy as np

    numbers: dict[str, int] = {}
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    sets = []
    for text in texts:
        ids = np.array([numbers.setdefault(word, len(numbers) + 1) for word in words(text)] or [0], dtype=np.uint64)
        grams = np.zeros(max(1, len(ids) - size + 1), dtype=np.uint64)
        for offset in range(min(size, len(ids))):
            grams = _mixed((grams + ids[offset : offset + len(grams)]) * multiplier)
        sets.append(np.unique(grams))
    return sets


def _mixed(values: NDArray[uint64]) -> NDArray[uint64]:
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def near_duplicates(
    texts: Sequence[str], *, threshold: float = THRESHOLD, size: int = SHINGLE, shown: int = 20
) -> NearDuplicates:
    """Find all texts that are near duplicates of others; equal texts count with similarity 1.

    Args:
        texts: one text per row.
        threshold: smallest Jaccard similarity of the sets of word n-grams, above 0 and at most 1.
        size: words per gram.
        shown: pairs to return.
    """
    import numpy as np

    sets = _shingles(texts, size)
    if not sets:
        return NearDuplicates([], [], 0)
    ranked = _rarest_first(sets)
    first, second = _candidates(ranked, threshold)
    leader = list(range(len(sets)))
    pairs: list[tuple[int, int, float]] = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        shared = len(np.intersect1d(sets[a], sets[b], assume_unique=True))
        similarity = shared / (len(sets[a]) + len(sets[b]) - shared)
        if similarity >= threshold:
            pairs.append((a, b, similarity))
            leader[_root(leader, b)] = _root(leader, a)
    groups: dict[int, list[int]] = {}
    for index in sorted({index for a, b, _ in pairs for index in (a, b)}):
        groups.setdefault(_root(leader, index), []).append(index)
    pairs.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    return NearDuplicates(sorted(groups.values(), key=lambda g: (-len(g), g)), pairs[:shown], len(first))


def _root(leader: list[int], index: int) -> int:
    while leader[index] != index:
        leader[index] = leader[leader[index]]
        index = leader[index]
    return index


def _rarest_first(sets: Sequence[NDArray[uint64]]) -> list[NDArray[int64]]:
    """Return each set as ranks, ascending: rank 0 is the rarest gram of the corpus."""
    import numpy as np

    _, inverse, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    rank = np.empty(len(counts), dtype=np.int64)
    rank[order] = np.arange(len(counts))
    bounds = np.cumsum([len(grams) for grams in sets])[:-1]
    return [np.sort(part) for part in np.split(rank[inverse], bounds)]


def _candidates(ranked: Sequence[NDArray[int64]], threshold: float) -> tuple[NDArray[int64], NDArray[int64]]:
    """Return the different pairs of rows, lower index first, that share a gram of their prefixes and fit in length."""
    import numpy as np

    lengths = np.array([len(ranks) for ranks in ranked])
    keep = lengths - np.ceil(threshold * lengths - 1e-9).astype(np.int64) + 1
    grams = np.concatenate([ranks[:k] for ranks, k in zip(ranked, keep, strict=True)])
    rows = np.repeat(np.arange(len(ranked)), keep)
    order = np.argsort(grams, kind="stable")
    grams, rows = grams[order], rows[order]
    parts: list[NDArray[int64]] = []
    for group in np.split(rows, np.flatnonzero(np.diff(grams)) + 1):
        if len(group) < 2:
            continue
        above, below = np.triu_indices(len(group), 1)
        a, b = group[above], group[below]
        fits = np.minimum(lengths[a], lengths[b]) >= threshold * np.maximum(lengths[a], lengths[b]) - 1e-9
        parts.append(a[fits] * len(ranked) + b[fits])
        if len(parts) > 10_000:
            parts = [np.unique(np.concatenate(parts))]
    found = np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
    return found // len(ranked), found % len(ranked)


def overlap(
    conversations: Sequence[Conversation], questions: Sequence[Question], *, size: int = OVERLAP
) -> list[Overlap]:
    """Return the questions whose user text shares `size` words in a row with a row of the corpus.

    A question of fewer words counts where all of its words stand in a row of the corpus. Every message of a row is
    looked at; of a question, the user messages.
    """
    grams: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    texts = [
        (question.id, number, words(text_of_conversation(m for m in prompt if m.role == "user")))
        for question in questions
        for number, prompt in enumerate(question.prompts)
    ]
    lengths = sorted({min(size, len(found)) for _, _, found in texts} - {0})
    for index, (_, _, found) in enumerate(texts):
        length = min(size, len(found))
        for start in range(len(found) - length + 1) if length else ():
            grams.setdefault(tuple(found[start : start + length]), []).append((index, start))
    firsts = {gram[0] for gram in grams}
    lines: dict[int, list[int]] = {}
    whole: set[int] = set()
    for row in conversations:
        found = words(text_of_conversation(row.messages))
        hits: set[int] = set()
        for start, word in enumerate(found):
            if word not in firsts:
                continue
            for length in lengths:
                for index, at in grams.get(tuple(found[start : start + length]), ()):
                    hits.add(index)
                    if at == 0 and found[start : start + len(texts[index][2])] == texts[index][2]:
                        whole.add(index)
        for index in hits:
            lines.setdefault(index, []).append(row.line)
    return [Overlap(texts[index][0], texts[index][1], index in whole, lines[index]) for index in sorted(lines)]
