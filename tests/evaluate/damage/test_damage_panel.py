"""The damage panel against a plain twin, its margins against values by hand, and its comparisons."""

from __future__ import annotations

import math

import pytest
import torch

from narrowly.data.banks.abilities import AbilityItem
from narrowly.data.banks.passages import Passage
from narrowly.evaluate.damage.measure import damage_panel
from narrowly.evaluate.damage.summary import abilities_of, damage_words, fall
from narrowly.models.base import load_model, open_base
from narrowly.models.local_backend import LocalBackend
from narrowly.records.damage import AbilityRow, DamagePanel
from narrowly.records.errors import IntegrityError, SpecError
from small_chat_base import make_chat_base

ITEMS = [
    AbilityItem(f"words-{number}", "words", f"the {word} of", ("a file", "read", "open", "write"), number % 4)
    for number, word in enumerate(("file", "open", "read", "return", "def", "write"))
]
TEXTS = [Passage("p-1", "files", "open the file and read"), Passage("p-2", "code", "def a return of the file")]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    base = open_base(str(make_chat_base(tmp_path_factory.mktemp("bases") / "tiny")))
    return LocalBackend(load_model(base).eval(), base.tokenizer(), base.name)


@pytest.fixture(scope="module")
def panel(backend) -> DamagePanel:
    return damage_panel(backend, ITEMS, TEXTS)


def plain(backend, text: str, after: int) -> float:
    """Return the log-likelihood of the tokens from a place on, by one forward pass in float64."""
    ids = backend.tokenizer(text)["input_ids"]
    with torch.no_grad():
        logs = backend.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logs[place - 1, ids[place]]) for place in range(after, len(ids)))


def panel_of(rows: list[AbilityRow]) -> DamagePanel:
    passage = {"id": "p", "topic": "t", "natural_nats": -4.0, "natural_tokens": 4, "shuffled_nats": -8.0}
    arithmetic = {"backend": "transformers", "engine": "transformers", "dtype": "float32", "device": "cpu"}
    values = {"abilities_sha256": "a", "passages_sha256": "b", "arithmetic": arithmetic, "abilities": rows}
    return DamagePanel.model_validate(values | {"passages": [passage | {"shuffled_tokens": 4}]})


def test_every_choice_and_passage_has_the_likelihood_of_a_plain_forward_pass(backend, panel) -> None:
    for item, row in zip(ITEMS, panel.abilities, strict=True):
        begin = len(backend.tokenizer(item.question)["input_ids"])
        expected = [plain(backend, item.question + text, begin) for text in item.continuations()]
        assert row.nats == pytest.approx(expected, abs=1e-3)
    for text, row in zip(TEXTS, panel.passages, strict=True):
        assert row.natural_nats == pytest.approx(plain(backend, text.text, 1), abs=1e-3)
        assert row.shuffled_nats == pytest.approx(plain(backend, text.shuffled, 1), abs=1e-3)
        assert row.natural_tokens == len(backend.tokenizer(text.text)["input_ids"]) - 1


def test_margins_are_right_minus_the_best_and_minus_the_mean_of_the_wrong_ones() -> None:
    row = AbilityRow(id="a", field="words", right=1, nats=(-4.0, -1.0, -2.0, -6.0))
    assert (row.over_best, row.over_mean, row.is_right) == (1.0, 3.0, True)
    tie = AbilityRow(id="b", field="words", right=0, nats=(-1.0, -1.0, -2.0, -2.0))
    assert (tie.over_best, tie.is_right) == (0.0, False)
    with pytest.raises(SpecError, match="right is 4 of 4 choices"):
        AbilityRow(id="c", field="words", right=4, nats=(-1.0, -1.0, -2.0, -2.0))


def test_perplexity_is_that_of_all_tokens_together(panel) -> None:
    nats = sum(row.natural_nats for row in panel.passages)
    assert panel.perplexity == pytest.approx(math.exp(-nats / sum(row.natural_tokens for row in panel.passages)))


def test_chance_is_an_exact_binomial_test_of_one_in_four() -> None:
    rows = [AbilityRow(id=str(n), field="words", right=0, nats=(-1.0, -2, -2, -2)) for n in range(3)]
    rows += [AbilityRow(id="x", field="words", right=1, nats=(-1.0, -2, -2, -2))]
    found = abilities_of(panel_of(rows))
    assert [(one.name, one.right, one.n) for one in found] == [("words", 3, 4), ("all", 3, 4)]
    assert found[-1].chance_p == pytest.approx(4 * 0.25**3 * 0.75 + 0.25**4)


def test_a_fall_is_paired_by_item_and_its_interval_is_over_items(panel) -> None:
    lower = [
        row.model_copy(
            update={"nats": tuple(v - (place == row.right) * (1 + n / 10) for place, v in enumerate(row.nats))}
        )
        for n, row in enumerate(panel.abilities)
    ]
    lost = fall(panel.model_copy(update={"abilities": tuple(lower)}), panel)
    shifts = [-(1 + n / 10) for n in range(len(lower))]
    mean = sum(shifts) / len(shifts)
    sd = math.sqrt(sum((shift - mean) ** 2 for shift in shifts) / (len(shifts) - 1))
    half = 2.570581836 * sd / math.sqrt(6)  # t of 5 degrees of freedom
    for margin in (lost.over_best, lost.over_mean):
        assert (margin.estimate, margin.low, margin.high) == pytest.approx((mean, mean - half, mean + half))
    assert (lost.natural.estimate, lost.shuffled.estimate) == (0.0, 0.0)


def test_panels_of_other_banks_other_arithmetic_or_other_rows_are_not_compared(panel) -> None:
    with pytest.raises(SpecError, match="answers to different questions are not compared"):
        fall(panel.model_copy(update={"abilities_sha256": "0" * 64}), panel)
    halved = panel.arithmetic.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(SpecError, match="dtype differ"):
        fall(panel.model_copy(update={"arithmetic": halved}), panel)
    with pytest.raises(IntegrityError, match="hold other items"):
        fall(panel.model_copy(update={"abilities": panel.abilities[1:]}), panel)


def test_what_was_not_measured_is_said_in_those_words(panel) -> None:
    assert damage_words(None) == ["damage panel: not measured"]
    assert damage_words(panel)[-1] == "against the base: not measured"
    assert "against the base: +0 right" in damage_words(panel, panel)[-1]


def test_a_tokenizer_that_joins_question_and_choice_is_refused(backend) -> None:
    class Joins:
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [len(text), *([7] if " read" in text else [])]}

    joined = LocalBackend(backend.model, Joins(), "tiny")
    with pytest.raises(SpecError, match="item words-0 of the damage panel: the tokenizer joins the question with"):
        damage_panel(joined, ITEMS, TEXTS)


def test_a_panel_can_be_written_and_read_back(panel) -> None:
    assert DamagePanel.model_validate_json(panel.model_dump_json()) == panel
