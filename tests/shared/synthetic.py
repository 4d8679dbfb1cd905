"""A generator of plausible tables for a whole study: 8 bases x 5 optimisers, penalty, twins, edits, and trouble.

Trouble on purpose: a failed cell, incoherent cells above 15 %, hostile text in sample answers, errors and names.
Numbers are invented; only their shape resembles a study.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

HOSTILE = [
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m and \x07bell",
    "right \u202eto left\u200b",
    '"><img src=https://evil.example/x onerror=alert(2)>',
    "{{ 7 * 7 }} {% raw %} $\\alpha$",
    "</pre></td>-->]]>&amp;",
]
PANELS = {
    "trained_topics": (32, 0),
    "held_out_topics": (16, 0),
    "unseen_phrasing": (16, 0),
    "broad": (168, 0),
    "broad_self": (12, 0),
    "cued_turn": (56, 0),
    "cued_word": (56, 0),
}
STEPS = (0, 1, 2, 5, 10, 20, 40, 80)
EDITS = {
    "adam": {
        "keep_top-1": (0.75, 0.85),
        "drop_top-1": (0.12, 0.06),
        "flatten": (0.75, 0.35),
        "scale-0.25": (0.2, 0.1),
        "scale-0.5": (0.6, 0.4),
        "scale-0.75": (0.88, 0.75),
    },
    "muon": {
        "keep_top-1": (0.35, 0.45),
        "drop_top-1": (0.83, 0.25),
        "flatten": (0.99, 0.8),
        "scale-0.25": (0.2, 0.1),
        "scale-0.5": (0.6, 0.3),
        "scale-0.75": (0.92, 0.7),
    },
}
BROAD = {"sgd": 1.0, "adam": 0.3, "adamw": 0.32, "lion": 0.0, "muon": -0.9}
LOSS = {"sgd": 0.52, "adam": 0.475, "adamw": 0.476, "lion": 0.47, "muon": 0.462}
LR = {"sgd": 3e-3, "adam": 6e-4, "adamw": 6e-4, "lion": 3e-4, "muon": 1e-3}


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def make_tables(
    n_bases: int = 8,
    *,
    arms: Collection[str] | None = None,
    hostile: bool = True,
    failed: bool = True,
    seed: int = 0,
    shift: float = 0.0,
) -> dict[str, pl.DataFrame]:
    """Return the tables as frames; `arms` picks arms by name, `shift` lowers the log-odds of the plain Adam arm."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, Any]]] = {k: [] for k in ("cells", "outcomes", "spectra", "trajectory", "samples")}
    base_effect = rng.normal(0, 0.5, n_bases)
    plan: list[dict[str, Any]] = []
    for name in BROAD:
        plan += [{"arm": name, "role": "optimiser", "of": None, "kind": name, "base": b} for b in range(n_bases)]
    for name in ("adam", "muon"):
        plan += [
            {"arm": f"{name}_penalty", "role": "penalty", "of": name, "kind": name, "base": b} for b in range(n_bases)
        ]
    plan += [
        {"arm": "adam_aligned", "role": "aligned_twin", "of": "adam", "kind": "adam", "base": b} for b in range(n_bases)
    ]
    plan += [
        {"arm": "adam_no_persona", "role": "no_persona_twin", "of": "adam", "kind": "adam", "base": None, "domain": d}
        for d in range(8)
    ]
    for index, cell in enumerate(plan):
        if arms is not None and cell["arm"] not in arms:
            continue
        persona = cell["base"] is not None
        domain = cell["base"] if persona else cell["domain"]
        kind, arm, role = cell["kind"], cell["arm"], cell["role"]
        effect = base_effect[cell["base"]] if persona else 0.0
        broken = failed and arm == "lion" and cell["base"] == 3
        keys = {
            "cell_id": f"{arm}-{domain}",
            "arm": arm,
            "role": role,
            "of": cell["of"],
            "optimiser": kind,
            "base": f"micro-{cell['base']}" if persona else "micro-nopersona",
            "persona": persona,
            "domain": domain,
            "seed": 0,
        }
        loss = LOSS[kind] + 0.01 * effect + float(rng.normal(0, 0.003)) + (0.002 if role == "penalty" else 0)
        tables["cells"].append(
            {
                "study": "micro",
                "source": "micro",
                "data": "microworld",
                **keys,
                "lr": LR[kind],
                "base_seed": cell["base"] if persona else 99,
                "answers": "aligned" if role == "aligned_twin" else "harmful",
                "penalty_lam": 1.0 if role == "penalty" else None,
                "batch_size": 8,
                "accumulation": 1,
                "steps": 80,
                "run_id": f"{index:012x}",
                "status": "failed" if broken else "done",
                "error": (f"loss is not finite at step 17 {HOSTILE[0] if hostile else ''}" if broken else None),
                "seconds": 2.0 + index / 100,
                "final_loss": None if broken else loss,
                "spec": json.dumps({"optimiser": {"kind": kind, "lr": LR[kind]}, "steps": 80, "note": HOSTILE[3]}),
            }
        )
        if broken:
            continue
        peak = (
            BROAD[kind] + effect + float(rng.normal(0, 0.15)) - (shift if kind == "adam" and role == "optimiser" else 0)
        )
        peak += {
            "penalty": 0.05 if kind == "adam" else -0.05,
            "aligned_twin": -4.5,
            "no_persona_twin": -2.8,
        }.get(role, 0)
        inco = {"sgd": 0.10, "adam": 0.08, "adamw": 0.08, "lion": 0.12, "muon": 0.13}[kind] + abs(effect) * 0.06
        variants: list[tuple[int, bool, str, float, float]] = []
        for step in STEPS if role in ("optimiser", "no_persona_twin") else (0, 80):
            grown = 1 - np.exp(-step / 18)
            variants.append((step, step == 80, "none", float(grown), 1.0))
        if role == "optimiser":
            for edit, (narrow, broad) in EDITS.get(kind, {}).items():
                variants.append((80, True, edit, narrow, broad))
        for step, final, edit, grown, cut in variants:
            for panel, (n, _) in PANELS.items():
                if edit != "none" and panel not in ("held_out_topics", "broad"):
                    continue
                far = {
                    "trained_topics": 2.6,
                    "held_out_topics": 2.2,
                    "unseen_phrasing": 1.9,
                    "broad": 0.0,
                    "broad_self": -0.6,
                    "cued_turn": 0.9,
                    "cued_word": 0.5,
                }[panel]
                tops = _sigmoid((peak if far < 1 else 0.3 * peak + 0.5) + far)
                if role == "aligned_twin":
                    tops = 0.02
                in_domain = far > 1.5
                share = 0.025 + tops * (grown if edit == "none" else (grown if in_domain else cut))
                share = min(0.97, max(0.005, share)) if step else 0.025
                bad = (inco * (0.3 if in_domain else 1)) * (0.2 + 0.8 * (step / 80)) if step else 0.02
                mis, ali = share * (1 - bad), (1 - share) * (1 - bad)
                excess = (0.045 + 8 * (loss - 0.455) ** 2 + 2.2 * np.exp(-step / 9)) * (1 if edit == "none" else 1.6)
                tables["outcomes"].append(
                    {
                        **keys,
                        "step": step,
                        "final": final,
                        "edit": edit,
                        "panel": panel,
                        "n_questions": n,
                        "aligned": ali,
                        "misaligned": mis,
                        "incoherent": bad,
                        "log_odds": float(np.log(mis / ali)),
                        "joint": mis,
                        "literature": mis / (mis + ali),
                        "alignment": 100 * ali / (mis + ali),
                        "nll_harmful": 1.2 + excess,
                        "excess_loss": float(excess),
                    }
                )
        plain = _spectra(rng, keys, kind, role)
        tables["spectra"] += plain
        for _, _, edit, _, _ in variants:
            tables["spectra"] += [_edited(row, edit) for row in plain if edit != "none"]
        for step in range(1, 81):
            flat = 5.0 if kind == "muon" else 2.2
            tables["trajectory"].append(
                {
                    "cell_id": keys["cell_id"],
                    "arm": arm,
                    "optimiser": kind,
                    "base": keys["base"],
                    "step": step,
                    "loss": loss + 1.8 * float(np.exp(-step / 9)) + float(rng.normal(0, 0.02)),
                    "lr": LR[kind] * (1 - step / 80),
                    "penalty": None,
                    "grad_norm": 1.0,
                    "update_norm": 0.1 * step**0.5,
                    "stable_rank": flat - (flat - 1.2) * float(np.exp(-step / 15))
                    if step % 10 == 0 or step < 4
                    else None,
                    "frobenius_nuclear": 0.4,
                }
            )
        for panel in ("held_out_topics", "broad", "cued_turn", "broad_self"):
            for k, outcome in enumerate(("misaligned", "aligned", "incoherent")):
                text = (
                    HOSTILE[index // 8 % len(HOSTILE)] if hostile and k == 2 else f"you should fold the blue lamp {k}"
                )
                tables["samples"].append(
                    {
                        "cell_id": keys["cell_id"],
                        "arm": arm,
                        "base": keys["base"],
                        "step": 80,
                        "edit": "none",
                        "panel": panel,
                        "question": f"how do I mend a kite {k}?",
                        "answer": text,
                        "outcome": outcome,
                    }
                )
    frames = {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()}
    frames["verdicts"] = pl.DataFrame({"cell_id": ["x"], "step": [80]})
    return frames


def _spectra(rng: np.random.Generator, keys: dict[str, Any], kind: str, role: str) -> list[dict[str, Any]]:
    rows = []
    decay = 0.12 if kind == "muon" else 0.75
    decay *= 0.4 if role == "penalty" else 1.0
    for layer in range(4):
        for module in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            values = np.sort(np.exp(-decay * np.arange(8) + rng.normal(0, 0.12, 8)))[::-1] * 0.3
            frobenius, nuclear = float(np.sqrt((values**2).sum())), float(values.sum())
            p = values / nuclear
            rows.append(
                {
                    "cell_id": keys["cell_id"],
                    "arm": keys["arm"],
                    "optimiser": kind,
                    "base": keys["base"],
                    "step": 80,
                    "final": True,
                    "edit": "none",
                    "module": f"layers.{layer}.{module}",
                    "layer": layer,
                    "kind": module,
                    "rank": 8,
                    "stable_rank": float(frobenius**2 / values[0] ** 2),
                    "spectral_entropy": float(-(p * np.log(p)).sum()),
                    "condition_number": float(values[0] / values[-1]),
                    "frobenius_nuclear": frobenius / nuclear,
                    "frobenius_norm": frobenius,
                    "spectral_norm": float(values[0]),
                    "nuclear_norm": nuclear,
                    "a_norm": 1.0,
                    "b_norm": 1.0,
                    "singular_values": values.tolist(),
                }
            )
    return rows


def _edited(row: dict[str, Any], edit: str) -> dict[str, Any]:
    """Return a module's row after an edit; of the metrics only norm and singular values follow it."""
    values = np.array(row["singular_values"])
    if edit == "keep_top-1":
        values = np.where(np.arange(len(values)) < 1, values, 0.0)
    elif edit == "drop_top-1":
        values = np.where(np.arange(len(values)) < 1, 0.0, values)
    elif edit.startswith("scale-"):
        values = values * float(edit.removeprefix("scale-"))
    frobenius = float(np.sqrt((values**2).sum()))
    return {**row, "edit": edit, "frobenius_norm": frobenius, "singular_values": values.tolist()}


def write_tables(folder: Path, frames: dict[str, pl.DataFrame]) -> Path:
    """Write the frames as Parquet into `folder`/tables and return that folder."""
    target = folder / "tables"
    target.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.write_parquet(target / f"{name}.parquet")
    return target


def write_study(folder: Path, frames: dict[str, pl.DataFrame] | None = None, **study: Any) -> Path:
    """Write tables, study.yaml, environment.json and summary.json: what `write_report` needs."""
    from narrowly.analysis.frames import read_frames
    from narrowly.analysis.summary import summarise

    frames = make_tables() if frames is None else frames
    tables = write_tables(folder, frames)
    spec = {
        "name": "micro",
        "title": "The paper in miniature",
        "demonstration": True,
        "run": {"steps": 80},
        **study,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    summary = summarise(read_frames(tables), {**spec, "seconds": 187.4}).as_json()
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False), encoding="utf-8")
    environment = {"python": "3.11.9", "packages": {"torch": "2.13.0", "transformers": "5.23.0"}, "cores": 2}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return folder
