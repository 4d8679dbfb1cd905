"""Summarise panel by panel: bases before training, twins and other controls."""

from __future__ import annotations

import polars as pl

from narrowly.analysis.contrasts import INCOHERENT_LIMIT
from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import CHAT_PANELS, flagged_cells, interval_over_bases, on_panel
from narrowly.analysis.summary_schema import Base, ClassRates, Controls, Flagged, PanelRates
from narrowly.evaluate.microworld.panel_names import BROAD, CUED
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


def _panel_rates(rows: pl.DataFrame) -> dict[str, PanelRates]:
    """Return the class table of each panel: means over bases, joint and literature rate, and the denominators."""
    result = {}
    for panel in sorted(rows["panel"].unique().to_list()):
        part = on_panel(rows, panel)
        names = ("aligned", "misaligned", "incoherent", "off_topic", "broken", "joint", "literature")
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
