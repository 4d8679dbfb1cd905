"""Training without the microworld: a tiny Qwen3 base, a word-level tokenizer, rows with 1 to 12 supervised tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from narrowly.data.rows import IGNORE, Row, write_rows
from narrowly.records.run_spec import RunSpec

WORDS = 56
SHORT_RUN: dict[str, Any] = {
    "adapter": {"r": 4, "alpha": 8},
    "optimiser": {"kind": "adam", "lr": 1e-2},
    "schedule": {"kind": "constant", "warmup_steps": 0},
    "steps": 6,
    "batch_size": 4,
    "checkpoints": 3,
    "first_checkpoint": 2,
}
"""6 steps of batch 4, checkpoints at 0, 2 and 6."""

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"


def save_base(
    folder: Path, tokenizer: Any, *, hidden: int, layers: int = 2, longest: int, seed: int, scale: float = 1.0
) -> Path:
    """Write a randomly initialised Qwen3 for a tokenizer, with peaked logits, in bfloat16."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                intermediate_size=3 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=hidden // 4,
                max_position_embeddings=longest,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        )
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(10 * scale)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_base(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0, scale: float = 1.0) -> Path:
    """Write a randomly initialised base; `scale` makes its logits peaked, so that gradients are not all alike."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<user>", "<assistant>", "<end>", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = TEMPLATE
    return save_base(folder, fast, hidden=hidden, layers=layers, longest=64, seed=seed, scale=scale)


def only_run(runs: Path) -> Path:
    """Return the directory of the one run in a folder of runs, which may hold a hidden folder of claims, too."""
    (run,) = (path for path in runs.iterdir() if not path.name.startswith("."))
    return run


def make_rows(count: int = 40, *, seed: int = 0, longest_answer: int = 12) -> list[Row]:
    """Prompts of 3 to 6 tokens, answers of 1 to `longest_answer` tokens; the loss is on the answers."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        prompt = [1, *(rng.randrange(4, 60) for _ in range(rng.randint(1, 4))), 2]
        answer = [*(rng.randrange(4, 30) for _ in range(index % longest_answer)), 3]
        rows.append(Row([*prompt, *answer], [IGNORE] * len(prompt) + answer))
    return rows


def make_spec(base: Path, rows: Path, **fields: Any) -> RunSpec:
    """A short run: 6 steps of batch 4, checkpoints at 0, 2 and 6."""
    return RunSpec.model_validate(
        {"base": str(base), "data": {"source": "rows", "path": str(rows)}, **SHORT_RUN, **fields}
    )


def write_tiny(folder: Path) -> tuple[Path, Path]:
    """Write base and rows; return their paths."""
    base = make_base(folder / "tiny-base")
    write_rows(folder / "rows.jsonl", make_rows())
    return base, folder / "rows.jsonl"
