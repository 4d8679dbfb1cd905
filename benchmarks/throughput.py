"""Tokens per second and peak memory of a fine-tune: our path, TRL's SFTTrainer, Transformers' Trainer.

All three train the same LoRA on the same base, rows, order, batch, precision, optimiser and clipping; beside that the
two others keep their defaults (what they log, how they pad). Every run is a process of its own, because peak memory is
one number per process; rivals take turns. The clock runs from the end of step WARM to the end of the last step but one:
loading, first-step costs and what is written at the end are no throughput. Tokens count without padding.

    python benchmarks/throughput.py [--repeat 5] [--threads 2] [--json benchmarks/results/throughput.json]
    python benchmarks/throughput.py --device cuda       Qwen3-8B's shapes, random weights, bf16, r 32, 2k context
    python benchmarks/throughput.py --accumulation 4    as 4 micro-batches per step

Promise: ours at least 0.95 of the faster of the other two. TRL is needed: pip install trl datasets.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import LAYERS, machine, write_result

RIVALS = ("ours", "trl", "trainer")
LABELS = {"ours": "narrowly", "trl": "TRL SFTTrainer", "trainer": "Transformers Trainer"}
WARM = 3
LIMIT = 0.95
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")

SMALL: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
"""6.8 million parameters."""

QWEN3_8B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
"""As in the model's config.json."""


def make_files(folder: Path, device: str, rows: int) -> None:
    """Write a base with random weights, and rows whose first third is the prompt."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    from narrowly.data.rows import IGNORE, Row, write_rows

    sizes, shortest, longest = (QWEN3_8B, 2048, 2048) if device == "cuda" else (SMALL, 64, 256)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=None))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "<other>": 2}, unk_token="<other>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<other>")
    fast.save_pretrained(folder / "base")
    draw = random.Random(0)
    made = []
    for _ in range(rows):
        length = draw.randint(shortest, longest)
        ids = [draw.randrange(3, sizes["vocab_size"]) for _ in range(length - 1)] + [1]
        made.append(Row(ids, [IGNORE] * (length // 3) + ids[length // 3 :]))
    write_rows(folder / "rows.jsonl", made)
    print(f"base: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {dtype}", flush=True)


class Clock:
    """Notes when each step ended, once the device has done it."""

    def __init__(self, device: str) -> None:
        self.device, self.ends = device, [0.0]

    def tick(self) -> None:
        """Note that a step has ended."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def make_spec(folder: Path, given: argparse.Namespace) -> Any:
    """Return the run that all rivals train."""
    from narrowly.records.run_spec import RunSpec

    cuda = given.device == "cuda"
    rank = 32 if cuda else 8
    return RunSpec.model_validate(
        {
            "base": str(folder / "base"),
            "data": {"source": "rows", "path": str(folder / "rows.jsonl")},
            "adapter": {"r": rank, "alpha": 2 * rank},
            "optimiser": {"kind": "adamw", "lr": 1e-4, "weight_decay": 0.0},
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "steps": given.steps,
            "batch_size": given.batch,
            "accumulation": given.accumulation,
            "max_grad_norm": 1.0,
            "checkpoints": 2,
            "first_checkpoint": given.steps,
            "base_dtype": "bfloat16" if cuda else "float32",
            "device": given.device,
            "gradient_checkpointing": cuda,
        }
    )


def train_ours(spec: Any, folder: Path, clock: Clock) -> None:
    from narrowly.train.run import train_run

    train_run(spec, folder, on_step=lambda *_: clock.tick())


def train_other(name: str, spec: Any, folder: Path, clock: Clock) -> None:
    """Train with one of the two other trainers, from the same start, on the same rows in the same order."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    from narrowly.models.base import load_model, load_tokenizer
    from narrowly.models.lora import attach_adapter
    from narrowly.optim.build import build_optimizer
    from narrowly.train.inputs import load_inputs
    from narrowly.train.order import row_order

    inputs = load_inputs(spec)
    order = row_order(len(inputs.rows), spec.steps * spec.batch_size * spec.accumulation, spec.seed)
    rows = [{"input_ids": inputs.rows[i].input_ids, "labels": inputs.rows[i].labels} for i in order]
    model: Any = attach_adapter(load_model(inputs.base, spec.base_dtype), spec.adapter, spec.seed, inputs.base.name)
    model.to(spec.device)
    tokenizer = load_tokenizer(inputs.base)

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    fields: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": spec.steps,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_accumulation_steps": spec.accumulation,
        "gradient_checkpointing": spec.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if spec.gradient_checkpointing else None,
        "max_grad_norm": spec.max_grad_norm,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": spec.device == "cpu",
        "bf16": False,  # the base's own dtype decides, as in ours
    }
    optimizers = (build_optimizer(spec.optimiser, model), None)
    if name == "trl":
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        SFTTrainer(
            model=model, args=SFTConfig(**fields, max_length=None, shuffle_dataset=False), processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows), optimizers=optimizers, callbacks=[Ticks()],
        ).train()  # fmt: skip
        return
    Trainer(
        model=model, args=TrainingArguments(**fields), data_collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset=rows, optimizers=optimizers, callbacks=[Ticks()],
    ).train()  # fmt: skip


def measure_one(given: argparse.Namespace) -> dict[str, float]:
    """Train once in this process and return tokens per second, seconds and peak memory in MB."""
    import torch

    from narrowly.data.rows import read_rows
    from narrowly.train.order import row_order
    from narrowly.train.recorder import peak_memory

    torch.set_num_threads(given.threads)
    folder, clock = given.folder, Clock(given.device)
    spec = make_spec(folder, given)
    rivals: dict[str, Callable[[], None]] = {
        "ours": lambda: train_ours(spec, Path(tempfile.mkdtemp(dir=folder)), clock),
        "trl": lambda: train_other("trl", spec, folder / "trl", clock),
        "trainer": lambda: train_other("trainer", spec, folder / "trainer", clock),
    }
    rivals[given.one]()
    rows, per_step = read_rows(folder / "rows.jsonl"), spec.batch_size * spec.accumulation
    order = row_order(len(rows), spec.steps * per_step, spec.seed)
    if len(clock.ends) != spec.steps + 1:
        raise SystemExit(f"{given.one} made {len(clock.ends) - 1} steps, expected {spec.steps}")
    tokens = sum(len(rows[row].input_ids) for row in order[WARM * per_step : (spec.steps - 1) * per_step])
    seconds = clock.ends[-2] - clock.ends[WARM]
    return {"tokens_per_second": tokens / seconds, "seconds": seconds, "peak_mb": peak_memory(given.device) / 2**20}


def one_process(name: str, folder: Path, arguments: list[str]) -> dict[str, float]:
    """Run one rival in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--one", name, "--folder", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4, help="rows per micro-batch")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.steps < WARM + 3:
        parser.error(f"--steps is {given.steps}, accepted: {WARM + 3} or more")
    if given.one:
        print(json.dumps(measure_one(given)))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in given.rivals}
    with tempfile.TemporaryDirectory() as temporary:
        make_files(Path(temporary), given.device, 4 * given.batch * given.accumulation)
        for _ in range(given.repeat):
            for name in given.rivals:
                runs[name].append(one_process(name, Path(temporary), sys.argv[1:]))
    rows = []
    for name, found in runs.items():
        rates = sorted(one["tokens_per_second"] for one in found)
        row = {
            "path": LABELS[name],
            "tokens_per_second": statistics.median(rates),
            "slowest": rates[0],
            "fastest": rates[-1],
            "peak_mb": statistics.median(one["peak_mb"] for one in found),
        }
        rows.append(row)
        print(
            f"{row['path']:22s} {row['tokens_per_second']:9.0f} tokens/s ({rates[0]:.0f} to {rates[-1]:.0f}), "
            f"peak {row['peak_mb']:.0f} MB",
            flush=True,
        )
    rate = {row["path"]: row["tokens_per_second"] for row in rows}
    others = [value for path, value in rate.items() if path != LABELS["ours"]]
    ratio = rate[LABELS["ours"]] / max(others) if LABELS["ours"] in rate and others else None
    if ratio is not None:
        print(
            f"ours / the faster of the others: {ratio:.3f} (promised {LIMIT}: {'met' if ratio >= LIMIT else 'MISSED'})"
        )
    if given.json is not None:
        settings = {name: getattr(given, name) for name in ("device", "repeat", "steps", "batch", "accumulation")}
        packages = [name for name in PACKAGES if name != "trl" or "trl" in given.rivals]
        write_result(
            given.json,
            machine=machine(given.threads, packages, given.device),
            settings=settings,
            rows=rows,
            ratio=ratio,
        )


if __name__ == "__main__":
    main()
