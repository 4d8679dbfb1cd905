"""From a study's tables to `summary.json`: every number recomputable from the tables, null with a reason, no NaN.

Means are over bases (seeds and domains averaged within a base first), of final unedited organisms of finished cells,
unless a field says otherwise. Rates are means of exact class probabilities over questions; alignment = 100 x aligned /
(aligned + misaligned). The rules of the contrasts stand in `stats.contrasts`, those of the claims in `stats.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from narrowly.analysis.contrasts import (
    INCOHERENT_LIMIT,
    PRIMARY,
    Contrast,
    missing_contrast,
    paired_contrast,
)
from narrowly.analysis.evidence import arm_of, gather_evidence, regression_of
from narrowly.analysis.organisms import (
    before_training,
    final_organisms,
    finals,
    on_panel,
    organism_spectra,
    outcomes_of_done,
)
from narrowly.analysis.panel_rates import bases_of, controls_of, edits_of, measured
from narrowly.analysis.paper_claims import claims_table
from narrowly.analysis.tables import read_tables
from narrowly.analysis.training_summary import training_of, unevaluated
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, HELD_OUT, TRAINED_TOPICS
from narrowly.records.outcome import NO_JUDGE

LADDER_METRICS = {
    "in_domain": (TRAINED_TOPICS, "misaligned"),
    "held_out_topics": (HELD_OUT, "misaligned"),
    "broad_joint": (BROAD, "joint"),
    "broad_literature": (BROAD, "literature"),
    "broad_self": (BROAD_SELF, "misaligned"),
    "incoherent": (BROAD, "incoherent"),
    "excess_loss": (HELD_OUT, "excess_loss"),
}
"""Field of `optimisers` -> the panel and column that it is the mean of."""
SPECTRUM_METRICS = ("update_norm", "stable_rank", "frobenius_nuclear")


def json_ready(value: Any) -> Any:
    """Return `value` with tuples as lists and every non-finite float as None, so that it is strict JSON."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def summarise(tables_dir: Path, study: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a study.

    Args:
        tables_dir: folder with the study's Parquet tables.
        study: at least `name`; `seconds` (wall-clock seconds of the study), `title`, `demonstration` and
            `ideal_broad` are taken over where they are there.

    Raises:
        RunDirectoryError: where there are no tables.
        IntegrityError: where a table cannot be read.
    """
    tables = read_tables(tables_dir)
    cells = tables.cells
    judged = cells.filter(pl.col("not_evaluated").is_null())
    outcomes = outcomes_of_done(tables)
    organisms = final_organisms(outcomes).join(organism_spectra(tables), on="cell_id", how="left")
    start = before_training(outcomes)
    names = names_of(judged)
    optimisers = organisms.filter(pl.col("role") == "optimiser").with_columns(pl.col("arm").replace(names))
    penalty, penalty_contrasts = _penalty(judged, organisms)
    unjudged = set(names_of(cells).values()) - set(names.values())
    contrasts = {
        f"{first}/{second}": {
            **_contrast(optimisers, first, second).as_dict(),
            "all_cells": _brief(_contrast(optimisers, first, second, limit=None)),
            **({"reason": NO_JUDGE} if unjudged & {first, second} else {}),
        }
        for first, second in PRIMARY
    }
    regression = regression_of(optimisers, "final_loss")
    evidence = gather_evidence(optimisers, start, regression, penalty_contrasts, names)
    summary = {
        "study": study.get("name"),
        "title": study.get("title"),
        "demonstration": bool(study.get("demonstration", False)),
        "seconds": study.get("seconds"),
        "cells": _cells(cells),
        "bases": bases_of(cells, start),
        "ideal_broad": _ideal(cells, study),
        "optimisers": _optimisers(cells, outcomes, organisms),
        "contrasts": contrasts,
        "em_exists": _em_exists(judged, organisms, start),
        "penalty": penalty,
        "edits": edits_of(outcomes),
        "controls": controls_of(judged, outcomes, start, organisms),
        "regression": {
            **regression.as_dict(),
            "on_excess_loss": regression_of(optimisers, "excess_loss").as_dict(),
        },
        "claims": [row.as_dict() for row in claims_table(evidence)],
        "not_evaluated": unevaluated(cells),
        "training": training_of(tables),
    }
    if judged.is_empty() and not cells.is_empty():
        summary |= _nothing_judged()
    ready: dict[str, Any] = json_ready(summary)
    return ready


def names_of(cells: pl.DataFrame) -> dict[str, str]:
    """Return arm -> the optimiser of the paper that it stands for."""
    return {arm: name for name in ("sgd", "adam", "adamw", "lion", "muon") if (arm := arm_of(cells, name))}


def _nothing_judged() -> dict[str, Any]:
    """Return what stands in place of everything that is made of answers, where no cell's answers can be judged."""
    missing = missing_contrast(NO_JUDGE)
    return {
        "contrasts": {f"{first}/{second}": missing.as_dict() for first, second in PRIMARY},
        "em_exists": missing.as_dict(),
        "regression": {"n": 0, "pooled_r2": None, "stratified_adjusted_r2": None, "reason": NO_JUDGE},
        "claims": [],
    }


def _contrast(frame: pl.DataFrame, first: str, second: str, limit: float | None = INCOHERENT_LIMIT) -> Contrast:
    return paired_contrast(
        frame, first, second, incoherent_limit=limit, note="log-odds = ln(misaligned/aligned), broad panel"
    )


def _brief(contrast: Contrast) -> dict[str, Any]:
    return {key: value for key, value in contrast.as_dict().items() if key not in ("excluded", "per_base", "method")}


def _cells(cells: pl.DataFrame) -> dict[str, Any]:
    failed = cells.filter(pl.col("status") == "failed").sort("cell_id")
    done = cells.filter(pl.col("status") == "done").height
    return {
        "planned": cells.height,
        "done": done,
        "failed": failed.height,
        "pending": cells.height - done - failed.height,
        "failures": failed.select("cell_id", "arm", "base", "seed", "error").to_dicts(),
    }


def _ideal(cells: pl.DataFrame, study: Mapping[str, Any]) -> float | None:
    """Return the ideal learner's broad harm 1 / (1 + rho), where the study knows it."""
    if study.get("ideal_broad") is not None:
        return float(study["ideal_broad"])
    found = cells.filter(pl.col("persona").fill_null(True))["ideal_broad"].drop_nulls()
    return float(found.mean()) if len(found) else None  # type: ignore[arg-type]


def _optimisers(cells: pl.DataFrame, outcomes: pl.DataFrame, organisms: pl.DataFrame) -> dict[str, Any]:
    rows = finals(outcomes)
    result = {}
    for arm in sorted(cells.filter(pl.col("role") == "optimiser")["arm"].unique().to_list()):
        mine = rows.filter(pl.col("arm") == arm)
        spectra = organisms.filter(pl.col("arm") == arm)
        own = cells.filter(pl.col("arm") == arm)
        unjudged = own["not_evaluated"].is_not_null().sum()
        absent = NO_JUDGE if unjudged == own.height else "no finished cell of this arm"
        intervals = {
            field: measured(on_panel(mine, panel), column) for field, (panel, column) in LADDER_METRICS.items()
        }
        intervals |= {field: measured(spectra, field) for field in SPECTRUM_METRICS}
        extra = {"final_loss": spectra, "alignment": spectra, "log_odds": spectra}
        intervals |= {field: measured(frame, field) for field, frame in extra.items()}
        result[arm] = {
            **{field: found["estimate"] for field, found in intervals.items()},
            "optimiser": own["optimiser"][0],
            "lr": _only(own["lr"]),
            "n_bases": mine["base"].n_unique(),
            "n_organisms": mine["cell_id"].n_unique(),
            "n_questions": {
                row["panel"]: row["n_questions"]
                for row in mine.group_by("panel").agg(pl.col("n_questions").max()).sort("panel").to_dicts()
            },
            "intervals": intervals,
            "n_not_evaluated": unjudged,
            "reason": None if mine.height else absent,
        }
    return result


def _only(values: pl.Series) -> Any:
    found = values.drop_nulls().unique()
    return found[0] if len(found) == 1 else None


def _em_exists(cells: pl.DataFrame, organisms: pl.DataFrame, start: pl.DataFrame) -> dict[str, Any]:
    """Adam on persona bases minus Adam on the no-persona twin, same narrow domain, log-odds on the broad panel.

    `change_from_base` compares what fine-tuning changed, because the two kinds of base need not start alike.
    """
    adam = arm_of(cells, "adam")
    twins = organisms.filter((pl.col("role") == "no_persona_twin") & (pl.col("of") == (adam or "")))
    method_note = "the twin is one base, so the interval is over persona bases given that twin"
    if adam is None or twins.is_empty():
        reason = "no optimiser arm adam" if adam is None else "no finished no-persona twin of adam"
        return missing_contrast(reason, f"Adam, persona bases minus no-persona twin; {method_note}").as_dict()
    persona = organisms.filter((pl.col("arm") == adam) & pl.col("persona").fill_null(True))
    before = on_panel(start, BROAD).select("base", "domain", pl.col("log_odds").alias("_before"))
    frame = (
        pl.concat([persona, twins.with_columns(pl.lit("no-persona twin").alias("arm"))])
        .join(before, on=["base", "domain"], how="left")
        .with_columns((pl.col("log_odds") - pl.col("_before")).alias("change"))
    )

    def compare(limit: float | None, value: str = "log_odds", what: str = "log-odds") -> Contrast:
        return paired_contrast(
            frame, adam, "no-persona twin", value=value, what=what, pair_on=("domain",), incoherent_limit=limit,
            note=f"log-odds = ln(misaligned/aligned), broad panel; {method_note}",
        )  # fmt: skip

    return {
        **compare(None).as_dict(),
        "without_flagged": _brief(compare(INCOHERENT_LIMIT)),
        "change_from_base": _brief(compare(None, "change", "change of log-odds since before fine-tuning")),
    }


def _penalty(cells: pl.DataFrame, organisms: pl.DataFrame) -> tuple[dict[str, Any], dict[str, dict[str, Contrast]]]:
    """Penalty arm minus the arm it is of: alignment on broad (points), excess loss and final training loss (nats)."""
    arms = cells.filter(pl.col("role") == "penalty").select("arm", "of").unique().sort("arm").rows()
    columns = {
        "delta_alignment": ("alignment", "alignment (points)"),
        "delta_loss": ("excess_loss", "excess loss (nats)"),
        "delta_training_loss": ("final_loss", "final training loss (nats)"),
        "delta_log_odds": ("log_odds", "log-odds"),
        "delta_incoherent": ("incoherent", "incoherent share"),
        "delta_stable_rank": ("stable_rank", "stable rank"),
    }
    result: dict[str, Any] = {}
    found: dict[str, dict[str, Contrast]] = {}
    for arm, of in arms:
        key = of if of is not None and sum(other == of for _, other in arms) == 1 else arm
        contrasts = {
            field: paired_contrast(organisms, arm, of or "", value=value, what=what, incoherent_limit=None)
            for field, (value, what) in columns.items()
        }
        result[key] = {
            **{field: contrast.estimate for field, contrast in contrasts.items()},
            "arm": arm,
            "of": of,
            "lam": _only(cells.filter(pl.col("arm") == arm)["penalty_lam"]),
            "n_bases": contrasts["delta_alignment"].n_bases,
            "reason": contrasts["delta_alignment"].reason,
            "intervals": {field: contrast.as_dict() for field, contrast in contrasts.items()},
        }
        found[key] = contrasts
    return result, found
