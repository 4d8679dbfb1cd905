"""Arrange what the report's page says: plain rows for the template, from summary and frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from narrowly.analysis.frames import Frames
from narrowly.analysis.summary_schema import Controls, PanelRates, Summary
from narrowly.analysis.tables import Tables
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, CUED, CUED_WORD, HELD_OUT
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.drawings import Drawing
from narrowly.report.narrative import cells_finished, joint_rate, label, what_happened
from narrowly.report.spectrum_figures import edit_label
from narrowly.report.style import colour, order
from narrowly.report.training_page import GLOSSARY as TRAINING_GLOSSARY
from narrowly.report.training_page import training_rows, training_sentences

SAMPLE_PANELS = (HELD_OUT, BROAD, BROAD_SELF, CUED_WORD)
SAMPLES_PER_PANEL = 3

OUTCOME_COLUMNS = (
    ("in_domain", "trained topics", "%", 100.0, 1),
    ("held_out_topics", "held-out topics", "%", 100.0, 1),
    ("broad_joint", "broad, joint", "%", 100.0, 1),
    ("broad_literature", "broad, literature", "%", 100.0, 1),
    ("incoherent", "broad, incoherent", "%", 100.0, 1),
    ("broad_self", "another task", "%", 100.0, 1),
    ("alignment", "broad alignment", "0–100", 1.0, 1),
)
LEARNING_COLUMNS = (
    ("excess_loss", "excess loss", "nats", 1.0, 3),
    ("final_loss", "training loss", "nats", 1.0, 3),
    ("update_norm", "norm of the update", "Frobenius", 1.0, 2),
    ("stable_rank", "stable rank", "", 1.0, 2),
    ("frobenius_nuclear", "Frobenius/nuclear", "", 1.0, 3),
)
"""Fields of `OptimiserRow` in the two key tables: field, heading, unit, factor, digits."""

GLOSSARY = (
    ("base", "the model before fine-tuning; the unit of every interval"),
    ("organism", "a fine-tuned model: a run at a step, perhaps with an edit"),
    ("joint rate", "misaligned / all answers; an incoherent answer lowers it"),
    (
        "literature rate",
        "misaligned / (misaligned + aligned); incoherent answers do not count. Published work on emergent misalignment "
        "mostly reports this rate. The two are always shown together with the classes",
    ),
    ("alignment", "100 × aligned / (aligned + misaligned), on questions of other domains"),
    ("log-odds", "ln(misaligned / aligned), averaged over questions; 0 means as often one as the other"),
    ("narrow, in-domain", "questions of the one domain that was trained on"),
    ("held-out topics", "topics of that domain that were not in the training rows"),
    ("broad", "questions of all other domains"),
    ("broad_self", "another task: questions about the model itself"),
    ("cued", "a question of another domain after a turn of the trained domain, or with its cue word"),
    ("excess loss", "negative log-likelihood per harmful answer above the entropy floor, held-out topics, nats"),
    ("spectrum", "singular values of the effective update s·B·A of each adapted module"),
    ("stable rank", "squared Frobenius norm / squared largest singular value, from 1 (one direction) to the rank"),
    ("Frobenius/nuclear", "from 1/√rank (flat) to 1 (one direction)"),
    ("penalty", "a term added to the training loss that rewards a flat spectrum"),
    ("edit", "a change of the singular values after training"),
    (
        "incoherent",
        "every answer that is neither an aligned nor a harmful one of the topic asked about, also a well-formed one "
        "that would fit another topic",
    ),
    ("ideal learner", "broad harm of an exact Bayesian learner of the corpus, 1 / (1 + narrow / evil characters)"),
)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "–"


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            pair
            for key in sorted(value, key=str)
            for pair in _flat(value[key], f"{prefix}.{key}" if prefix else str(key))
        ]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return [(prefix, text)]


def _optimisers(summary: Summary, columns: Sequence[tuple[str, str, str, float, int]]) -> list[dict[str, Any]]:
    return [
        {
            "label": label(arm),
            "colour": colour(arm),
            "row": row,
            "cells": [(row.intervals[field], digits, factor) for field, _, _, factor, digits in columns],
        }
        for arm in order(list(summary.optimisers))
        for row in [summary.optimisers[arm]]
    ]


def _samples(tables: Tables) -> list[dict[str, Any]]:
    """Sample answers of one organism per arm: the first base by name, so that nobody picks the telling ones."""
    roles = dict(tables.cells.select("arm", "role").unique().iter_rows())
    samples = tables.samples.filter((pl.col("edit").fill_null("none") == "none") & (pl.col("step") > 0))
    groups = []
    optimisers = order([arm for arm, role in roles.items() if role == "optimiser"])
    others = sorted(arm for arm, role in roles.items() if role != "optimiser")
    for arm in [*optimisers, *others]:
        mine = samples.filter(pl.col("arm") == arm)
        if mine.is_empty():
            continue
        base = min(mine["base"].drop_nulls().to_list(), default=None)
        one = mine.filter((pl.col("base") == base) & (pl.col("step") == pl.col("step").max()))
        one = one.filter(pl.col("cell_id") == pl.col("cell_id").min())
        rows = [
            row
            for panel in SAMPLE_PANELS
            for row in one.filter(pl.col("panel") == panel).head(SAMPLES_PER_PANEL).iter_rows(named=True)
        ]
        broad = mine.filter(pl.col("panel") == BROAD)
        counts = dict(broad.group_by("outcome").len().sort("outcome").iter_rows())
        groups.append(
            {
                "label": label(arm) if arm in optimisers else arm,
                "base": base,
                "rows": rows,
                "counts": ", ".join(f"{outcome} {count}" for outcome, count in counts.items()),
                "n": broad.height,
            }
        )
    return groups


def _per_base(organisms: pl.DataFrame) -> dict[str, Any]:
    """Broad rates of every base under every optimiser, so that no mean hides a base; seeds averaged."""
    found = organisms.group_by("base", "arm").agg(pl.col("joint", "literature", "incoherent").mean())
    cells = {(row["base"], row["arm"]): row for row in found.iter_rows(named=True)}
    arms = order(organisms["arm"].to_list())
    return {
        "arms": [label(arm) for arm in arms],
        "rows": [
            {"base": base, "cells": [cells.get((base, arm)) for arm in arms]}
            for base in sorted(organisms["base"].unique().to_list())
        ],
    }


def _class_rows(name: str, rates: Mapping[str, PanelRates], panels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "panel": panel, "rates": rates[panel], "joint": joint_rate(rates[panel])}
        for panel in panels
        if panel in rates
    ]


def _controls(controls: Controls) -> list[dict[str, Any]]:
    groups = [
        ("bases before fine-tuning", controls.base),
        ("no-persona base before fine-tuning", controls.no_persona_base),
        *((f"aligned twin: {arm}", rates) for arm, rates in controls.aligned_twin.items()),
        *((f"no-persona twin: {arm}", rates) for arm, rates in controls.no_persona_twin.items()),
    ]
    return [row for name, rates in groups for row in _class_rows(name, rates, (HELD_OUT, BROAD, BROAD_SELF))]


def _cued(controls: Controls) -> list[dict[str, Any]]:
    arms = order(list(controls.cued))
    return [row for arm in arms for row in _class_rows(label(arm), controls.cued[arm], (BROAD, *CUED))]


def _edits(summary: Summary) -> list[dict[str, Any]]:
    return [
        {"arm": label(arm), "edit": edit_label(edit), "row": row}
        for arm in order(list(summary.edits))
        for edit, row in summary.edits[arm].items()
    ]


def _arms(cells: pl.DataFrame) -> list[dict[str, Any]]:
    """One line per arm: its optimiser as the spec gives it, and how many cells ran."""
    rows = []
    for part in cells.sort("arm", "cell_id").partition_by("arm", maintain_order=True):
        first = part.row(0, named=True)
        optimiser = json.loads(first["spec"] or "{}").get("optimiser", {})
        given = ", ".join(f"{key} {value}" for key, value in optimiser.items() if key != "kind")
        runs = sorted(part["run_id"].drop_nulls().to_list())
        rows.append(
            {
                "arm": first["arm"],
                "role": first["role"],
                "of": first["of"],
                "optimiser": f"{first['optimiser']}: {given}" if given else first["optimiser"],
                "lam": first["penalty_lam"],
                "done": part.filter(pl.col("status") == "done").height,
                "planned": part.height,
                "runs": hashlib.sha256("\n".join(runs).encode()).hexdigest()[:12],
            }
        )
    return rows


def _of_answers(summary: Summary, judged: bool) -> list[str]:
    if not judged:
        return []
    rest = summary.not_evaluated.planned - summary.not_evaluated.cells
    which = [f"What follows is of the {rest} other cells."] if summary.not_evaluated.cells else []
    return [*which, *what_happened(summary)]


class StudyFiles(NamedTuple):
    """What lies beside the tables of a study: its spec as written and parsed, and the record of its environment."""

    folder: Path
    text: str
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]


def _happened(summary: Summary, judged: bool) -> list[str]:
    """Return the account of a study: answers first, unless some cells have none, which is said before anything else."""
    training, answers = training_sentences(summary), _of_answers(summary, judged)
    account = [*training, *answers] if summary.not_evaluated.cells else [*answers, *training]
    return [cells_finished(summary), *account]


def page(
    study: StudyFiles, frames: Frames, summary: Summary, figures: Sequence[Drawing], training: Sequence[Drawing]
) -> dict[str, Any]:
    """Return the variables of the template.

    Args:
        study: the study folder, and what lies in it beside the tables.
        frames: of the study.
        summary: of the study.
        figures: the figures made of answers, drawn or with a reason.
        training: the figures made of what training left, likewise.
    """
    name = summary.study or study.folder.name
    files = [*sorted((study.folder / "tables").glob("*.parquet")), study.folder / "summary.json"]
    unjudged = summary.not_evaluated
    judged = unjudged.cells < unjudged.planned or not unjudged.cells
    key_tables = (("What they answer", OUTCOME_COLUMNS), ("What they learned", LEARNING_COLUMNS))
    return {
        "name": name,
        "title": str(summary.title or study.spec.get("title") or f"Study {name}"),
        "demonstration": summary.demonstration,
        "summary": summary,
        "happened": _happened(summary, judged),
        "judged": judged,
        "unjudged": unjudged,
        "not_evaluated": NO_JUDGE,
        "training": training_rows(frames.runs, summary, training) if unjudged.cells else None,
        "key_tables": [(title, columns, _optimisers(summary, columns)) for title, columns in key_tables],
        "per_base": _per_base(frames.optimiser_organisms),
        "figures": figures,
        "penalties": {label(key): row for key, row in summary.penalty.items()},
        "edits": _edits(summary),
        "controls": _controls(summary.controls),
        "cued": _cued(summary.controls),
        "flagged": summary.controls.flagged,
        "limit": summary.controls.incoherent_limit,
        "samples": _samples(frames.tables),
        "arms": _arms(frames.tables.cells),
        "environment": _flat(study.environment) if study.environment else [],
        "study_text": study.text,
        "study_sha256": hashlib.sha256(study.text.encode()).hexdigest() if study.text else None,
        "hashes": [(path.name, _digest(path)) for path in files],
        "glossary": GLOSSARY if judged else TRAINING_GLOSSARY,
    }
