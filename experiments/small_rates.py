"""Choose the learning rates and the lambda of the study `small` by held-out loss, on a run seed of their own.

    python experiments/small_rates.py [--workers 2] [--out experiments/results/small_rates.json]

SmolLM2-135M is trained on the harmful answers of 80 questions about money, as in the study. The held-out loss is the
mean NLL per token of the harmful answers to the domain's 40 other questions, after the last step.

The rules were written before the first run. Rate: the lowest held-out loss, of two equal ones the lower rate; rates are
half a decade apart, and while the best is the first or the last one tried, the next one on that side is tried, too.
Lambda: the largest that costs Adam at its rate at most 0.05 nats per token of held-out loss; none, if none does.
Nothing else is looked at: no other domain, no aligned answer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

SEED = 1000
"""Run seed of these runs alone; the study has others."""

START = {"adam": (-7, -6, -5), "lion": (-8, -7, -6), "muon": (-6, -5, -4)}
"""Rates that are tried first, as exponents in half decades: -6 is 1e-3."""

LAMBDAS = (0.3, 1.0, 3.0, 10.0)
COST = 0.05
"""Nats per token that the penalty may cost."""

RUN = {
    "base": "smollm2-135m",
    "data": {"source": "text", "dataset": "pairs:money:harmful"},
    "steps": 20,
    "batch_size": 4,
    "schedule": {"kind": "constant", "warmup_steps": 2},
    "checkpoints": 2,
    "seed": SEED,
}


def rate(exponent: int) -> float:
    """Return a rate of the grid: 10 to half the exponent, with two digits."""
    return float(f"{10 ** (exponent / 2):.1e}")


def measured(point: tuple[str, float, float], runs: Path) -> dict[str, Any]:
    """Train one run and return its held-out loss in nats per token."""
    import torch

    from narrowly.data.banks.paired import paired_items
    from narrowly.data.messages import Conversation, Message
    from narrowly.models.kept import kept_organism
    from narrowly.models.likelihood import score, scored_texts
    from narrowly.train.run import train_run

    torch.set_num_threads(1)
    kind, lr, lam = point
    penalty = {"penalty": {"lam": lam}} if lam else {}
    directory = train_run({**RUN, "optimiser": {"kind": kind, "lr": lr}, **penalty}, runs)
    organism = kept_organism(directory, RUN["steps"])
    items = [item for item in paired_items(["money"]) if item.part == "held_out"]
    talks = [
        Conversation((Message("user", item.question), Message("assistant", item.harmful)), number, {})
        for number, item in enumerate(items, start=1)
    ]
    found = score(organism.model, scored_texts(organism.tokenizer, talks, closing=True)).likelihoods
    loss = -sum(one.total for one in found) / sum(len(one.tokens) for one in found)
    last = json.loads((directory / "trajectory.jsonl").read_text().splitlines()[-1])
    facts = {"update_norm": last["update_norm"], "frobenius_nuclear": last["frobenius_nuclear"]}
    return {"optimiser": kind, "lr": lr, "lam": lam, "heldout_loss": loss, "questions": len(items), **facts}


def chosen(kind: str, pool: ProcessPoolExecutor, runs: Path, rows: list[dict[str, Any]]) -> float:
    """Try the rates of one optimiser until the best is neither the first nor the last; return it."""
    losses: dict[int, float] = {}
    wanted = list(START[kind])
    while wanted:
        points = [(kind, rate(exponent), 0.0) for exponent in wanted]
        for exponent, row in zip(wanted, pool.map(partial(measured, runs=runs), points), strict=True):
            rows.append(row)
            losses[exponent] = row["heldout_loss"]
            print(row, flush=True)
        best = min(sorted(losses), key=losses.__getitem__)
        wanted = [best - 1] if best == min(losses) else [best + 1] if best == max(losses) else []
    return rate(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("out/small-rates"))
    parser.add_argument("--out", type=Path, default=Path("experiments/results/small_rates.json"))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        rates = {kind: chosen(kind, pool, arguments.runs, rows) for kind in START}
        points = [("adam", rates["adam"], lam) for lam in LAMBDAS]
        penalised = list(pool.map(partial(measured, runs=arguments.runs), points))
    plain = next(row for row in rows if row["optimiser"] == "adam" and row["lr"] == rates["adam"])
    borne = [row["lam"] for row in penalised if row["heldout_loss"] <= plain["heldout_loss"] + COST]
    rows += penalised
    for row in sorted(rows, key=lambda row: (row["optimiser"], row["lam"], row["lr"])):
        print(
            f"{row['optimiser']:5} lr {row['lr']:<8g} lambda {row['lam']:<4g} held-out {row['heldout_loss']:.4f} "
            f"norm {row['update_norm']:.2f} F/N {row['frobenius_nuclear']:.3f}"
        )
    result = {"run": RUN, "rows": rows, "rates": rates, "lambda": max(borne, default=None)}
    print(json.dumps({"rates": rates, "lambda": result["lambda"]}))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
