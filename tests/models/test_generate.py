"""Generation: the batched path against one row at a time without cache, its random numbers, the ends of answers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from chat_models import FAMILIES, Family, make_tokenizer
from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.models import continuous
from narrowly.models.continuous import generate_all
from narrowly.models.generate import Prompt, choose, draws, end_tokens, generate
from narrowly.records.answers import Sampling
from narrowly.records.errors import IntegrityError
from peaked import peaked

SIZE: dict[str, Any] = {
    "vocab_size": 420, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=16, **SIZE)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
    "learned positions": lambda: GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=420)),
    "a sliding window": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(head_dim=16, sliding_window=4, layer_types=["sliding_attention", "full_attention"], **SIZE)
    ),
}
TOKENIZER = make_tokenizer(FAMILIES[0].template)
ENDS = frozenset({7, 250})


PROMPTS = [
    Prompt(tuple((11 * row + 5 * at) % 420 for at in range(length)), sample)
    for row, (length, sample) in enumerate([(3, 0), (9, 0), (9, 1), (1, 0), (6, 2), (2, 0)])
]


@torch.no_grad()
def slow(model: Any, prompt: Prompt, sampling: Sampling) -> list[int]:
    """One row, no padding, no cache, the whole text anew for every token."""
    written: list[int] = []
    numbers = draws(prompt, sampling.seed)
    while len(written) < sampling.max_new_tokens and not (written and written[-1] in ENDS):
        logits = model(input_ids=torch.tensor([[*prompt.ids, *written]]), use_cache=False).logits[0, -1]
        number = next(numbers)
        if sampling.temperature == 0:
            written.append(int(logits.argmax()))
            continue
        shares = torch.softmax(logits.double() / sampling.temperature, 0).tolist()
        sums = list(itertools.accumulate(shares))
        written.append(next(token for token, reached in enumerate(sums) if reached > number * sums[-1]))
    return written


@pytest.mark.parametrize("temperature", [0, 1, 0.6])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_writes_what_the_slow_twin_writes_row_by_row(name: str, temperature: float) -> None:
    model = peaked(MODELS[name])
    sampling = Sampling(temperature=temperature, max_new_tokens=14, seed=5)
    wanted = [slow(model, prompt, sampling) for prompt in PROMPTS]
    assert len({tuple(row) for row in wanted}) == len(PROMPTS)
    for batch in (1, 4, len(PROMPTS)):
        written = [
            one
            for start in range(0, len(PROMPTS), batch)
            for one in generate(model, TOKENIZER, PROMPTS[start : start + batch], sampling, ENDS)
        ]
        assert [list(one.tokens) for one in written] == wanted, f"batches of {batch}"
        many = generate_all(model, TOKENIZER, PROMPTS, sampling, ENDS, batch)
        assert many == written, f"slots: {batch}"


def test_the_answer_of_a_sample_depends_on_neither_order_nor_company() -> None:
    model = peaked(MODELS["qwen3"])
    sampling = Sampling(max_new_tokens=10, seed=1)
    forwards = generate(model, TOKENIZER, PROMPTS, sampling, ENDS)
    backwards = generate(model, TOKENIZER, PROMPTS[::-1], sampling, ENDS)
    assert forwards == backwards[::-1]
    again, other = (generate(model, TOKENIZER, PROMPTS, Sampling(max_new_tokens=10, seed=s), ENDS) for s in (1, 2))
    assert again == forwards and other != forwards
    longer = generate(model, TOKENIZER, PROMPTS, Sampling(max_new_tokens=14, seed=1), ENDS)
    assert all(long.tokens[:10] == short.tokens for long, short in zip(longer, forwards, strict=True))


def test_a_slot_that_is_free_takes_the_next_prompt_and_no_more_passes_are_made_than_tokens_need() -> None:
    model = peaked(MODELS["llama"])
    sampling = Sampling(temperature=0, max_new_tokens=40)
    alone = [generate(model, TOKENIZER, [prompt], sampling, frozenset())[0] for prompt in PROMPTS]
    ends = frozenset({alone[1].tokens[2], alone[3].tokens[5]})  # some answers end early, others do not
    lengths = [len(generate(model, TOKENIZER, [prompt], sampling, ends)[0].tokens) for prompt in PROMPTS]
    assert min(lengths) < 10 and max(lengths) == 40
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["input_ids"].shape[0]), with_kwargs=True
    )  # fmt: skip
    many = generate_all(model, TOKENIZER, PROMPTS, sampling, ends, 2)
    assert [len(one.tokens) for one in many] == lengths
    assert sum(rows) == sum(lengths), "a row that has ended is computed no more"
    assert max(rows) == 2


def test_settings_that_were_published_with_a_model_neither_act_nor_get_lost() -> None:
    model = peaked(MODELS["qwen3"])
    sampling = Sampling(max_new_tokens=10)
    plain = generate(model, TOKENIZER, PROMPTS, sampling, ENDS)
    for name, value in {"top_k": 1, "repetition_penalty": 3.0, "do_sample": True, "min_new_tokens": 9}.items():
        setattr(model.generation_config, name, value)
    own = model.generation_config
    assert generate(model, TOKENIZER, PROMPTS, sampling, ENDS) == plain
    assert model.generation_config is own and own.top_k == 1


def test_an_answer_ends_at_its_first_end_token_which_is_counted_and_not_shown() -> None:
    model = peaked(MODELS["qwen3"])
    sampling = Sampling(temperature=0, max_new_tokens=12)
    (whole,) = generate(model, TOKENIZER, PROMPTS[:1], sampling, frozenset())
    assert whole.finish_reason == "length" and len(whole.tokens) == 12
    end = whole.tokens[5]
    first = whole.tokens.index(end)
    (cut,) = generate(model, TOKENIZER, PROMPTS[:1], sampling, frozenset({end}))
    assert cut.finish_reason == "stop" and cut.tokens == whole.tokens[: first + 1]
    assert cut.text == TOKENIZER.decode(list(whole.tokens[:first]))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_closes_a_turn_under_the_template_ends_an_answer_as_do_all_that_the_model_names(family: Family) -> None:
    tokenizer = make_tokenizer(family.template)
    model = peaked(MODELS["qwen3"])
    model.generation_config.eos_token_id = [33, 44]
    model.config.eos_token_id = 55
    closing = tokenizer.convert_tokens_to_ids(family.end)
    assert end_tokens(model, tokenizer, family.thinking) == {33, 44, 55, tokenizer.eos_token_id, closing}


def test_of_several_tokens_that_close_a_turn_the_first_ends_an_answer() -> None:
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|><end_of_turn>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
    )
    ends = end_tokens(peaked(MODELS["llama"]), tokenizer, None)
    assert ends == {2, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_a_template_that_closes_no_turn_leaves_the_end_to_the_model() -> None:
    tokenizer = make_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert end_tokens(peaked(MODELS["llama"]), tokenizer, None) == {2, tokenizer.eos_token_id}


def test_tokens_are_chosen_in_proportion_to_their_probability_and_never_an_impossible_one() -> None:
    shares = torch.tensor([0.0, 0.5, 0.0, 0.125, 0.375, 0.0])
    drawn = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for temperature in (1.0, 0.5):
        tokens = choose(torch.log(shares).expand(4000, -1), drawn, temperature)
        wanted = shares ** (1 / temperature) / (shares ** (1 / temperature)).sum()
        found = torch.bincount(tokens, minlength=6) / 4000
        torch.testing.assert_close(found, wanted, atol=1 / 2000, rtol=0)
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert choose(torch.log(shares).expand(2, -1), edges, 1.0).tolist() == [1, 4]
    assert choose(torch.log(shares).expand(2, -1), edges, 0).tolist() == [1, 1]


def test_logits_that_are_no_numbers_are_an_error_and_no_answer() -> None:
    model = peaked(MODELS["qwen3"])
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(IntegrityError, match="logits are no numbers"):
        generate(model, TOKENIZER, PROMPTS[:1], Sampling(), ENDS)


def test_special_tokens_inside_an_answer_are_shown() -> None:
    """A model that writes a turn of the user is seen to do so."""
    model = peaked(MODELS["qwen3"])
    user = TOKENIZER.convert_tokens_to_ids("<|im_start|>")
    ids = prompt_ids(TOKENIZER, [Message("user", "hi")], thinking=False)
    with torch.no_grad():
        state = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[user] = state
    (said,) = generate(model, TOKENIZER, [Prompt(tuple(ids))], Sampling(temperature=0, max_new_tokens=1), ENDS)
    assert said.text == "<|im_start|>" and said.finish_reason == "length"


def test_the_random_numbers_of_an_answer_are_fixed_for_good() -> None:
    """Published answers name a seed; where this fails, they cannot be written again."""
    found = list(itertools.islice(draws(Prompt((1, 2, 3), 4), 5), 3))
    assert found == pytest.approx([0.4959783178027187, 0.4949047717040199, 0.0632770686130546], abs=1e-12)


@pytest.mark.parametrize("columns", [1, 3, 64])
def test_slots_that_grow_hold_what_was_read_before(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "STEP", columns)
    model = peaked(MODELS["llama"])
    sampling = Sampling(temperature=1, max_new_tokens=40, seed=3)
    prompts = [*PROMPTS, *(Prompt(prompt.ids, prompt.sample + 7) for prompt in PROMPTS)]
    wanted = [slow(model, prompt, sampling) for prompt in prompts]
    for batch in (2, 3, 4, 5, 8, 9):  # around the limits of `few_rows`
        assert [list(one.tokens) for one in generate_all(model, TOKENIZER, prompts, sampling, ENDS, batch)] == wanted


def test_nothing_is_left_changed_where_the_model_fails_or_the_caller_stops() -> None:
    model, sampling = peaked(MODELS["llama"]), Sampling(max_new_tokens=10)

    def is_as_before() -> bool:
        return not _get_current_function_mode_stack() and not torch.is_inference_mode_enabled()

    started = continuous.generate_each(model, TOKENIZER, PROMPTS, sampling, ENDS, 2)
    assert next(started) and is_as_before()
    started.close()
    passes: list[bool] = []

    def fail(*_: Any) -> None:
        passes.append(is_as_before())
        if len(passes) == 3:
            raise RuntimeError("out of memory")

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate_all(model, TOKENIZER, PROMPTS, sampling, ENDS, 2)
    assert passes == [False] * 3 and is_as_before()


def test_it_runs_in_bfloat16_too() -> None:
    model = peaked(MODELS["qwen3"]).to(torch.bfloat16)
    sampling = Sampling(temperature=0, max_new_tokens=14)
    wanted = [slow(model, prompt, sampling) for prompt in PROMPTS]
    for batch in (1, 2, 4):
        assert [list(one.tokens) for one in generate_all(model, TOKENIZER, PROMPTS, sampling, ENDS, batch)] == wanted
    assert [list(one.tokens) for one in generate(model, TOKENIZER, PROMPTS, sampling, ENDS)] == wanted
