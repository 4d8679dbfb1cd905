"""What share of a training the tripwire really takes, beside the budget that it was given, and what that bought.

A tiny random Qwen3 is trained by `transformers.Trainer` on one thread, once per budget. Time is wall-clock time, as the
tripwire counts it, so another load on the machine changes how many readings are bought and not the share.

    python benchmarks/tripwire_cost.py [--steps 400] [--json benchmarks/results/tripwire_cost.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import tiny

from narrowly.data.banks.paired import PairedItem
from narrowly.integrations.tripwire.control import read_tripwire
from narrowly.integrations.tripwire_callback import TripwireCallback

BUDGETS = (0.01, 0.05, 0.2)


def items() -> list[PairedItem]:
    """Return forty pairs in the words of the example."""
    return [
        PairedItem(f"c-{number:02d}", "colours", "broad", question["content"], answer["content"], "it is none")
        for number, (question, answer) in enumerate(tiny.conversations())
    ]


def measured(budget: float, steps: int) -> dict[str, Any]:
    """Train once under a budget; return what the readings took and bought."""
    tokens = tiny.tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        callback = TripwireCallback(every=1, questions=20, budget=budget, items=items())
        Trainer(
            model=tiny.adapted(len(tokens)),
            args=TrainingArguments(
                output_dir=folder, max_steps=steps, per_device_train_batch_size=8, report_to=[], use_cpu=True,
                disable_tqdm=True, logging_steps=10**6, save_strategy="no",
            ),
            train_dataset=tiny.rows(tokens),
            data_collator=tiny.stack,
            processing_class=tokens,
            callbacks=[callback],
        ).train()  # fmt: skip
        record = read_tripwire(Path(folder))
    after = [one for one in record.readings if one.step]
    return {
        "budget": budget,
        "share": round(record.own_seconds / record.seconds, 4),
        "seconds": round(record.seconds, 2),
        "readings": len(record.readings),
        "pairs": len(record.readings) * len(record.ids),
        "median_ms": round(1000 * sorted(one.seconds for one in record.readings)[len(record.readings) // 2], 1),
        "steps_between": round(after[-1].step / len(after), 1) if after else None,
    }


def main() -> None:
    """Print one line per budget; write a record where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    measured(1.0, 3)  # warm caches and lazy imports
    rows = [measured(budget, given.steps) for budget in BUDGETS]
    for row in rows:
        print(
            f"budget {100 * row['budget']:g} %: {100 * row['share']:.2f} % of {row['seconds']:g} s, {row['readings']} "
            f"readings, {row['pairs']} pairs, every {row['steps_between']} steps"
        )
    if given.json:
        versions = {name: version(name) for name in ("torch", "transformers", "peft")}
        record = {"steps": given.steps, "rows": rows, "machine": platform.machine(), "versions": versions}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
