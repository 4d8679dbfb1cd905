"""What a cell of a study costs beside an older checkout, in CPU time of one thread, stage by stage in turns.

Two processes, one for each checkout, do the same stage one after the other, so that a busy machine slows both alike.
The older package may go by another name (`spectralign` before 29 November 2026). Rates and trajectories of both are
compared as well.

    python benchmarks/cell_against.py OLD/src [--package spectralign] [--repeat 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

OPTIMISERS = {
    "sgd": {"kind": "sgd", "lr": 3e-3, "momentum": 0.9},
    "adam": {"kind": "adam", "lr": 6e-4},
    "lion": {"kind": "lion", "lr": 3e-4},
    "muon": {"kind": "muon", "lr": 1e-3},
}
STAGES = ("train", "spectra", "evaluate")
RATES = ("aligned", "misaligned", "incoherent")
PLACES = {
    "spectralign": ("microworld.bases:load_base", "train.organism:load_organism", "evaluate.exact:evaluate_exact"),
    "narrowly": (
        "models.base:load_world_base", "models.organism:load_organism", "evaluate.microworld.exact:evaluate_exact",
    ),
}  # fmt: skip


def serve(package: str, base_name: str) -> None:
    """Do the stages that standard input names, and print the CPU seconds and a result of each as JSON."""
    import torch

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr

    def found(place: str) -> Any:
        module, name = place.split(":")
        return getattr(import_module(f"{package}.{module}"), name)

    load_base, load_organism, evaluate_exact = map(found, PLACES[package])
    train_run, run_spec = found("train.run:train_run"), found("records.run_spec:RunSpec")
    spectrum = import_module(f"{package}.spectrum")
    base, organisms = load_base(base_name), {}
    domain = base.card.world_seed % base.card.config.domains

    def train(name: str) -> str:
        spec = run_spec.model_validate({"base": base_name, "optimiser": OPTIMISERS[name]})
        run = train_run(spec, Path(tempfile.mkdtemp()))
        organisms[name] = load_organism(run, "final").model
        return (run / "trajectory.jsonl").read_text()

    def evaluate(name: str) -> dict[str, float]:
        panels: dict[str, list[Any]] = {}
        for row in evaluate_exact(organisms[name], base.world, base.tokenizer, domain=domain):
            panels.setdefault(row["panel"], []).append(row)
        return {
            f"{panel} {rate}": statistics.fmean(row[rate] for row in rows)
            for panel, rows in panels.items()
            for rate in RATES
        }

    def spectra(name: str) -> int:
        return len(spectrum.spectrum_table(spectrum.pairs_from_model(organisms[name])))

    work: dict[str, Callable[[str], Any]] = {"train": train, "evaluate": evaluate, "spectra": spectra}
    for line in sys.stdin:
        stage, name = line.split()
        start = time.process_time()
        result = work[stage](name)
        print(json.dumps([time.process_time() - start, result]), file=answers, flush=True)


class Checkout:
    """A process that works with one checkout."""

    def __init__(self, source: Path, package: str, base: str) -> None:
        command = [sys.executable, __file__, str(source), "--serve", package, "--base", base]
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, stage: str, name: str) -> tuple[float, Any]:
        """Return the CPU seconds of a stage and its result."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(stage, name, file=self.process.stdin, flush=True)
        seconds, result = json.loads(self.process.stdout.readline())
        return seconds, result


def compare(old: Checkout, new: Checkout, name: str, repeat: int) -> dict[str, Any]:
    """Return the median CPU seconds of every stage in both checkouts, and how far their results differ."""
    row: dict[str, Any] = {"optimiser": name}
    for stage in STAGES:
        old.do(stage, name), new.do(stage, name)  # warm caches and lazy imports
        pairs = [(old.do(stage, name), new.do(stage, name)) for _ in range(repeat)]
        row[f"{stage}_old"] = statistics.median(seconds for (seconds, _), _ in pairs)
        row[f"{stage}_new"] = statistics.median(seconds for _, (seconds, _) in pairs)
        (_, before), (_, after) = pairs[-1]
        if stage == "train":
            row["same_trajectory"] = before == after
        if stage == "evaluate":
            row["largest_difference"] = max(abs(before[rate] - after[rate]) for rate in before)
    row["old"], row["new"] = (sum(row[f"{stage}_{which}"] for stage in STAGES) for which in ("old", "new"))
    row["ratio"] = row["new"] / row["old"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="src folder of the older checkout")
    parser.add_argument("--package", default="spectralign", choices=PLACES)
    parser.add_argument("--base", default="micro-0")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve, given.base)
        return
    here = Path(__file__).resolve().parents[1] / "src"
    old, new = Checkout(given.old, given.package, given.base), Checkout(here, "narrowly", given.base)
    rows = []
    for name in OPTIMISERS:
        row = compare(old, new, name, given.repeat)
        rows.append(row)
        stages = "  ".join(f"{stage} {row[f'{stage}_old']:.3f} -> {row[f'{stage}_new']:.3f} s" for stage in STAGES)
        same = "same trajectory" if row["same_trajectory"] else "OTHER TRAJECTORY"
        print(f"{name:5s} {stages}  cell {row['ratio']:.3f}  rates differ by {row['largest_difference']:.1e}, {same}")
    ratio = sum(row["new"] for row in rows) / sum(row["old"] for row in rows)
    print(f"mean of a cell over {', '.join(OPTIMISERS)}: {ratio:.3f} of the older checkout's CPU time")
    if given.json is not None:
        versions = {name: version(name) for name in ("torch", "transformers", "peft")}
        result = {"versions": versions, "repeat": given.repeat, "ratio": ratio, "rows": rows}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
