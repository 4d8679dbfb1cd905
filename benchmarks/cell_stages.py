"""What a cell of a study costs, stage by stage, beside a bare loop, on one thread.

The bare loop is the least that fine-tuning can be: forward, backward, optimiser step on the same batches, no Trainer,
no checkpoints, no record. Times are medians over repetitions in one process; ratios are against the bare loop of the
same optimiser.

    python benchmarks/cell_stages.py [--base micro-0] [--repeat 5] [--json benchmarks/results/cell_stages.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

OPTIMISERS = {
    "sgd": {"kind": "sgd", "lr": 3e-3, "momentum": 0.9},
    "adam": {"kind": "adam", "lr": 6e-4},
    "lion": {"kind": "lion", "lr": 3e-4},
    "muon": {"kind": "muon", "lr": 1e-3},
}
LIMITS = {"muon": 4.0}  # seconds for train + spectra + exact evaluation of the final organism
LIMIT = 3.0


def median_seconds(work: Callable[[], Any], repeat: int) -> float:
    work()  # warm caches and lazy imports
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bare_loop(spec: Any) -> None:
    """Fine-tune on the same rows in the same order by the shortest loop there is."""
    from narrowly.models.base import load_model
    from narrowly.models.lora import attach_adapter
    from narrowly.optim.build import build_optimizer
    from narrowly.train.inputs import load_inputs
    from narrowly.train.order import micro_batches

    inputs = load_inputs(spec)
    model = attach_adapter(load_model(inputs.base), spec.adapter, spec.seed, inputs.base.name)
    optimizer = build_optimizer(spec.optimiser, model)
    model.train()
    batches = micro_batches(
        inputs.rows,
        seed=spec.seed,
        steps=spec.steps,
        first_step=0,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        pad_id=model.config.pad_token_id,
    )
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits_B_T_V = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_B_T_V[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="micro-0")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)

    from pydantic import TypeAdapter

    from narrowly.evaluate.microworld.exact import evaluate_exact
    from narrowly.evaluate.microworld.panel_names import LIGHT_PANELS
    from narrowly.models.base import load_world_base
    from narrowly.models.organism import load_organism
    from narrowly.records.edits import Flatten
    from narrowly.records.run_spec import PenaltySpec, RunSpec
    from narrowly.spectrum import apply_edit_to_model, pairs_from_model, spectrum_table
    from narrowly.train.run import train_run

    base = load_world_base(given.base)
    rows: list[dict[str, Any]] = []

    def report(stage: str, optimiser: str, seconds: float, against: float | None = None) -> None:
        ratio = None if against is None else seconds / against
        rows.append({"stage": stage, "optimiser": optimiser, "seconds": seconds, "ratio": ratio})
        tail = "" if ratio is None else f"{ratio:6.2f} x bare loop"
        print(f"{stage:44s} {optimiser:6s} {seconds:7.3f} s {tail}", flush=True)

    domain = base.card.world_seed % base.card.config.domains
    for name, body in OPTIMISERS.items():
        spec = TypeAdapter(RunSpec).validate_python({"base": given.base, "optimiser": body})

        def train(spec: RunSpec = spec) -> Path:
            return train_run(spec, Path(tempfile.mkdtemp()))

        bare = median_seconds(lambda spec=spec: bare_loop(spec), given.repeat)
        report("bare loop, 80 steps", name, bare, bare)
        trained = median_seconds(train, given.repeat)
        report("train_run: Trainer, checkpoints, spectra", name, trained, bare)
        if name in ("adam", "muon"):
            penalised = spec.model_copy(update={"penalty": PenaltySpec(lam=1.0)})
            seconds = median_seconds(lambda s=penalised: train(s), given.repeat)
            report("train_run with the penalty", name, seconds, bare)
        organism = load_organism(train(), "final")
        spectra = median_seconds(lambda m=organism.model: spectrum_table(pairs_from_model(m)), given.repeat)
        report("spectra of one organism", name, spectra, bare)
        exact = median_seconds(
            lambda m=organism.model: evaluate_exact(m, base.world, base.tokenizer, domain=domain), given.repeat
        )
        report("exact evaluation, all panels", name, exact, bare)
        cell = trained + spectra + exact
        limit = LIMITS.get(name, LIMIT)
        report(f"a cell (limit {limit:g} s: {'met' if cell <= limit else 'MISSED'})", name, cell, bare)
        if name == "adam":

            def two_panels(model: Any = organism.model) -> Any:
                return evaluate_exact(model, base.world, base.tokenizer, domain=domain, panels=LIGHT_PANELS)

            light = median_seconds(two_panels, given.repeat)
            report("exact evaluation, an edit's two panels", name, light, bare)
            edit = median_seconds(lambda m=organism.model: apply_edit_to_model(m, Flatten()), given.repeat)
            report("edit: flatten all adapters", name, edit, bare)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:.0f} MB")
    if given.json is not None:
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        versions = {name: version(name) for name in ("torch", "transformers", "peft")}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine, "versions": versions, "repeat": given.repeat, "peak_mb": peak, "rows": rows}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
