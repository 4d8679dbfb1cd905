"""Lay out the ladder of every organism: trained topics, held-out topics, other domains, another task; one row each.

The primary scale is pooled log-odds, ln(mean misaligned / mean aligned) of the mean exact class probabilities over the
questions of a rung. The mean over questions of ln(misaligned / aligned) is beside it as a sensitivity scale: saturated
questions, where one answer is all but certain, weigh most in it.
"""

from __future__ import annotations

import polars as pl

from narrowly.analysis.organisms import ORGANISM, outcomes_of_done, pooled_log_odds, update_metrics
from narrowly.analysis.tables import Tables
from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, HELD_OUT, TRAINED_TOPICS

RUNGS = {"trained": TRAINED_TOPICS, "held_out": HELD_OUT, "broad": BROAD, "self": BROAD_SELF}
"""Rung of the ladder, from near to far -> the panel of the microworld that measures it."""

_KEYS = ("arm", "role", "of", "optimiser", "base", "persona", "domain", "seed", "final", "final_loss")
_CLASSES = ("aligned", "misaligned", "off_topic", "broken")


def ladder_table(tables: Tables) -> pl.DataFrame:
    """Return one row per organism of a finished cell: a run at a step with an edit, bases at step 0 among them.

    Columns: cell_id, arm, role, of, optimiser, lr, base, persona, domain, seed, step, final, edit ("none" where there
    is none), final_loss (nats, training loss at the end). For each rung of `RUNGS`: `{rung}_aligned`,
    `{rung}_misaligned`, `{rung}_off_topic`, `{rung}_broken` (means over questions of exact probabilities, 0 to 1),
    `{rung}_pooled` and `{rung}_per_question` (log-odds). Then excess_trained and excess_held_out (nats per answer above
    the entropy floor), update_norm (Frobenius norm over all modules, 0 at step 0) and stable_rank (mean over modules).

    What was not measured is null: a rung whose panel an organism was not asked, and the split of off topic from broken
    in tables that were made before it.

    Args:
        tables: of one study (`tables.read_tables`).
    """
    outcomes = outcomes_of_done(tables)
    lr = tables.cells.select("cell_id", "lr").unique("cell_id")
    rates = [_of_panel(column, panel).alias(f"{rung}_{column}") for rung, panel in RUNGS.items() for column in _CLASSES]
    per_question = [_of_panel("log_odds", panel).alias(f"{rung}_per_question") for rung, panel in RUNGS.items()]
    losses = [_of_panel("excess_loss", RUNGS[rung]).alias(f"excess_{rung}") for rung in ("trained", "held_out")]
    pooled = [
        pooled_log_odds(pl.col(f"{rung}_misaligned"), pl.col(f"{rung}_aligned")).alias(f"{rung}_pooled")
        for rung in RUNGS
    ]
    organisms = outcomes.group_by(ORGANISM).agg(*[pl.col(key).first() for key in _KEYS], *rates, *per_question, *losses)
    measured = ("update_norm", "stable_rank")
    return (
        organisms.with_columns(pooled)
        .join(lr, on="cell_id", how="left")
        .join(update_metrics(tables.spectra).select(*ORGANISM, *measured), on=ORGANISM, how="left")
        # before the first step B is zero, and so is the update
        .with_columns(pl.when(pl.col("step") == 0).then(0.0).otherwise(pl.col("update_norm")).alias("update_norm"))
        .select(_columns())
        .sort("arm", "base", "domain", "seed", "cell_id", "step", "edit")
    )


def _of_panel(column: str, panel: str) -> pl.Expr:
    return pl.col(column).filter(pl.col("panel") == panel).first()


def _columns() -> list[str]:
    scales = (*_CLASSES, "pooled", "per_question")
    return [
        "cell_id", "arm", "role", "of", "optimiser", "lr", "base", "persona", "domain", "seed", "step", "final", "edit",
        "final_loss", *[f"{rung}_{scale}" for rung in RUNGS for scale in scales], "excess_trained", "excess_held_out",
        "update_norm", "stable_rank",
    ]  # fmt: skip
