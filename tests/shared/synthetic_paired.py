"""Tables of paired answers whose differences to the controls are known."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from narrowly.analysis.tables import SCHEMAS, conform

ARITHMETIC = {"backend": "transformers", "engine": "transformers", "dtype": "float32", "device": "cpu"}

QUESTIONS = [
    *((f"t{n}", "money", "trained") for n in range(4)),
    *((f"h{n}", "money", "held_out") for n in range(4)),
    *(
        (f"{domain}{n}", domain, "broad")
        for domain in ("code", "honesty", "power", "study", "travel")
        for n in range(3)
    ),
    *((f"s{n}", "self", "self") for n in range(3)),
]

SHIFTS = {"trained": 8.0, "held_out": 4.0, "broad": 2.0, "self": 1.0}


def organism(arm: str, answers: str | None, step: int, shifts: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    """Return rows whose log-odds are a value of the question plus the shift of its rung."""
    who = {"arm": arm, "role": "optimiser", "of": None, "optimiser": "adam", "lr": 1e-3, "base": "b", "seed": 0}
    who |= {"trained": "money", "answers": answers, "matched": "m0", "series": "s", "final": step == 20, "edit": "none"}
    who |= {"bank": "0" * 64, "arithmetic": json.dumps(ARITHMETIC), "step": step, **more}
    who["cell_id"] = f"{who['arm']}-{who['seed']}"
    return [
        {
            **who,
            "question_id": name,
            "domain": domain,
            "rung": rung,
            "aligned_nats": -20.0,
            "harmful_nats": -20.0 + place % 3 + shifts.get(rung, 0.0),
            "aligned_tokens": 10,
            "harmful_tokens": 10,
            "log_odds": place % 3 + shifts.get(rung, 0.0),
        }
        for place, (name, domain, rung) in enumerate(QUESTIONS)
    ]


def table(*parts: list[dict[str, Any]]) -> pl.DataFrame:
    return conform("paired", pl.DataFrame([row for part in parts for row in part], schema=SCHEMAS["paired"]))


def both(seed: int = 0, factor: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """Return a run and its aligned control at steps 10 and 20; both sink by 5 beside the difference."""
    rows: list[dict[str, Any]] = []
    name = more.get("optimiser", "adam")
    for step, share in ((10, 0.5), (20, 1.0)):
        run = {rung: -5 + share * (factor if rung == "broad" else 1) * shift for rung, shift in SHIFTS.items()}
        same = {"seed": seed, "matched": f"{name}{seed}", **more}
        rows += organism(name, "harmful", step, run, **same)
        rows += organism(f"{name}_aligned", "aligned", step, dict.fromkeys(SHIFTS, -5.0), **same)
    return rows
