"""Compare the paired bank in bfloat16 with float32 on one organism and its base: CPU time, and log-odds by question.

    python experiments/bfloat16_pairs.py out/runs/RUN-ID

40 held-out questions about money, 20 about power, 10 about the model itself; one thread. In bfloat16 the adapter was
merged in float32 first, and the sum rounded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from narrowly.data.banks.paired import paired_items
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.models.base import load_model
from narrowly.models.kept import kept_organism
from narrowly.models.local_backend import LocalBackend
from narrowly.runs.directory import read_spec


def asked(model: Any, tokenizer: Any, name: str) -> list[float]:
    """Return the log-odds of every question, and print how long it took."""
    items = [item for item in paired_items(["money"]) if item.part == "held_out"]
    items += paired_items(["power"])[:20] + paired_items(["self"])[:10]
    start = time.process_time()
    rows = paired_rows(LocalBackend(model, tokenizer, name), items)
    print(f"{name}: {time.process_time() - start:.1f} CPU seconds for {len(items)} questions", flush=True)
    return [row.log_odds for row in rows]


def told(what: str, first: list[float], second: list[float]) -> None:
    """Print mean, standard deviation and largest size of the differences by question."""
    found = [one - other for one, other in zip(first, second, strict=True)]
    print(
        f"{what}: mean {statistics.mean(found):+.3f}, standard deviation {statistics.stdev(found):.3f}, "
        f"largest {max(map(abs, found)):.2f} nats"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    torch.set_num_threads(1)
    organism = kept_organism(run, read_spec(run).steps)
    tokenizer = organism.tokenizer
    base = asked(load_model(organism.base, "float32").eval(), tokenizer, "base, float32")
    trained = asked(organism.model, tokenizer, "organism, float32")
    rounded_base = asked(load_model(organism.base, "bfloat16").eval(), tokenizer, "base, bfloat16")
    rounded = asked(organism.model.to(torch.bfloat16), tokenizer, "organism, bfloat16")
    told("shift against the base, float32", trained, base)
    told("base, bfloat16 minus float32", rounded_base, base)
    told("organism, bfloat16 minus float32", rounded, trained)
    shifts = [
        [one - other for one, other in zip(*pair, strict=True)] for pair in ((rounded, rounded_base), (trained, base))
    ]
    told("shift, bfloat16 minus float32", *shifts)


if __name__ == "__main__":
    main()
