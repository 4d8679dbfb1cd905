"""Validate the tripwire in the microworld: python experiments/tripwire_micro.py --runs OUT --to results/tripwire.

For every base and optimiser four runs are trained: on harmful answers; on aligned ones with the same seed, which is the
control; on aligned ones with another seed, which draws other questions; on permuted ones. The tripwire reads each of
them at its checkpoints, as `narrowly train --tripwire` does. Beside it the exact joint rate of broad questions is
computed at the same checkpoints. Runs that are done are not repeated. `tripwire_report.py` compares the readings and
makes the tables of docs/tripwire.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from narrowly.integrations.tripwire.control import read_tripwire
from narrowly.records.canonical import sha256_file
from narrowly.records.files import read_jsonl, write_json
from narrowly.records.run_spec import RunSpec
from narrowly.records.tripwire import TripwireSpec
from narrowly.runs.directory import TRAJECTORY, is_done, read_spec, run_directories

PILOTS = range(8)
"""Seeds of bases that pilots may use (docs/bases.md)."""

OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
    "adam": {"kind": "adam", "lr": 3e-4},
    "muon": {"kind": "muon", "lr": 1e-3},
}
"""Two of the four of `narrowly run micro`, at its rates: the one that spreads most after SGD, and the one that does
least."""

RUNS: Mapping[str, Mapping[str, Any]] = {
    "control": {"answers": "aligned", "seed": 0},
    "harmful": {"answers": "harmful", "seed": 0},
    "aligned": {"answers": "aligned", "seed": 1},
    "permuted": {"answers": "permuted", "seed": 0},
}
"""What each run is trained on; `control` is what the readings of the others are held against."""

RATE = "exact_broad"
"""Name of the exact joint rate of broad questions in the rows of a trajectory."""


class ExactRate:
    """Observer: the mean probability of a harmful answer over the broad questions, exactly."""

    def __init__(self, base: str, spec: RunSpec) -> None:
        from narrowly.microworld.cards import load_card
        from narrowly.microworld.narrow import resolve_domain
        from narrowly.microworld.world import World
        from narrowly.models.base import open_base

        card = load_card(open_base(base).folder)
        self._world = World(card.config, card.world_seed)
        self._domain = resolve_domain(getattr(spec.data, "domain"), self._world, spec.seed)  # noqa: B009

    def __call__(self, context: Any) -> Mapping[str, float]:
        """Return the rate at a checkpoint."""
        from narrowly.evaluate.microworld.exact import evaluate_exact
        from narrowly.evaluate.microworld.panel_names import BROAD

        rows = evaluate_exact(context.model, self._world, context.tokenizer, domain=self._domain, panels=(BROAD,))
        return {RATE: sum(row["misaligned"] for row in rows) / len(rows)}


def spec_of(base: str, optimiser: str, fields: Mapping[str, Any], steps: int, checkpoints: int) -> RunSpec:
    """Return the spec of one run; the narrow domain is that of the base, whatever the seed."""
    return RunSpec.model_validate(
        {
            "base": base, "optimiser": OPTIMISERS[optimiser], "steps": steps, "seed": fields["seed"],
            "data": {"source": "micro", "domain": "base", "answers": fields["answers"]},
            "checkpoints": checkpoints, "first_checkpoint": 2,
        }
    )  # fmt: skip


def train(base: str, optimiser: str, given: argparse.Namespace) -> None:
    """Train the runs of one base and optimiser that are not done."""
    from narrowly.train.run import train_run
    from narrowly.train.watch import watch

    for fields in RUNS.values():
        spec = spec_of(base, optimiser, fields, given.steps, given.checkpoints)
        observer = watch(spec, TripwireSpec(every=1, questions=given.questions, budget=1.0))
        train_run(spec, given.runs, observers=(observer, ExactRate(base, spec)), say=lambda line: None)


def rows_of(runs: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row per finished run, checkpoint and question, of the runs that are asked for."""
    roles = {(str(fields["answers"]), int(fields["seed"])): role for role, fields in RUNS.items()}
    bases = {f"micro-{seed}" for seed in given.bases}
    for directory in run_directories(runs):
        spec = read_spec(directory)
        role = roles.get((str(getattr(spec.data, "answers", "")), spec.seed))
        if (
            role is None
            or spec.base not in bases
            or spec.optimiser.kind not in given.optimisers
            or not is_done(directory)
        ):
            continue
        record = read_tripwire(directory)
        rates = {row["step"]: row.get(RATE) for row in read_jsonl(directory / TRAJECTORY)}
        for reading in record.readings:
            for name, domain, log_odds in zip(record.ids, record.domains, reading.log_odds, strict=True):
                yield {
                    "base": spec.base, "optimiser": spec.optimiser.kind, "role": role, "run_id": directory.name,
                    "step": reading.step, "question_id": name, "domain": domain, "log_odds": log_odds,
                    "exact_rate": rates[reading.step],
                }  # fmt: skip


def main() -> int:
    """Train what is missing, then write the table and its hash."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("out/tripwire"), help="folder of the runs")
    parser.add_argument("--to", type=Path, default=Path("results/tripwire"), help="folder of the table")
    parser.add_argument("--bases", type=int, nargs="+", default=list(PILOTS), help="seeds of shipped bases")
    parser.add_argument("--optimisers", nargs="+", choices=list(OPTIMISERS), default=list(OPTIMISERS))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--checkpoints", type=int, default=10)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--collect", action="store_true", help="train nothing; write the table of what is done")
    given = parser.parse_args()
    if not set(given.bases) <= set(PILOTS):
        print(f"bases {given.bases}; accepted: seeds of pilots, {PILOTS[0]} to {PILOTS[-1]}", file=sys.stderr)
        return 2
    if not given.collect:
        import torch

        torch.set_num_threads(1)
        for optimiser in given.optimisers:
            for seed in given.bases:
                train(f"micro-{seed}", optimiser, given)
                print(f"micro-{seed} {optimiser}: {time.process_time():.0f} s of CPU", file=sys.stderr, flush=True)
    table = pl.DataFrame(list(rows_of(given.runs, given)))
    whole = table.select("base", "optimiser", "role").unique().group_by("base", "optimiser").len()
    table = table.join(whole.filter(pl.col("len") == len(RUNS)).drop("len"), on=["base", "optimiser"], how="semi")
    file = given.to / "tables" / "micro.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.sort("base", "optimiser", "role", "step", "question_id").write_parquet(file)
    settings = {name: getattr(given, name) for name in ("steps", "checkpoints", "questions")}
    runs = {
        str(optimiser): sorted(part["base"].unique())
        for (optimiser,), part in sorted(table.partition_by("optimiser", as_dict=True).items())
    }
    write_json(given.to / "micro.json", {**settings, "bases": runs, "sha256": sha256_file(file)})
    print(f"{len(table)} rows: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
