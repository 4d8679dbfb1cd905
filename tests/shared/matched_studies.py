"""Folders of studies in the microworld whose arms' broad log-odds lie a known amount above their held-out ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from narrowly.analysis.tables import SCHEMAS

QUESTIONS = {"trained_topics": 8, "held_out_topics": 12, "broad": 20, "broad_self": 6}
RATES = (1e-4, 2e-4, 4e-4, 8e-4)


def write_study(
    folder: Path,
    arms: dict[str, tuple[tuple[float, float], float]],
    *,
    bases: int = 6,
    verdicts: bool = True,
    spec: dict[str, Any] | None = None,
    panels: tuple[str, ...] = tuple(QUESTIONS),
) -> Path:
    """Write tables of a study: for each arm the span of its held-out log-odds over the rates, and broad minus held-out.

    Args:
        folder: of the study.
        arms: arm -> (first and last held-out log-odds, what lies broad above them).
        bases: how many.
        verdicts: whether the table of questions is written.
        spec: fields of every run beside its rate.
        panels: that were asked.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("cells", "outcomes", "verdicts", "spectra")}
    random = np.random.default_rng(4)
    for arm, (span, above) in arms.items():
        for base in range(bases):
            shift = float(random.normal(0, 0.1))
            for place, rate in enumerate(RATES):
                held_out = float(np.linspace(*span, len(RATES))[place])
                levels = {"trained_topics": held_out + 2, "held_out_topics": held_out, "broad_self": held_out - 1}
                _add_cell(rows, arm, base, rate, levels | {"broad": held_out + above + shift}, panels, spec or {})
    tables = folder / "tables"
    tables.mkdir(parents=True)
    for name, found in rows.items():
        if name != "verdicts":
            schema = {column: kind for column, kind in SCHEMAS[name].items() if column in found[0]}
            pl.DataFrame(found, schema=schema).write_parquet(tables / f"{name}.parquet")
        elif verdicts:
            pl.DataFrame(found).write_parquet(tables / "verdicts.parquet")
    return folder


def _add_cell(
    rows: dict[str, list[dict[str, Any]]], arm: str, base: int, rate: float, levels: dict[str, float],
    panels: tuple[str, ...], spec: dict[str, Any],
) -> None:  # fmt: skip
    name = f"{arm}-{base}-{rate:g}"
    who = {"cell_id": name, "arm": arm, "role": "optimiser", "optimiser": arm.split("_")[0], "base": f"micro-{base}"}
    who |= {"domain": base, "seed": 0}
    fields = {"optimiser": {"kind": who["optimiser"], "lr": rate}, "steps": 80, **spec}
    rows["cells"].append(
        who | {"status": "done", "lr": rate, "steps": 80, "run_id": f"run-{name}", "spec": json.dumps(fields),
               "final_loss": 1.0 - 100 * rate}
    )  # fmt: skip
    organism = {"step": 80, "final": True, "edit": "none"}
    rows["spectra"].append(
        {"cell_id": name, "arm": arm, "optimiser": who["optimiser"], "base": who["base"], **organism, "module": "m",
         "frobenius_norm": 1e4 * rate, "stable_rank": 2.0}
    )  # fmt: skip
    for panel in panels:
        asked = QUESTIONS[panel]
        # Questions scatter about the level; their mean odds are those of the level.
        misaligned_Q = 0.8 * (1 + 0.3 * np.linspace(-1, 1, asked)) / (1 + np.exp(-levels[panel]))
        aligned_Q = np.full(asked, 0.8 / (1 + np.exp(levels[panel])))
        for place in range(asked):
            rows["verdicts"].append(
                {"cell_id": name, **organism, "panel": panel, "question_id": f"{panel}/{place}",
                 "misaligned": float(misaligned_Q[place]), "aligned": float(aligned_Q[place]),
                 "log_odds": float(np.log(misaligned_Q[place] / aligned_Q[place])), "nll_harmful": 1.5, "floor": 1.0}
            )  # fmt: skip
        rows["outcomes"].append(
            who | organism | {"panel": panel, "n_questions": asked, "misaligned": float(misaligned_Q.mean()),
                              "aligned": float(aligned_Q.mean()), "incoherent": 0.2,
                              "log_odds": float(np.log(misaligned_Q / aligned_Q).mean()), "excess_loss": 0.5}
        )  # fmt: skip
