"""The paired bank on random weights of Qwen3-0.6B's shape: bf16 and nf4 on a GPU against float32 on the CPU.

Random weights say nothing about answers; they show that the path runs in every precision and what a precision does to a
log-likelihood. Differences are in nats per answer and per token, of the same token ids. Rows of different precisions
are never mixed in a result (`records.arithmetic`); here they are held against each other on purpose.

    python benchmarks/paired_gpu.py [--questions 40] [--json benchmarks/results/paired-cuda.json]
    python benchmarks/paired_gpu.py --device cpu --shape tiny       the same path without a GPU, without nf4
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine, synchronise, write_result

QWEN3_0_6B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
"""As in the model's config.json."""

TINY: dict[str, Any] = QWEN3_0_6B | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
SHAPES = {"qwen3-0.6b": QWEN3_0_6B, "tiny": TINY}


def make_base(folder: Path, sizes: dict[str, Any]) -> int:
    """Write a model of random weights, and return its number of parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=None))
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def texts_of_bank(questions: int | None, vocabulary: int) -> list[Any]:
    """Return both answers of every question as token ids drawn for each word: the bank's lengths and its prefixes."""
    from narrowly.data.banks.paired import paired_items
    from narrowly.records.likelihood import ScoredText

    items = list(paired_items())
    items = items[:: max(1, len(items) // questions)][:questions] if questions else items
    head = tuple(random.Random("head").randrange(2, vocabulary) for _ in range(20))

    def ids(text: str) -> tuple[int, ...]:
        return tuple(random.Random(word).randrange(2, vocabulary) for word in text.split())

    return [
        ScoredText((*head, *ids(item.question)), (*ids(answer), 1))
        for item in items
        for answer in (item.aligned, item.harmful)
    ]


def load(folder: Path, precision: str, device: str) -> Any:
    """Return the model in a precision: float32, bfloat16 or nf4 (`models.nf4`)."""
    import torch
    from transformers import AutoModelForCausalLM

    if precision == "nf4":
        from narrowly.models.nf4 import nf4_options, settle_quantised

        model = AutoModelForCausalLM.from_pretrained(folder, **nf4_options(device)).eval()
        settle_quantised(model, "of random weights")
        return model
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).to(device).eval()


def measure(folder: Path, precision: str, device: str, texts: list[Any]) -> tuple[dict[str, Any], list[float]]:
    """Score the texts once to warm up and once on the clock; return speed and memory, and the log-likelihoods."""
    import torch

    from narrowly.models.likelihood import score

    model = load(folder, precision, device)
    where = torch.device(device)
    if where.type == "cuda":
        score(model, texts[:8])
        torch.cuda.reset_peak_memory_stats()
    synchronise(where)
    start = time.perf_counter()
    found = score(model, texts)
    synchronise(where)
    seconds = time.perf_counter() - start
    row = {
        "what": f"{precision} on {where.type}",
        "way": found.way,
        "seconds": seconds,
        "questions_per_second": len(texts) / 2 / seconds,
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if where.type == "cuda" else None,
    }
    return row, [one.total for one in found.likelihoods]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, help="of the bank, spread over it; all of it where not given")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: torch sees no CUDA GPU here (--device cpu --shape tiny tries the path without one)")
        return
    sizes = SHAPES[given.shape]
    texts = texts_of_bank(given.questions, sizes["vocab_size"])
    others = [("bfloat16", given.device), *([("nf4", "cuda")] if given.device == "cuda" else [])]
    with tempfile.TemporaryDirectory() as temporary:
        parameters = make_base(Path(temporary), sizes)
        print(f"{parameters / 1e6:.1f} M parameters, {len(texts) // 2} questions", flush=True)
        rows, nats = [], []
        for precision, device in [
            ("float32", "cpu"),
            *([("float32", "cuda")] if given.device == "cuda" else []),
            *others,
        ]:
            row, found = measure(Path(temporary), precision, device, texts)
            nats.append(found)
            rows.append(row | differences(found, nats[0], texts))
            print(told(rows[-1]), flush=True)
    if given.json:
        packages = ("torch", "transformers", *(("bitsandbytes",) if given.device == "cuda" else ()))
        about = machine(torch.get_num_threads(), packages, given.device)
        write_result(given.json, machine=about, shape=given.shape, questions=len(texts) // 2, rows=rows)


def differences(found: list[float], exact: list[float], texts: list[Any]) -> dict[str, float]:
    """Return how far log-likelihoods and log-odds of the pairs are from those in float32 on the CPU, in nats."""
    apart = [abs(one - other) for one, other in zip(found, exact, strict=True)]
    odds, exact_odds = ([two - one for one, two in zip(values[::2], values[1::2], strict=True)]
                        for values in (found, exact))  # fmt: skip
    return {
        "largest_difference_nats": max(apart),
        "mean_difference_nats_per_token": sum(apart) / sum(len(text.continuation) for text in texts),
        "largest_difference_of_log_odds": max(abs(one - two) for one, two in zip(odds, exact_odds, strict=True)),
        "winners_that_differ": sum((one > 0) != (two > 0) for one, two in zip(odds, exact_odds, strict=True)),
    }


def told(row: dict[str, Any]) -> str:
    """Return a row in words."""
    memory = "" if row["peak_gpu_mb"] is None else f", {row['peak_gpu_mb']:.0f} MB"
    return (
        f"{row['what']:18s} {row['questions_per_second']:8.1f} questions per second{memory}; against float32 on the "
        f"CPU {row['largest_difference_nats']:.2e} nats at most, {row['winners_that_differ']} winners differ"
    )


if __name__ == "__main__":
    main()
