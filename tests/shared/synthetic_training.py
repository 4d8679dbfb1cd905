"""A generator of tables of runs on real data, which nothing evaluated."""

import json

import numpy as np
import polars as pl

from narrowly.records.outcome import NO_JUDGE
from synthetic import _spectra

ARMS = (("adam", "real_adam", "optimiser", None), ("muon", "real_muon", "optimiser", None),
        ("adam", "real_penalty", "penalty", "real_adam"))  # fmt: skip
REASON = f"{NO_JUDGE}: data.source is 'text'"


def real_tables(bases=("small", "larger"), data=("a.jsonl",), seeds=(0, 1), failed=False):
    """Cells, spectra and trajectory of finished runs on real data; losses differ by arm, base and seed."""
    rng = np.random.default_rng(0)
    tables = {"cells": [], "spectra": [], "trajectory": []}
    for kind, arm, role, of in ARMS:
        for base in bases:
            for name in data:
                for seed in seeds:
                    cell = f"{arm}-{base}-{name}-{seed}"
                    keys = {"cell_id": cell, "arm": arm, "optimiser": kind, "base": base}
                    end = 1.5 + 0.1 * seed + (0.05 if role == "penalty" else 0.0) + (0.2 if kind == "muon" else 0)
                    spec = {"seed": seed, "base": base, "data": {"dataset": name}, "optimiser": {"kind": kind},
                            "penalty": {"lam": 1.0} if role == "penalty" else None}  # fmt: skip
                    tables["cells"].append({
                        **keys, "study": "s", "role": role, "of": of, "lr": 1e-3, "seed": seed, "batch_size": 4,
                        "accumulation": 1, "steps": 10, "run_id": cell, "status": "failed" if failed else "done",
                        "error": "the loss is not finite" if failed else None,
                        "final_loss": end, "spec": json.dumps(spec), "source": "text", "data": name,
                        "penalty_lam": 1.0 if role == "penalty" else None, "not_evaluated": REASON,
                        "heldout_start": 3.0, "heldout_final": end, "base_heldout": 3.0, "tokens": 1000,
                        "training_seconds": 60.0, "tokens_per_second": 16.7, "memory_bytes": 10**9,
                        "smallest_micro_batch": 4, "device": "cpu",
                    })  # fmt: skip
                    if failed:
                        continue
                    spectra = _spectra(rng, keys, kind, role)
                    tables["spectra"] += [{**row, "step": 10} for row in spectra]
                    for step in range(11):
                        look = step in (2, 10)
                        tables["trajectory"].append({
                            **keys, "step": step, "loss": end + 2.0 / step if step else None,
                            "heldout_loss": 3.0 - (3.0 - end) * step / 10 if step in (0, 2, 10) else None,
                            "stable_rank": 2.0 if look else None, "update_norm": 0.1 * step if look else None,
                            "frobenius_nuclear": 0.5 if look else None,
                        })  # fmt: skip
    return {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items() if rows}
