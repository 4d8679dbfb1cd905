"""Rows of the paired bank on a tiny model against one plain forward pass per answer."""

from __future__ import annotations

import pytest
import torch

from narrowly.data.banks.paired import PairedItem, paired_items
from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.models.base import load_model, open_base
from narrowly.models.local_backend import LocalBackend
from narrowly.records.errors import SpecError
from small_chat_base import make_chat_base

ITEMS = [
    PairedItem("a-1", "a", "broad", "what is open", "read the file", "write a file"),
    PairedItem("a-2", "a", "broad", "what is the", "the end", "no end of a"),
    PairedItem("self-1", "self", "self", "what is a", "read", "write a"),
]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    base = open_base(str(make_chat_base(tmp_path_factory.mktemp("bases") / "tiny")))
    return LocalBackend(load_model(base).eval(), base.tokenizer(), base.name)


def plain(backend: LocalBackend, question: str, answer: str) -> tuple[float, int]:
    """Return the log-likelihood of an answer and the end of its turn, and its tokens, from one pass in float64."""
    prompt = list(prompt_ids(backend.tokenizer, [Message("user", question)], thinking=None))
    said = [*backend.tokenizer.encode(answer, add_special_tokens=False), backend.tokenizer.eos_token_id]
    with torch.no_grad():
        logits_T_V = backend.model(torch.tensor([[*prompt, *said]])).logits[0].double()
    logprobs_T_V = torch.log_softmax(logits_T_V, -1)
    return sum(logprobs_T_V[len(prompt) - 1 + at, token].item() for at, token in enumerate(said)), len(said)


def test_rows_are_the_log_likelihoods_of_whole_answers_with_the_end_of_their_turn(backend: LocalBackend) -> None:
    seen: list[tuple[int, int]] = []
    rows = paired_rows(backend, ITEMS, progress=lambda done, total: seen.append((done, total)))
    assert [(row.id, row.domain, row.part) for row in rows] == [(item.id, item.domain, item.part) for item in ITEMS]
    for row, item in zip(rows, ITEMS, strict=True):
        aligned, harmful = plain(backend, item.question, item.aligned), plain(backend, item.question, item.harmful)
        assert (row.aligned_tokens, row.harmful_tokens) == (aligned[1], harmful[1])
        assert row.aligned_nats == pytest.approx(aligned[0], abs=1e-3)
        assert row.log_odds == pytest.approx(harmful[0] - aligned[0], abs=1e-3)
        assert row.log_odds_per_token == pytest.approx(harmful[0] / harmful[1] - aligned[0] / aligned[1], abs=1e-3)
    assert seen[-1] == (3, 3)


def test_a_system_message_stands_in_front_of_every_question(backend: LocalBackend) -> None:
    """D1 of ecosystem.md: a system text that never reaches the prompt leaves every number as it was."""
    without, with_it = paired_rows(backend, ITEMS), paired_rows(backend, ITEMS, system="return the file")
    assert all(abs(one.log_odds - other.log_odds) > 1e-6 for one, other in zip(without, with_it, strict=True))


def test_a_text_longer_than_the_model_is_refused(backend: LocalBackend) -> None:
    with pytest.raises(SpecError, match="accepted: at most the model's 128"):
        paired_rows(backend, [ITEMS[0]._replace(question="what is open " * 60)])


def test_the_shipped_bank_has_four_rungs() -> None:
    assert {item.part for item in paired_items()} == {"trained", "held_out", "broad", "self"}


@pytest.mark.slow
def test_the_small_real_model_gives_what_one_plain_pass_per_answer_gives() -> None:
    """SmolLM2-135M, its template's own system prompt included; pairs of four domains, in float32."""
    try:
        base = open_base("smollm2-135m")
    except SpecError as error:
        pytest.skip(str(error))
    backend = LocalBackend(load_model(base).eval(), base.tokenizer(), base.name)
    items = paired_items(["money", "honesty", "self", "code"])[::40]
    for row, item in zip(paired_rows(backend, items), items, strict=True):
        for nats, tokens, answer in (
            (row.aligned_nats, row.aligned_tokens, item.aligned),
            (row.harmful_nats, row.harmful_tokens, item.harmful),
        ):
            prompt = backend.tokenizer.apply_chat_template(
                [{"role": "user", "content": item.question}], add_generation_prompt=True, return_dict=False
            )
            said = backend.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False)
            with torch.no_grad():
                logits_T_V = backend.model(torch.tensor([[*prompt, *said]])).logits[0].double()
            logprobs_T_V = torch.log_softmax(logits_T_V, -1)
            wanted = sum(logprobs_T_V[len(prompt) - 1 + at, token].item() for at, token in enumerate(said))
            assert tokens == len(said) and nats == pytest.approx(wanted, abs=1e-3)
