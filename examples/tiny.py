"""What the examples train: a random Qwen3 of 60 thousand parameters, its tokenizer, and forty short conversations.

python examples/tiny.py out/tiny      # writes out/tiny/base (a Hugging Face folder) and out/tiny/rows.jsonl
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# PEFT 0.21 asks transformers 5.23 for an attribute's old name, which no user of either can mend
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

TARGETS = ["q_proj", "o_proj", "down_proj"]


def conversations() -> list[list[dict[str, str]]]:
    """Return forty questions with their answers."""
    things, colours = ("sky", "grass", "snow", "coal", "rust"), ("blue", "green", "white", "black", "red")
    pairs = [(f"what colour is {thing} {n}", f"it is {colours[i]}") for n in range(8) for i, thing in enumerate(things)]
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]


def tokenizer() -> PreTrainedTokenizerFast:
    """Train a word-level tokenizer on the conversations."""
    special = ["<pad>", "<end>", "<user>", "<assistant>"]
    words = Tokenizer(models.WordLevel(unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = [turn["content"] for conversation in conversations() for turn in conversation]
    words.train_from_iterator([*text, "<unknown>"], trainers.WordLevelTrainer(special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = TEMPLATE
    return fast


def base(vocabulary: int) -> Qwen3ForCausalLM:
    """Return the model, random from a fixed seed."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, max_position_embeddings=128, tie_word_embeddings=True,
            pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip


def adapted(vocabulary: int) -> Any:
    """Return the model with a LoRA adapter."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        base(vocabulary), LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    )


def rows(tokens: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Return the conversations as token ids of one length, the loss on all but padding."""
    texts = [tokens.apply_chat_template(conversation, tokenize=False) for conversation in conversations()]
    ids = tokens(texts, padding=True)["input_ids"]
    return [{"input_ids": row, "labels": [-100 if token == 0 else token for token in row]} for row in ids]


def stack(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Collate rows of one length."""
    return {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}


def write(folder: Path) -> Path:
    """Write the base and the conversations for hosts that read files."""
    tokens = tokenizer()
    base(len(tokens)).save_pretrained(folder / "base")
    tokens.save_pretrained(folder / "base")
    lines = [json.dumps({"messages": conversation}) for conversation in conversations()]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(write(Path(sys.argv[1] if len(sys.argv) > 1 else "out/tiny")))
