"""The parts of a summary that go panel by panel: bases before training, edits, twins and other controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from narrowly.analysis.contrasts import INCOHERENT_LIMIT
from narrowly.analysis.organisms import (
    CHAT_PANELS,
    finals,
    flagged_cells,
    interval_over_bases,
    on_panel,
)
from narrowly.evaluate.microworld.panel_names import BROAD, CUED, HELD_OUT
from narrowly.records.outcome import NO_JUDGE


def measured(frame: pl.DataFrame, value: str) -> dict[str, Any]:
    """Return the mean of `value` over bases with its interval."""
    return interval_over_bases(frame, value).as_dict()


def _weighted(rows: pl.DataFrame, value: str) -> float | None:
    rows = rows.filter(pl.col(value).is_not_null() & pl.col("n_questions").is_not_null())
    total = float(rows["n_questions"].sum())
    return float((rows[value] * rows["n_questions"]).sum()) / total if total else None


def bases_of(cells: pl.DataFrame, start: pl.DataFrame) -> list[dict[str, Any]]:
    """Rates before fine-tuning on chat prompts: broad and in-domain panels pooled, weighted by their questions."""
    # a base with cells on real data too has its persona from its cells of the microworld
    persona_of = cells.group_by("base").agg(pl.col("persona").drop_nulls().first()).sort("base")
    rows: list[dict[str, Any]] = []
    unjudged = set(cells["base"].to_list()) - set(cells.filter(pl.col("not_evaluated").is_null())["base"].to_list())
    for base, persona in persona_of.iter_rows():
        own = start.filter(pl.col("base") == base)
        chat = own.filter(pl.col("panel").is_in(CHAT_PANELS))
        rates = {value: _weighted(chat, value) for value in ("aligned", "misaligned", "incoherent")}
        panels = (
            own.group_by("panel").agg(pl.col("aligned", "misaligned", "incoherent", "literature").mean()).sort("panel")
        )
        rows.append(
            {
                "id": base,
                **rates,
                "persona": persona,
                "n_questions": int(chat["n_questions"].sum() or 0),
                "panels": {row.pop("panel"): row for row in panels.to_dicts()},
                "reason": _why_no_rates(rates, NO_JUDGE if base in unjudged else None),
            }
        )
    return rows


def _why_no_rates(rates: Mapping[str, float | None], unjudged: str | None) -> str | None:
    return None if rates["aligned"] is not None else unjudged or "no finished cell was evaluated at step 0"


def edits_of(outcomes: pl.DataFrame) -> dict[str, Any]:
    """Narrow (held-out topics) and broad misalignment of every edit, over the organisms of its own cells."""
    final = outcomes.filter(pl.col("final"))
    edited = final.filter(pl.col("edit") != "none")
    result: dict[str, Any] = {}
    for arm in sorted(edited["arm"].unique().to_list()):
        mine = final.join(edited.filter(pl.col("arm") == arm).select("cell_id").unique(), on="cell_id", how="semi")
        result[arm] = {}
        for edit in ["none", *sorted(mine.filter(pl.col("edit") != "none")["edit"].unique().to_list())]:
            rows = mine.filter(pl.col("edit") == edit)
            narrow, broad = on_panel(rows, HELD_OUT), on_panel(rows, BROAD)
            values = {
                "narrow": measured(narrow, "misaligned"),
                "broad": measured(broad, "joint"),
                "broad_literature": measured(broad, "literature"),
                "incoherent": measured(broad, "incoherent"),
                "excess_loss": measured(narrow, "excess_loss"),
            }
            result[arm][edit] = {
                **{field: value["estimate"] for field, value in values.items()},
                "n_bases": rows["base"].n_unique(),
                "intervals": values,
            }
    return result


def _panel_rates(rows: pl.DataFrame) -> dict[str, Any]:
    """Class table of each panel: means over bases, with joint and literature rate and the denominators."""
    result = {}
    for panel in sorted(rows["panel"].unique().to_list()):
        part = on_panel(rows, panel)
        values = {name: measured(part, name) for name in ("aligned", "misaligned", "incoherent", "joint", "literature")}
        result[panel] = {
            **{name: value["estimate"] for name, value in values.items()},
            "n_bases": values["joint"]["n"],
            "n_questions": part["n_questions"].max(),
            "joint_interval": [values["joint"]["low"], values["joint"]["high"]],
            "reason": values["joint"]["reason"],
        }
    return result


def controls_of(
    cells: pl.DataFrame, outcomes: pl.DataFrame, start: pl.DataFrame, organisms: pl.DataFrame
) -> dict[str, Any]:
    """Class tables of bases before training, of the twins and under a cue, and the flagged organisms."""
    rows = finals(outcomes)
    persona = start.filter(pl.col("persona").fill_null(True))

    def role(name: str) -> dict[str, Any]:
        arms = sorted(cells.filter(pl.col("role") == name)["arm"].unique().to_list())
        return {arm: _panel_rates(rows.filter(pl.col("arm") == arm)) for arm in arms}

    flags = flagged_cells(organisms).select("cell_id", "arm", "role", "base", "domain", "seed", "incoherent")
    arms = sorted(rows.filter(pl.col("panel").is_in(CUED))["arm"].unique().to_list())
    return {
        "base": _panel_rates(persona),
        "no_persona_base": _panel_rates(start.filter(~pl.col("persona").fill_null(True))),
        "aligned_twin": role("aligned_twin"),
        "no_persona_twin": role("no_persona_twin"),
        "cued": {
            arm: _panel_rates(rows.filter((pl.col("arm") == arm) & pl.col("panel").is_in([*CUED, BROAD])))
            for arm in arms
        },
        "incoherent_limit": INCOHERENT_LIMIT,
        "flagged": flags.to_dicts(),
    }
