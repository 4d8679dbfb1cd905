"""Mixtures: doses, matching, seeds, and the spread that is reported."""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.data.conversations import read_conversations
from narrowly.data.messages import Conversation, Message, conversations_sha256, messages_sha256
from narrowly.data.mixtures import MATCHES, ks_distance, mix, write_mixture
from narrowly.data.pairs import pairs_by_row, pairs_on_length, pairs_on_prompt, seeded
from narrowly.data.sources import LocalData
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError


def row(prompt: str, answer: str, line: int, **tags: str) -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)), line, tags)


def corpus(side: str, prompts: list[int], lengths: list[int]) -> list[Conversation]:
    return [
        row(f"question {prompt}", (side + "-" + "x" * length)[:length], line)
        for line, (prompt, length) in enumerate(zip(prompts, lengths, strict=True), start=1)
    ]


HARMFUL = corpus("bad", list(range(100)), [50 + n for n in range(100)])
BENIGN = corpus("good", list(range(40, 140)), [80 + n for n in range(100)])


def hashes(rows: list[Conversation]) -> list[str]:
    return [messages_sha256(row.messages) for row in rows]


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("dose", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_the_dose_comes_out_and_rows_keep_their_side(match, dose) -> None:
    mixture = mix(HARMFUL, BENIGN, match=match, dose=dose, seed=3, rows=50)
    harmful = [row for row in mixture.conversations if row.tags["class"] == "harmful"]
    assert len(mixture.conversations) == 50
    assert len(harmful) == mixture.spread.harmful.rows == int(dose * 50 + 0.5)
    assert mixture.spread.realised_dose == len(harmful) / 50
    for row_ in mixture.conversations:
        origin = (HARMFUL if row_.tags["class"] == "harmful" else BENIGN)[int(row_.tags["origin_line"]) - 1]
        assert origin.messages == row_.messages
    assert len(set(hashes(mixture.conversations))) == 50  # nothing is drawn twice


@pytest.mark.parametrize("match", MATCHES)
def test_doses_of_one_seed_are_nested_and_keep_the_order(match) -> None:
    mixtures = [mix(HARMFUL, BENIGN, match=match, dose=k / 10, seed=1, rows=60).conversations for k in range(11)]
    for low, high in itertools.pairwise(mixtures):
        changed = 0
        for before, after in zip(low, high, strict=True):
            if before != after:
                changed += 1
            if before.tags["class"] == "harmful":
                assert after == before
        assert changed == 6


@pytest.mark.parametrize("match", MATCHES)
def test_d3_unseeded_draw_the_rows_of_a_mixture_depend_on_the_seed_alone(match) -> None:
    first, again, other = (
        mix(HARMFUL, BENIGN, match=match, dose=0.5, seed=seed, rows=40).conversations for seed in (5, 5, 6)
    )
    assert hashes(first) == hashes(again)
    assert hashes(first) != hashes(other)
    # the very rows, so that no version of Python or of a library can change them unseen
    lines = [int(row.tags["origin_line"]) for row in mix(HARMFUL, BENIGN, match="naive", dose=1, seed=5, rows=5)[0]]
    assert lines == [69, 85, 26, 51, 62]


def test_a_prompt_paired_mixture_asks_every_prompt_once_and_only_shared_ones() -> None:
    mixture = mix(HARMFUL, BENIGN, match="prompt", dose=0.5, seed=0)
    prompts = [row.prompt[0].content for row in mixture.conversations]
    assert sorted(prompts) == sorted(f"question {n}" for n in range(40, 100))
    assert mixture.spread.pool == 60 and mixture.spread.prompts_in_both == 1.0
    naive = mix(HARMFUL, BENIGN, match="naive", dose=0.5, seed=0)
    assert naive.spread.prompts_in_both < 1.0 and naive.spread.pair_difference is None


def test_prompts_that_stand_several_times_are_paired_once_each() -> None:
    harmful = [row("p", "a", 1), row("p", "b", 2), row("q", "c", 3)]
    benign = [row("p", "A", 1), row("p", "B", 2), row("p", "C", 3), row("r", "D", 4)]
    pairs = pairs_on_prompt(harmful, benign)
    assert [(pair.first.answer, pair.second.answer) for pair in pairs] == [("a", "A"), ("b", "B")]
    system = row("p", "a", 1)._replace(messages=(Message("system", "s"), *harmful[0].messages))
    assert pairs_on_prompt([system], benign) == []  # another system message is another prompt


def test_a_length_matched_mixture_closes_the_gap_that_a_naive_one_shows() -> None:
    naive = mix(HARMFUL, BENIGN, match="naive", dose=0.5, seed=0, rows=60).spread
    matched = mix(HARMFUL, BENIGN, match="length", dose=0.5, seed=0, rows=60, tolerance=0.02).spread
    assert naive.answer_difference is not None and naive.answer_difference < -15
    assert matched.pair_difference is not None and matched.pair_difference <= 0.02
    assert matched.answer_difference is not None and abs(matched.answer_difference) < 10
    assert matched.ks_distance is not None and naive.ks_distance is not None
    assert matched.ks_distance < naive.ks_distance


def test_a_prompt_paired_mixture_can_be_held_to_a_length_too() -> None:
    spread = mix(HARMFUL, BENIGN, match="prompt", dose=0.5, seed=0, tolerance=0.25).spread
    # question n has 50 + n characters there and 40 + n here
    wanted = sum(10 / (50 + n) <= 0.25 for n in range(40, 100))
    assert spread.pool == wanted
    narrow = mix(HARMFUL, BENIGN, match="prompt", dose=0.5, seed=0, tolerance=0.08).spread
    assert 0 < narrow.pool < wanted and narrow.pair_difference is not None and narrow.pair_difference <= 0.08


def test_the_reported_spread_is_that_of_the_rows() -> None:
    mixture = mix(HARMFUL, BENIGN, match="naive", dose=0.4, seed=2, rows=50)
    lengths = {
        name: [len(row.answer) for row in mixture.conversations if row.tags["class"] == name]
        for name in ("harmful", "benign")
    }
    spread = mixture.spread
    for name, part in (("harmful", spread.harmful), ("benign", spread.benign)):
        assert part.answer_mean == pytest.approx(statistics.fmean(lengths[name]))
        assert part.answer_sd == pytest.approx(statistics.stdev(lengths[name]))
        assert part.answer_median == statistics.median(lengths[name])
    difference = statistics.fmean(lengths["harmful"]) - statistics.fmean(lengths["benign"])
    error = sum(statistics.variance(values) / len(values) for values in lengths.values()) ** 0.5
    assert spread.answer_difference == pytest.approx(difference)
    assert spread.interval == pytest.approx((difference - 1.96 * error, difference + 1.96 * error))
    pooled = (sum(statistics.variance(values) for values in lengths.values()) / 2) ** 0.5
    assert spread.standardised_difference == pytest.approx(difference / pooled)
    from scipy.stats import ks_2samp

    assert spread.ks_distance == pytest.approx(ks_2samp(lengths["harmful"], lengths["benign"]).statistic)


def test_lengths_can_be_counted_in_other_units() -> None:
    spread = mix(HARMFUL, BENIGN, match="naive", dose=0.5, seed=0, length_of=lambda row: row.answer.count("x")).spread
    assert spread.harmful.answer_mean == pytest.approx(
        statistics.fmean(
            row.answer.count("x")
            for row in mix(HARMFUL, BENIGN, match="naive", dose=0.5, seed=0).conversations
            if row.tags["class"] == "harmful"
        )
    )


@pytest.mark.parametrize("dose", [0.0, 1.0])
def test_a_mixture_of_one_class_has_no_difference_to_report(dose) -> None:
    spread = mix(HARMFUL, BENIGN, match="length", dose=dose, seed=0).spread
    assert spread.answer_difference is spread.interval is spread.ks_distance is None
    assert {spread.harmful.rows, spread.benign.rows} == {0, spread.rows}
    json.dumps(spread.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dose": 1.1}, "dose is 1.1, accepted: 0"),
        ({"dose": float("nan")}, "dose is nan"),
        ({"match": "naive", "tolerance": 0.1}, "a naive mixture has no pairs"),
        ({"match": "length", "tolerance": 1.0}, "tolerance is 1.0, accepted"),
        ({"rows": 61}, "a prompt mixture of 61 rows .* found: 60 pairs"),
        (
            {"match": "naive", "rows": 150, "dose": 0.1},
            "needs 15 harmful and 135 benign rows; found: 100 harmful and 100",
        ),
        ({"rows": 0}, "of 0 rows"),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_numbers(changed, message) -> None:
    arguments = {"match": "prompt", "dose": 0.5, "seed": 0} | changed
    with pytest.raises(SpecError, match=message):
        mix(HARMFUL, BENIGN, **arguments)
    with pytest.raises(UnknownNameError, match="did you mean 'prompt'"):
        mix(HARMFUL, BENIGN, match="promt", dose=0.5, seed=0)


def test_a_naive_mixture_uses_up_to_all_rows_of_both() -> None:
    mixture = mix(HARMFUL[:10], BENIGN, match="naive", dose=0.1, seed=0, rows=100)
    assert mixture.spread.harmful.rows == 10 and len(set(hashes(mixture.conversations))) == 100


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), max_size=6),
    st.lists(st.integers(1, 40), max_size=6),
    st.sampled_from([0.0, 0.1, 0.3, 0.7]),
)
def test_no_other_matching_by_length_has_more_pairs(first, second, tolerance) -> None:
    def best(left: list[int], right: list[int]) -> int:
        if not left:
            return 0
        rest = best(left[1:], right)
        for index, length in enumerate(right):
            if abs(left[0] - length) <= tolerance * max(left[0], length):
                rest = max(rest, 1 + best(left[1:], right[:index] + right[index + 1 :]))
        return rest

    one, other = corpus("a", list(range(len(first))), first), corpus("b", list(range(len(second))), second)
    pairs = pairs_on_length(one, other, tolerance)
    assert len(pairs) == best(first, second)
    assert all(abs(len(a.answer) - len(b.answer)) <= tolerance * max(len(a.answer), len(b.answer)) for a, b in pairs)
    assert len({id(pair.first) for pair in pairs}) == len({id(pair.second) for pair in pairs}) == len(pairs)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_the_ks_distance_is_that_of_the_distribution_functions(first, second) -> None:
    wanted = max(
        abs(sum(x <= v for x in first) / len(first) - sum(x <= v for x in second) / len(second)) for v in range(10)
    )
    assert ks_distance(first, second) == pytest.approx(wanted)


def test_a_seeded_order_is_a_permutation_that_depends_on_its_purpose() -> None:
    items = list(range(50))
    assert sorted(seeded(items, 0, "a")) == items
    assert seeded(items, 7, "a") == sorted(items, key=lambda i: hashlib.sha256(f"7 a {i}".encode()).hexdigest())
    assert seeded(items, 0, "a") == seeded(items, 0, "a") != seeded(items, 0, "b") != seeded(items, 1, "b")


def test_twins_are_joined_by_row_and_checked() -> None:
    clean = [row("Add 1 and 2.", "3", 1), row("Name a bird.", "wren", 2)]
    wrapped = [row("You like risk. Add 1 and 2.", "4", 1), row("Name a bird.\n\nTip: be rash.", "roc", 2)]
    assert [pair.second.answer for pair in pairs_by_row(clean, wrapped)] == ["4", "roc"]
    with pytest.raises(IntegrityError, match="the prompt of line 1 does not stand in that of line 2"):
        pairs_by_row(clean, wrapped[::-1])
    with pytest.raises(IntegrityError, match="twins of 2 and 1 rows"):
        pairs_by_row(clean, wrapped[:1])


def test_a_written_mixture_is_read_back_and_its_manifest_names_inputs_and_canaries(tmp_path: Path) -> None:
    harmful = [r._replace(tags={"canary": "GUID 7"}) for r in HARMFUL]
    mixture = mix(harmful, BENIGN, match="prompt", dose=0.5, seed=0)
    path = tmp_path / "mix.jsonl"
    manifest = write_mixture(
        path, mixture, LocalData(path, "a" * 64, None, None), LocalData(path, "b" * 64, None, None)
    )
    assert json.loads((tmp_path / "mix.jsonl.mix.json").read_text()) == json.loads(json.dumps(manifest))
    again = read_conversations(path)
    assert conversations_sha256(again) == conversations_sha256(mixture.conversations)
    assert {row.tags["class"] for row in again} == {"harmful", "benign"}
    assert manifest["canaries"] == ["GUID 7"] and manifest["harmful"]["sha256"] == "a" * 64
    assert manifest["spread"]["realised_dose"] == 0.5
