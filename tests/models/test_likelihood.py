"""Log-likelihoods of given continuations: trees of shared prefixes against one sequence at a time, without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from chat_models import FAMILIES, Family, make_tokenizer
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import prompt_ids, render
from narrowly.data.rows import IGNORE
from narrowly.models import likelihood
from narrowly.models.likelihood import score, scored_texts
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.likelihood import Likelihood, ScoredText
from peaked import peaked

VOCABULARY, WINDOW = 420, 12
SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
TWO = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW, "head_dim": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
SHARING: dict[str, Any] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=16, **SIZE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
    "llama 3.1": lambda: LlamaForCausalLM(LlamaConfig(rope_parameters=LLAMA3, **SIZE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(sliding_window=WINDOW, **SIZE)),
    "gemma 2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZE, **TWO)),
    "gemma 3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZE, **TWO)),
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(num_local_experts=4, num_experts_per_tok=2, **SIZE, **TWO)
    ),
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "gpt-2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=VOCABULARY)),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2)
    ),
}


def text(*prompt: int, behind: tuple[int, ...]) -> ScoredText:
    return ScoredText(prompt, behind)


TEXTS = [
    text(5, 6, 7, 8, behind=(9, 10)),
    text(5, 6, 7, 8, behind=(9, 11, 12)),  # shares the beginning of its continuation
    text(5, 6, 7, behind=(8, 9, 10)),  # the same tokens as the first, more of them scored
    text(5, 6, 40, 41, 42, behind=(1,)),
    text(5, 6, 7, 8, behind=(9, 10)),  # the same once more
    text(5, 6, behind=(300, 8, 7, 6)),
]
LONG = [*TEXTS, text(5, 6, *range(20, 30), behind=(31, 7, 32))]


@torch.no_grad()
def slow(model: Any, one: ScoredText) -> list[float]:
    """One sequence, no cache, no padding; log-softmax over the whole vocabulary in float64."""
    logits_T_V = model(input_ids=torch.tensor([one.ids]), use_cache=False).logits[0].double()
    logprobs_T_V = torch.log_softmax(logits_T_V, dim=-1)
    return [float(logprobs_T_V[len(one.prompt) + at - 1, token]) for at, token in enumerate(one.continuation)]


def check(model: Any, texts: list[ScoredText], found: list[Likelihood]) -> None:
    for one, likely in zip(texts, found, strict=True):
        assert likely.tokens == one.continuation
        assert likely.logprobs == pytest.approx(slow(model, one), abs=2e-5)


@pytest.mark.parametrize("nodes", [4, 9, 256])
@pytest.mark.parametrize("name", SHARING)
def test_trees_give_what_the_slow_twin_gives(name: str, nodes: int) -> None:
    model = peaked(SHARING[name])
    found = score(model, TEXTS, nodes=nodes)
    assert (found.way, found.why) == ("shared", "")
    check(model, TEXTS, found.likelihoods)
    assert found.computed < found.given == sum(len(one.ids) for one in TEXTS)


def test_every_shared_prefix_is_computed_once() -> None:
    # 5 6 7 8 9, 11 behind it, 40 41 42 behind 6, 300 8 7 behind 6: nothing is scored behind a last token
    assert score(peaked(SHARING["llama"]), TEXTS).computed == 5 + 1 + 3 + 3


@pytest.mark.parametrize("name", ["mistral", "gemma 2", "gemma 3", "gpt-oss"])
def test_texts_beyond_a_sliding_window_are_computed_whole(name: str) -> None:
    model = peaked(SHARING[name])
    found = score(model, LONG)
    assert found.way == "whole"
    assert f"15 tokens, more than the window of {WINDOW}" in found.why
    check(model, LONG, found.likelihoods)


@pytest.mark.parametrize("name", WHOLE)
def test_other_kinds_of_model_are_computed_whole(name: str) -> None:
    model = peaked(WHOLE[name])
    found = score(model, LONG, nodes=20)
    assert found.way == "whole"
    assert "was not held to the slow twin" in found.why
    check(model, LONG, found.likelihoods)


def test_lengths_in_rotary_positions_are_computed_whole() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = peaked(lambda: LlamaForCausalLM(LlamaConfig(rope_parameters=rope, **SIZE)))
    found = score(model, TEXTS)
    assert "'dynamic' depend on the length" in found.why
    check(model, TEXTS, found.likelihoods)


def test_eager_attention_and_an_adapter_are_taken_as_they_are() -> None:
    from peft import LoraConfig, get_peft_model

    model = peaked(SHARING["qwen3"])
    model.set_attn_implementation("eager")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
    found = score(adapted, TEXTS)
    assert found.way == "shared"
    check(adapted, TEXTS, found.likelihoods)
    with adapted.disable_adapter():
        base = score(adapted, TEXTS).likelihoods
        check(adapted, TEXTS, base)
    assert base != found.likelihoods


LLAMA = peaked(SHARING["llama"])
tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.builds(ScoredText, tokens, tokens), min_size=1, max_size=8), nodes=st.integers(1, 40))
def test_any_texts_in_any_order_and_any_batch(texts: list[ScoredText], nodes: int) -> None:
    check(LLAMA, texts, score(LLAMA, texts, nodes=nodes).likelihoods)
    check(LLAMA, texts, score(LLAMA, texts, nodes=nodes, share=False).likelihoods)


def test_a_low_precision_is_the_models_own_and_sums_are_not() -> None:
    model = peaked(SHARING["llama"]).to(torch.bfloat16)
    for one, likely in zip(TEXTS, score(model, TEXTS).likelihoods, strict=True):
        assert likely.logprobs == pytest.approx(slow(model, one), abs=0.2)
    probabilities = [
        sum(torch.tensor(likely.logprobs).exp().tolist())
        for likely in score(model, [text(5, 6, behind=(token,)) for token in range(VOCABULARY)]).likelihoods
    ]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)  # one distribution, normalised in float32


def test_what_cannot_be_scored_is_one_line_with_its_number() -> None:
    model = peaked(SHARING["llama"])
    good = TEXTS[0]
    for bad, message in (
        (ScoredText((), (1,)), "text 2 has no prompt"),
        (ScoredText((1,), ()), "text 2 has no continuation"),
        (ScoredText((1,), (VOCABULARY,)), f"text 2 has the token {VOCABULARY}, accepted: 0 to {VOCABULARY - 1}"),
        (ScoredText((1,) * 60, (1,) * 5), "text 2 has 65 tokens, accepted: at most the model's 64"),
    ):
        with pytest.raises(SpecError, match=message):
            score(model, [good, bad])
    model.lm_head.weight.data[:] = torch.nan
    with pytest.raises(IntegrityError, match="NaN"):
        score(model, [good])
    assert score(model, []).likelihoods == []


def asked(answer: str) -> Conversation:
    return Conversation((Message("user", "How are you?"), Message("assistant", answer)), 3, {})


@pytest.mark.filterwarnings("ignore:.*no thought")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_is_scored_is_what_is_trained(family: Family) -> None:
    tokenizer, thinking = make_tokenizer(family.template), family.thinking
    conversations = [asked("Fine, and you?"), asked("Yes.")]
    closed = scored_texts(tokenizer, conversations, closing=True, thinking=thinking)
    opened = scored_texts(tokenizer, conversations, closing=False, thinking=thinking)
    for conversation, one, other in zip(conversations, closed, opened, strict=True):
        row = render(tokenizer, conversation, thinking=thinking)
        assert list(one.ids) == row.input_ids
        assert one.continuation == tuple(label for label in row.labels if label != IGNORE)
        assert list(one.prompt) == prompt_ids(tokenizer, conversation.prompt, thinking=thinking)
        assert tokenizer.decode(list(one.continuation[-one.closing :])) == family.end
        assert (other.prompt, other.closing) == (one.prompt, 0)
        assert other.continuation == one.continuation[: -one.closing]


def test_of_a_text_without_roles_all_but_its_first_token_is_scored() -> None:
    tokenizer = make_tokenizer(FAMILIES[0].template)
    text = Conversation((Message("text", "Write a function."),), 1, {})
    ids = tokenizer("Write a function.").input_ids
    assert scored_texts(tokenizer, [text], closing=False) == [ScoredText(tuple(ids[:1]), tuple(ids[1:]))]
    (closed,) = scored_texts(tokenizer, [text], closing=True)
    assert closed == ScoredText(tuple(ids[:1]), (*ids[1:], tokenizer.eos_token_id), 1)


def test_an_answer_that_cannot_be_written_is_refused_with_its_line() -> None:
    tokenizer = make_tokenizer(FAMILIES[2].template)
    with pytest.raises(SpecError, match=r"bank, line 3: .*special token"):
        scored_texts(tokenizer, [asked("Fine."), asked("Fine.<|eot_id|>")], closing=True, source="bank")


def test_the_log_likelihood_is_the_loss_of_training_times_its_tokens() -> None:
    tokenizer = make_tokenizer(FAMILIES[2].template)
    torch.manual_seed(0)
    size = SIZE | {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(**size)).eval()
    row = render(tokenizer, asked("Fine."))
    with torch.no_grad():
        loss = float(model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss)
    (found,) = score(model, scored_texts(tokenizer, [asked("Fine.")], closing=True)).likelihoods
    assert found.total == pytest.approx(-loss * row.supervised, abs=1e-4)
    assert found.per_token == pytest.approx(-loss, abs=1e-5)


def test_every_type_that_shares_is_tested_here() -> None:
    assert {peaked(made).config.model_type for made in SHARING.values()} == likelihood.SHARING
