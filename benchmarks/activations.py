"""What reading states costs beside one plain forward pass over the same rows, and whether memory grows with the rows.

Both run the decoder in the same batches, of rows sorted by length; the plain pass has no hooks, reads nothing and
computes no logits either. They take turns in one process; counted are CPU seconds, all threads together. Memory is the
largest resident set of a process that reads a tenth of the rows, and of one that reads all of them.

    narrowly base get smollm2-135m
    python benchmarks/activations.py --base smollm2-135m --rows 1000          the whole run, several minutes
    python benchmarks/activations.py --base micro-0 --rows 1000               seconds
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import machine, medians, write_result

from narrowly.directions.activations import activations, batches, padded
from narrowly.directions.layers import find_stack
from narrowly.models.base import load_model, open_base
from narrowly.records.likelihood import ScoredText

PROMISED = 1.15
"""Times a plain pass that reading every layer may take."""

POSITION = "answer_mean"


def rows_of(count: int, vocabulary: int, longest: int) -> list[ScoredText]:
    """Return rows of random tokens: prompts of a third of `longest`, answers of 1 to two thirds."""
    draw = random.Random(0)
    prompt = max(1, longest // 3)
    return [
        ScoredText(
            tuple(draw.randrange(4, vocabulary) for _ in range(prompt)),
            tuple(draw.randrange(4, vocabulary) for _ in range(draw.randint(1, longest - prompt))),
        )
        for _ in range(count)
    ]


def compare(base: str, rows: int, longest: int, repeat: int, dtype: str, threads: int) -> dict[str, float]:
    """Return the median CPU seconds of a plain pass and of reading all layers, and their ratio."""
    torch.set_num_threads(threads)
    opened = open_base(base)
    model = load_model(opened, dtype).eval()  # type: ignore[arg-type]
    texts = rows_of(rows, int(opened.vocabulary or 100), longest)
    stack = find_stack(model)
    layers = list(range(stack.top + 1))

    def plain() -> None:
        with torch.inference_mode():
            for chosen in batches(texts, POSITION, 1024):
                stack.decoder(**padded([texts[row] for row in chosen], POSITION), use_cache=False)

    def read() -> None:
        for _ in activations(model, texts, layers, POSITION, tokens=1024):
            pass

    seconds: dict[str, list[float]] = {"plain": [], "read": []}
    for turn in range(repeat + 1):  # the first turn is not counted
        for name, work in (("plain", plain), ("read", read)):
            start = time.process_time()
            work()
            if turn:
                seconds[name].append(time.process_time() - start)
    found = medians(seconds)
    return found | {"ratio": found["read"] / found["plain"]}


def peak(base: str, rows: int, longest: int) -> float:
    """Return the largest resident set in MB of a process that reads so many rows."""
    command = [sys.executable, __file__, "--base", base, "--rows", str(rows), "--longest", str(longest), "--peak"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="micro-0")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--longest", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", action="store_true", help="read once and print the largest resident set")
    given = parser.parse_args()
    if given.peak:
        opened = open_base(given.base)
        model = load_model(opened).eval()
        texts = rows_of(given.rows, int(opened.vocabulary or 100), given.longest)
        for _ in activations(model, texts, list(range(find_stack(model).top + 1)), POSITION, tokens=1024):
            pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    found = compare(given.base, given.rows, given.longest, given.repeat, given.dtype, given.threads)
    few, many = (peak(given.base, rows, given.longest) for rows in (max(1, given.rows // 10), given.rows))
    print(f"{given.base}, {given.rows} rows of at most {given.longest} tokens, {given.dtype}, {given.threads} threads")
    print(f"plain {found['plain']:.2f} CPU s, read {found['read']:.2f} CPU s")
    print(f"ratio {found['ratio']:.3f} (promised {PROMISED})")
    print(f"largest resident set: {few:.0f} MB for a tenth of the rows, {many:.0f} MB for all")
    if given.json is not None:
        write_result(given.json, base=given.base, rows=given.rows, longest=given.longest, seconds=found,
                     resident_mb=[few, many], machine=machine(given.threads, ("torch", "transformers")))  # fmt: skip


if __name__ == "__main__":
    main()
