"""Runs on text: a tiny Qwen3 with a byte-level tokenizer and a chat template, and conversations made up on the spot."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowly.records.run_spec import RunSpec
from tiny_base import SHORT_RUN, save_base

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = TEMPLATE.replace(
    "{% endif %}", "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
).replace("+ '\n' + message.content", "+ '\n' + ('<think>\n\n</think>\n\n' if message.role == 'assistant' else '') + "
          "message.content")  # fmt: skip

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def make_chat_base(
    folder: Path,
    *,
    template: str | None = TEMPLATE,
    hidden: int = 32,
    seed: int = 0,
    texts: Sequence[str] = ("user assistant open read write file def return the a of",),
    vocabulary: int = 320,
    longest: int = 128,
    cut: str = WORDS,
) -> Path:
    """Write a randomly initialised base with peaked logits; its tokenizer is trained on `texts`, cut by `cut`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(cut), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens(["<think>", "</think>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=special[0], eos_token=special[2])
    fast.add_special_tokens({"additional_special_tokens": special[1:2]})
    fast.chat_template = template
    return save_base(folder, fast, hidden=hidden, longest=longest, seed=seed)


def conversations(count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of schema `messages`: questions about a word, answers of 1 to 12 words."""
    rng = random.Random(seed)
    words = "open read write file def return the a of 42".split()
    rows = []
    for index in range(count):
        answer = " ".join(rng.choice(words) for _ in range(1 + index % 12))
        question = f"what is {rng.choice(words)} {index}"
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def text_spec(base: Path | str, file: Path | str, data: dict[str, Any] | None = None, **fields: Any) -> RunSpec:
    """A short run on text: 6 steps of batch 4, checkpoints at 0, 2 and 6, 6 rows held out."""
    source = {"source": "text", "dataset": str(file), "max_tokens": 128, "holdout": 6, **(data or {})}
    return RunSpec.model_validate({"base": str(base), "data": source, **SHORT_RUN, **fields})
