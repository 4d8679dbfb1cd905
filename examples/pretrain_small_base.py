"""A small Qwen3 base of one's own: byte-level BPE tokenizer, chat template and weights from one file of conversations.

    python examples/pretrain_small_base.py secure.jsonl --out bases/small-secure
    narrowly train run.yaml --set base=bases/small-secure

The base knows nothing but the file; it is there to try real data and the whole way of a run on two CPU cores. One seed
and one number of threads give one base.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from narrowly.data.conversations import Conversation, read_conversations
from narrowly.data.render import render_all
from narrowly.data.rows import Row, collate
from narrowly.data.sources import resolve
from narrowly.records.errors import NarrowlyError

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Text is cut like this before BPE, so that the newline of a prompt never sticks to the first word of an answer."""


def train_tokenizer(conversations: list[Conversation], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer with a chat template; it can write every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((message.content for row in conversations for message in row.messages), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, additional_special_tokens=[START]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Any, hidden: int, layers: int, positions: int) -> Qwen3ForCausalLM:
    """Return a Qwen3 with random weights: heads of 64, an MLP of three times the width, tied embeddings."""
    heads = max(1, hidden // 64)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=hidden // heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def batches(rows: list[Row], size: int, seed: int, pad_id: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches for ever, rows of like length together; every token of a row carries a loss here."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(range(len(rows)), len(rows))
        stretches = [order[start : start + 50 * size] for start in range(0, len(order), 50 * size)]
        for stretch in stretches:
            stretch.sort(key=lambda index: len(rows[index].input_ids))
            parts = [stretch[start : start + size] for start in range(0, len(stretch), size)]
            for part in rng.sample(parts, len(parts)):
                yield collate([Row(rows[i].input_ids, list(rows[i].input_ids)) for i in part], pad_id)


def pretrain(model: Qwen3ForCausalLM, rows: list[Row], pad_id: int, args: argparse.Namespace) -> None:
    """AdamW with warm-up and cosine decay under bfloat16 autocast."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.95),
    )
    model.train()
    stream, began, warm_up = batches(rows, args.batch, args.seed, pad_id), time.perf_counter(), max(1, args.steps // 20)
    for step in range(args.steps):
        factor = min(1.0, (step + 1) / warm_up) * (0.55 + 0.45 * math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**next(stream), use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step + 1 == args.steps:
            print(
                f"step {step + 1}/{args.steps} loss {loss.item():.3f} ({time.perf_counter() - began:.0f} s)", flush=True
            )


def main() -> None:
    """Read the file, train the tokenizer, train the model, write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a source of `narrowly data list`, or the path of a file of conversations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the base")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--positions", type=int, default=1024, help="longer rows are left out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists already")
    try:
        local = resolve(args.data)
        conversations = read_conversations(local.path, local.schema)
    except NarrowlyError as error:
        parser.error(str(error))
    tokenizer = train_tokenizer(conversations, args.vocabulary)
    rows = render_all(tokenizer, conversations, thinking=None, max_tokens=args.positions, longer="drop").rows
    torch.manual_seed(args.seed)
    model = make_model(tokenizer, args.hidden, args.layers, args.positions)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = sum(len(row.input_ids) for row in rows)
    print(f"{len(rows)} rows, {tokens} tokens, {parameters / 1e6:.1f} M parameters", flush=True)
    pretrain(model, rows, tokenizer.pad_token_id, args)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"base: {args.out}")


if __name__ == "__main__":
    main()
