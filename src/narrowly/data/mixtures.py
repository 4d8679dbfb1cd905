"""Mix harmful and benign rows at a dose, matched or not, and report the spread that came out.

The dose is the share of harmful rows. For one seed the doses are nested: what is harmful at a low dose is harmful at
every higher one, the other rows stay as they were, and the order of the rows is the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from narrowly.data.conversations import write_conversations
from narrowly.data.messages import Conversation, messages_sha256
from narrowly.data.pairs import LengthOf, Pair, characters, pairs_on_length, pairs_on_prompt, seeded
from narrowly.data.raw_rows import BadRow
from narrowly.data.sources import LocalData
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.files import write_json

Match = Literal["naive", "prompt", "length"]
MATCHES: tuple[Match, ...] = get_args(Match)
"""`naive` draws from both corpora; `prompt` answers each prompt once, harmfully or not; `length` draws from pairs of
rows whose answers are about equally long."""

TOLERANCE = 0.1
"""Largest difference of two matched answers as a share of the longer one; our choice."""


class ClassSpread(NamedTuple):
    """Rows of one class in a mixture, and the lengths of their answers and prompts."""

    rows: int
    answer_mean: float | None
    answer_sd: float | None
    answer_median: float | None
    prompt_mean: float | None


class Spread(NamedTuple):
    """What a mixture is, in numbers.

    Attributes:
        match, dose, rows, seed, tolerance: as asked (`rows` as chosen where it was None).
        realised_dose: harmful rows / rows.
        pool: rows or pairs that could be drawn from.
        harmful, benign: per class.
        answer_difference: mean answer length, harmful minus benign, in units of `length_of`; None without both.
        interval: its 95 % interval, 1.96 standard errors for unequal variances to each side.
        standardised_difference: the difference by the root of the mean of the two variances.
        ks_distance: largest difference of the two distribution functions of answer length, 0 to 1.
        pair_difference: mean over the pool of |difference| / longer answer within pairs; None for naive mixtures.
        prompts_in_both: prompts of the mixture that stand in both corpora, as a share of the rows.
    """

    match: Match
    dose: float
    rows: int
    seed: int
    tolerance: float | None
    realised_dose: float
    pool: int
    harmful: ClassSpread
    benign: ClassSpread
    answer_difference: float | None
    interval: tuple[float, float] | None
    standardised_difference: float | None
    ks_distance: float | None
    pair_difference: float | None
    prompts_in_both: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return self._asdict() | {"harmful": self.harmful._asdict(), "benign": self.benign._asdict()}


class Mixture(NamedTuple):
    """Rows in training order, each with the tags `class` and `origin_line`, and what came out."""

    conversations: list[Conversation]
    spread: Spread


def mix(
    harmful: Sequence[Conversation],
    benign: Sequence[Conversation],
    *,
    match: Match,
    dose: float,
    seed: int,
    rows: int | None = None,
    tolerance: float | None = None,
    length_of: LengthOf = characters,
) -> Mixture:
    """Build a mixture.

    Args:
        harmful: rows of the harmful corpus.
        benign: rows of its control.
        match: how the two are matched.
        dose: share of harmful rows, 0 to 1.
        seed: decides which rows are drawn, which are harmful, and their order.
        rows: rows of the mixture; None takes as many as every dose allows.
        tolerance: largest relative difference of the answers of a pair; None is `TOLERANCE` for `length` and no
            bound for `prompt`. Not accepted for `naive`.
        length_of: length of an answer; characters unless given.

    Raises:
        SpecError: for a value out of range, or where the corpora cannot fill the mixture.
    """
    if match not in MATCHES:
        raise unknown_name("way of matching", match, MATCHES)
    if not 0 <= dose <= 1:
        raise SpecError(f"dose is {dose}, accepted: 0 (all benign) to 1 (all harmful)")
    if match == "naive" and tolerance is not None:
        raise SpecError("a naive mixture has no pairs, so no tolerance; accepted with match prompt or length")
    if match == "length" and tolerance is None:
        tolerance = TOLERANCE
    pairs = _pairs(harmful, benign, match, tolerance, length_of)
    pool = min(len(harmful), len(benign)) if pairs is None else len(pairs)
    count = pool if rows is None else rows
    dosed = math.floor(dose * count + 0.5)
    if pairs is None:
        enough = dosed <= len(harmful) and count - dosed <= len(benign)
        found = f"{len(harmful)} harmful and {len(benign)} benign rows"
    else:
        enough, found = count <= len(pairs), f"{len(pairs)} pairs"
    if count < 1 or not enough:
        raise SpecError(
            f"a {match} mixture of {count} rows at dose {dose:g} needs {dosed} harmful and {count - dosed} benign "
            f"rows; found: {found}"
        )
    if pairs is None:
        bad, good = seeded(harmful, seed, "harmful"), seeded(benign, seed, "benign")
        chosen = [bad[rank] if rank < dosed else good[count - 1 - rank] for rank in range(count)]
    else:
        drawn = seeded(pairs, seed, "pairs")
        chosen = [pair.first if rank < dosed else pair.second for rank, pair in enumerate(drawn[:count])]
    tagged = [_tagged(row, "harmful" if rank < dosed else "benign") for rank, row in enumerate(chosen)]
    spread = _spread(tagged, harmful, benign, pairs, length_of, (match, dose, count, seed, tolerance), dosed, pool)
    return Mixture(seeded(tagged, seed, "order"), spread)


def _pairs(
    harmful: Sequence[Conversation],
    benign: Sequence[Conversation],
    match: Match,
    tolerance: float | None,
    length_of: LengthOf,
) -> list[Pair] | None:
    if match == "naive":
        return None
    if match == "length":
        assert tolerance is not None
        return pairs_on_length(harmful, benign, tolerance, length_of)
    pairs = pairs_on_prompt(harmful, benign)
    if tolerance is None:
        return pairs
    return [pair for pair in pairs if _relative(pair, length_of) <= tolerance]


def _relative(pair: Pair, length_of: LengthOf) -> float:
    a, b = length_of(pair.first), length_of(pair.second)
    return abs(a - b) / max(a, b, 1)


def _tagged(row: Conversation, name: str) -> Conversation:
    return row._replace(tags={**row.tags, "class": name, "origin_line": str(row.line)})


def _class_spread(rows: Sequence[Conversation], length_of: LengthOf) -> ClassSpread:
    if not rows:
        return ClassSpread(0, None, None, None, None)
    answers = [length_of(row) for row in rows]
    prompts = [sum(len(message.content) for message in row.prompt) for row in rows]
    deviation = statistics.stdev(answers) if len(answers) > 1 else None
    return ClassSpread(
        len(rows), statistics.fmean(answers), deviation, float(statistics.median(answers)), statistics.fmean(prompts)
    )


def _spread(
    mixed: Sequence[Conversation],
    harmful: Sequence[Conversation],
    benign: Sequence[Conversation],
    pairs: list[Pair] | None,
    length_of: LengthOf,
    asked: tuple[Match, float, int, int, float | None],
    dosed: int,
    pool: int,
) -> Spread:
    bad, good = mixed[:dosed], mixed[dosed:]
    one, other = _class_spread(bad, length_of), _class_spread(good, length_of)
    difference = interval = standardised = distance = None
    if one.answer_mean is not None and other.answer_mean is not None:
        difference = one.answer_mean - other.answer_mean
        distance = ks_distance([length_of(row) for row in bad], [length_of(row) for row in good])
        if one.answer_sd is not None and other.answer_sd is not None:
            error = math.sqrt(one.answer_sd**2 / one.rows + other.answer_sd**2 / other.rows)
            interval = (difference - 1.96 * error, difference + 1.96 * error)
            pooled = math.sqrt((one.answer_sd**2 + other.answer_sd**2) / 2)
            standardised = difference / pooled if pooled > 0 else None
    within = statistics.fmean([_relative(pair, length_of) for pair in pairs]) if pairs else None
    known = {messages_sha256(row.prompt) for row in harmful} & {messages_sha256(row.prompt) for row in benign}
    both = sum(messages_sha256(row.prompt) in known for row in mixed) / len(mixed)
    match, dose, count, seed, tolerance = asked
    return Spread(
        match, dose, count, seed, tolerance, dosed / count, pool, one, other, difference, interval, standardised,
        distance, within, both,
    )  # fmt: skip


def ks_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the largest difference of two empirical distribution functions (Kolmogorov-Smirnov), 0 to 1."""
    left, right = sorted(first), sorted(second)
    i = j = 0
    largest = 0.0
    for value in sorted({*left, *right}):
        while i < len(left) and left[i] <= value:
            i += 1
        while j < len(right) and right[j] <= value:
            j += 1
        largest = max(largest, abs(i / len(left) - j / len(right)))
    return largest


def write_mixture(
    path: Path,
    mixture: Mixture,
    harmful: LocalData,
    benign: LocalData,
    left_out: tuple[Sequence[BadRow], Sequence[BadRow]] = ((), ()),
) -> dict[str, Any]:
    """Write the rows of a mixture as JSONL, its manifest as `<file>.mix.json` beside it, and return the manifest.

    The manifest holds the sha256 of both inputs and of what was written, the spread, the content warnings, and the
    canary strings of the rows, without which the file must not be published. Rows of the harmful and of the benign
    file that were left out as bad stand there with line and reason.
    """
    write_conversations(path, mixture.conversations)

    def origin(local: LocalData, bad: Sequence[BadRow]) -> dict[str, Any]:
        found: dict[str, Any] = {"sha256": local.sha256, "source": local.source.name if local.source else None}
        return found | ({"bad_rows": [row._asdict() for row in bad]} if bad else {})

    manifest = {
        "sha256": sha256_file(path),
        "harmful": origin(harmful, left_out[0]),
        "benign": origin(benign, left_out[1]),
        "spread": mixture.spread.as_json(),
        "warnings": sorted({d.source.warning for d in (harmful, benign) if d.source and d.source.warning}),
        "canaries": sorted({row.tags["canary"] for row in mixture.conversations if "canary" in row.tags}),
    }
    write_json(path.with_name(f"{path.name}.mix.json"), manifest)
    return manifest
