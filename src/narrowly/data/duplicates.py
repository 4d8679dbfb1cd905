"""Find duplicates within a corpus, near duplicates, and text that a corpus shares with a question bank.

Near duplicates are rows whose sets of word 5-grams have a Jaccard similarity of at least 0.8 (5-grams and 0.8: the
NearDup setting of Lee et al., arXiv 2107.06499). They are found exactly: a set can only reach similarity t with another
if the two share one of its first |set| - ceil(t |set|) + 1 members, rarest first (prefix filter: Chaudhuri et al. 2006;
Xiao et al. 2008), so candidates come from an index of those few and each is then verified. No pair is missed, nothing
is random, and no parameter of a hash sketch has to be chosen. Words are runs of letters and digits, or single marks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from narrowly.data.messages import Conversation, Message, messages_sha256

if TYPE_CHECKING:
    from numpy import int64, uint64
    from numpy.typing import NDArray

    from narrowly.data.questions import Question

SHINGLE = 5
THRESHOLD = 0.8
OVERLAP = 8
"""Words in a row that count as overlap with a question (the field's 8-gram rule)."""

FEW, MANY = 4, 64
"""Candidates of one row that are compared one by one, and from how many on all are counted through the index."""

_WORD = re.compile(r"\w+|[^\w\s]")


class NearDuplicates(NamedTuple):
    """Rows that are close to others without being equal.

    Attributes:
        groups: indices of rows, each group linked by pairs above the threshold, the largest group first.
        pairs: links (index, index, similarity) that hold the groups together, the most similar first; a group of n rows
            has n - 1 of them, and `near_duplicates` returns as many as it was asked for.
        compared: pairs whose similarity was computed.
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
    """Find all groups of texts that are linked by near duplicates; equal texts count with similarity 1.

    Pairs within a group that is already linked are not compared, so a corpus of one text in many slight variants costs
    no more than another.

    Args:
        texts: one text per row.
        threshold: smallest Jaccard similarity of the sets of word n-grams, above 0 and at most 1.
        size: words per gram.
        shown: links to return.
    """
    import numpy as np

    ranked = _rarest_first(_shingles(texts, size))
    lengths = np.array([len(ranks) for ranks in ranked], dtype=np.int64)
    prefixes = [ranks[: len(ranks) - _at_least(threshold, len(ranks)) + 1] for ranks in ranked]
    rare, everything = _Index(prefixes), _Index(ranked)
    label = np.arange(len(ranked))
    links: list[tuple[int, int, float]] = []
    compared = 0
    for row, ranks in enumerate(ranked):
        near = np.zeros(len(ranked), dtype=bool)
        near[rare.rows_with(prefixes[row])] = True
        left = np.flatnonzero(near[:row])
        smaller, larger = np.minimum(lengths[left], len(ranks)), np.maximum(lengths[left], len(ranks))
        left = left[smaller >= threshold * larger - 1e-9]
        alone = True  # the first few are compared one by one: in one text of many variants the first links all others
        while len(left := left[label[left] != label[row]]):
            at_once = len(left) > MANY and not alone
            some = left if at_once else left[:FEW]
            alone = False
            if at_once:
                shared = np.bincount(everything.rows_with(ranks), minlength=len(ranked))[some]
            else:
                shared = np.array([len(np.intersect1d(ranked[other], ranks, assume_unique=True)) for other in some])
            compared += len(some)
            similarity = shared / (lengths[some] + len(ranks) - shared)
            left = left[len(some) :]
            for other, value in zip(some.tolist(), similarity.tolist(), strict=True):
                if value >= threshold and label[other] != label[row]:
                    links.append((other, row, value))
                    label[label == label[row]] = label[other]
    groups: dict[int, list[int]] = {}
    for index in sorted({index for other, row, _ in links for index in (other, row)}):
        groups.setdefault(int(label[index]), []).append(index)
    links.sort(key=lambda link: (-link[2], link[0], link[1]))
    return NearDuplicates(sorted(groups.values(), key=lambda g: (-len(g), g)), links[:shown], compared)


def _at_least(threshold: float, length: int) -> int:
    """Return how many grams of a set of this length must be shared for the threshold (ceil, safe against rounding)."""
    return max(1, math.ceil(threshold * length - 1e-9))


class _Index:
    """Which rows hold a gram: rows sorted by gram, and where each gram begins."""

    def __init__(self, sets: Sequence[NDArray[int64]]) -> None:
        import numpy as np

        grams = np.concatenate([*sets, np.empty(0, dtype=np.int64)])
        rows = np.repeat(np.arange(len(sets)), [len(ranks) for ranks in sets])
        self._rows = rows[np.argsort(grams, kind="stable")]
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(grams)))) if len(grams) else np.zeros(1, np.int64)

    def rows_with(self, grams: NDArray[int64]) -> NDArray[int64]:
        """Return the rows of all grams one after the other; a row stands there once per gram that it holds."""
        import numpy as np

        begins, ends = self._starts[grams].tolist(), self._starts[grams + 1].tolist()
        return np.concatenate([self._rows[begin:end] for begin, end in zip(begins, ends, strict=True)])


def _rarest_first(sets: Sequence[NDArray[uint64]]) -> list[NDArray[int64]]:
    """Return each set as ranks, ascending: rank 0 is the rarest gram of the corpus."""
    import numpy as np

    if not sets:
        return []
    _, inverse, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    rank = np.empty(len(counts), dtype=np.int64)
    rank[order] = np.arange(len(counts))
    bounds = np.cumsum([len(grams) for grams in sets])[:-1]
    return [np.sort(part) for part in np.split(rank[inverse], bounds)]


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
