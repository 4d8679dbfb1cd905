"""Summarise panel by panel: bases before training, edits, twins and other controls."""

from __future__ import annotations

import polars as pl

from narrowly.analysis.contrasts import INCOHERENT_LIMIT
from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import CHAT_PANELS, UNEDITED, flagged_cells, interval_over_bases, on_panel
from narrowly.analysis.summary_schema import Base, ClassRates, Controls, EditRow, Flagged, PanelRates
from narrowly.evaluate.microworld.panel_names import BROAD, CUED, HELD_OUT
from narrowly.records.outcome import NO_JUDGE


def _weighted(rows: pl.DataFrame, value: str) -> float | None:
    rows = rows.filter(pl.col(value).is_not_null() & pl.col("n_questions").is_not_null())
    total = float(rows["n_questions"].sum())
    return float((rows[value] * rows["n_questions"]).sum()) / total if total else None


def bases_of(cells: pl.DataFrame, start: pl.DataFrame) -> tuple[Base, ...]:
    """Return rates before fine-tuning on chat prompts: broad and in-domain panels pooled, weighted by questions."""
    # a base whose cells are not all evaluated has its persona from those that are
    persona_of = cells.group_by("base").agg(pl.col("persona").drop_nulls().first()).sort("base")
    judged = set(cells.filter(pl.col("not_evaluated").is_null())["base"])
    return tuple(_base(base, persona, start, base in judged) for base, persona in persona_of.iter_rows())


def _base(base: str, persona: bool | None, start: pl.DataFrame, judged: bool) -> Base:
    own = start.filter(pl.col("base") == base)
    chat = own.filter(pl.col("panel").is_in(CHAT_PANELS))
    rates = {value: _weighted(chat, value) for value in ("aligned", "misaligned", "incoherent")}
    panels = own.group_by("panel").agg(pl.col("aligned", "misaligned", "incoherent", "literature").mean()).sort("panel")
    absent = "no finished cell was evaluated at step 0" if judged else NO_JUDGE
    return Base(
        id=base,
        **rates,
        persona=persona,
        n_questions=chat["n_questions"].sum(),
        panels={row.pop("panel"): ClassRates(**row) for row in panels.to_dicts()},
        reason=absent if rates["aligned"] is None else None,
    )


def edits_of(outcomes: pl.DataFrame) -> dict[str, dict[str, EditRow]]:
    """Return narrow (held-out topics) and broad misalignment of every edit, over the organisms of its own cells."""
    final = outcomes.filter(pl.col("final"))
    edited = final.filter(pl.col("edit") != UNEDITED)
    result = {}
    for arm in sorted(edited["arm"].unique().to_list()):
        mine = final.join(edited.filter(pl.col("arm") == arm).select("cell_id").unique(), on="cell_id", how="semi")
        names = sorted(mine["edit"].unique().to_list())
        result[arm] = {name: _edit(mine.filter(pl.col("edit") == name)) for name in names}
    return result


def _edit(rows: pl.DataFrame) -> EditRow:
    narrow, broad = on_panel(rows, HELD_OUT), on_panel(rows, BROAD)
    intervals = {
        "narrow": interval_over_bases(narrow, "misaligned"),
        "broad": interval_over_bases(broad, "joint"),
        "broad_literature": interval_over_bases(broad, "literature"),
        "incoherent": interval_over_bases(broad, "incoherent"),
        "excess_loss": interval_over_bases(narrow, "excess_loss"),
    }
    estimates = {name: found.estimate for name, found in intervals.items()}
    return EditRow(**estimates, n_bases=rows["base"].n_unique(), intervals=intervals)


def _panel_rates(rows: pl.DataFrame) -> dict[str, PanelRates]:
    """Return the class table of each panel: means over bases, joint and literature rate, and the denominators."""
    result = {}
    for panel in sorted(rows["panel"].unique().to_list()):
        part = on_panel(rows, panel)
        names = ("aligned", "misaligned", "incoherent", "joint", "literature")
        values = {name: interval_over_bases(part, name) for name in names}
        joint = values["joint"]
        result[panel] = PanelRates(
            **{name: value.estimate for name, value in values.items()},
            n_bases=joint.n,
            n_questions=part["n_questions"].max(),
            joint_interval=(joint.low, joint.high),
            reason=joint.reason,
        )
    return result


def controls_of(cells: pl.DataFrame, frames: Frames) -> Controls:
    """Return class tables of bases before training, of the twins and under a cue, and the flagged organisms.

    Args:
        cells: the cells that are evaluated.
        frames: of the study.
    """
    rows, start = frames.finals, frames.start
    with_persona = pl.col("persona").fill_null(True)

    def twins(role: str) -> dict[str, dict[str, PanelRates]]:
        arms = sorted(cells.filter(pl.col("role") == role)["arm"].unique().to_list())
        return {arm: _panel_rates(rows.filter(pl.col("arm") == arm)) for arm in arms}

    flagged = flagged_cells(frames.organisms).select("cell_id", "arm", "role", "base", "domain", "seed", "incoherent")
    cued = sorted(rows.filter(pl.col("panel").is_in(CUED))["arm"].unique().to_list())
    beside = rows.filter(pl.col("panel").is_in([*CUED, BROAD]))
    return Controls(
        base=_panel_rates(start.filter(with_persona)),
        no_persona_base=_panel_rates(start.filter(~with_persona)),
        aligned_twin=twins("aligned_twin"),
        no_persona_twin=twins("no_persona_twin"),
        cued={arm: _panel_rates(beside.filter(pl.col("arm") == arm)) for arm in cued},
        incoherent_limit=INCOHERENT_LIMIT,
        flagged=tuple(Flagged(**row) for row in flagged.to_dicts()),
    )
