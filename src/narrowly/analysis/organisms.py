"""Turn tables into one row per organism: what contrasts, summary and figures start from.

An organism is a run at a step with an edit. Only organisms of finished cells count. Narrow domain and seed are those of
the cell. Averages over organisms are taken within a base first, because the base is the unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from narrowly.analysis.contrasts import INCOHERENT_LIMIT
from narrowly.analysis.tables import Tables
from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT, TRAINED_TOPICS
from narrowly.stats.intervals import MIN_UNITS, Interval, share_interval, t_interval

CHAT_PANELS = (BROAD, TRAINED_TOPICS, HELD_OUT)
"""Chat prompts of a base: together every topic of every domain, the narrow domain in more phrasings than the others."""

UNEDITED = "none"

ORGANISM = ("cell_id", "step", "edit")
"""What names an organism among the tables of a study."""


def pooled_log_odds(misaligned: pl.Expr, aligned: pl.Expr) -> pl.Expr:
    """Return ln(misaligned / aligned) of two mean probabilities; null where either is 0, negative or null."""
    return pl.when((misaligned > 0) & (aligned > 0)).then((misaligned / aligned).log())


def outcomes_of_done(tables: Tables) -> pl.DataFrame:
    """Return the outcome rows of finished cells, with the cell's domain and seed, derived rates filled in.

    Beside the rates stand three log-odds: pooled, ln(misaligned / aligned) of the two means, and the same with every
    incoherent answer counted as aligned (pooled_if_aligned) and as misaligned (pooled_if_misaligned).
    """
    done = tables.cells.filter(pl.col("status") == "done").select(
        "cell_id",
        pl.col("domain").alias("_domain"),
        pl.col("seed").alias("_seed"),
        "final_loss",
        "penalty_lam",
    )
    coherent = pl.col("aligned") + pl.col("misaligned")
    rate = pl.when(coherent > 0).then(pl.col("misaligned") / coherent)
    wrong, right, rest = pl.col("misaligned"), pl.col("aligned"), pl.col("incoherent")
    return (
        tables.outcomes.join(done.unique("cell_id"), on="cell_id", how="inner")
        .with_columns(
            pl.coalesce("_domain", "domain").alias("domain"),
            pl.coalesce("_seed", "seed").alias("seed"),
            pl.col("edit").fill_null(UNEDITED),
            pl.col("final").fill_null(False),
            pl.coalesce("joint", "misaligned").alias("joint"),
            pl.coalesce("literature", rate).alias("literature"),
            pl.coalesce("alignment", 100 * (1 - rate)).alias("alignment"),
            pooled_log_odds(wrong, right).alias("pooled"),
            pooled_log_odds(wrong, right + rest).alias("pooled_if_aligned"),
            pooled_log_odds(wrong + rest, right).alias("pooled_if_misaligned"),
        )
        .drop("_domain", "_seed")
    )


def finals(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of final unedited organisms."""
    return outcomes.filter(pl.col("final") & (pl.col("edit") == UNEDITED))


def on_panel(outcomes: pl.DataFrame, panel: str) -> pl.DataFrame:
    """Return the rows of one panel."""
    return outcomes.filter(pl.col("panel") == panel)


def final_organisms(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per final unedited organism: the cell's keys, the broad panel's rates, excess loss, final loss.

    Columns beside the keys: final_loss, penalty_lam, aligned, misaligned, incoherent, off_topic, broken, log_odds,
    pooled and its two bounds, joint, literature, alignment (broad panel), excess_loss and excess_trained (held-out and
    trained topics, nats per answer).
    """
    rows = finals(outcomes)
    broad = on_panel(rows, BROAD).drop("excess_loss", "nll_harmful", "panel")
    held = on_panel(rows, HELD_OUT).select("cell_id", "excess_loss").unique("cell_id")
    trained = on_panel(rows, TRAINED_TOPICS).select("cell_id", pl.col("excess_loss").alias("excess_trained"))
    return (
        broad.join(held, on="cell_id", how="left")
        .join(trained.unique("cell_id"), on="cell_id", how="left")
        .sort("arm", "base", "seed", "domain", "cell_id")
    )


def update_metrics(spectra: pl.DataFrame) -> pl.DataFrame:
    """Return one row per organism with the means of its spectral metrics over modules, and the norm of its update.

    Columns beside those of `ORGANISM`: stable_rank, frobenius_nuclear, spectral_entropy (plain means over modules),
    update_norm (square root of the sum over modules of the squared Frobenius norm of s*B*A) and n_modules.

    Args:
        spectra: the table `spectra`, one row per organism and module.
    """
    return (
        spectra.with_columns(pl.col("edit").fill_null(UNEDITED))
        .group_by(ORGANISM)
        .agg(
            pl.col("stable_rank", "frobenius_nuclear", "spectral_entropy").mean(),
            pl.col("frobenius_norm").pow(2).sum().sqrt().alias("update_norm"),
            pl.len().alias("n_modules"),
        )
    )


def organism_spectra(tables: Tables) -> pl.DataFrame:
    """Return one row per final unedited organism with the columns of `update_metrics`, by cell_id."""
    final = tables.spectra.filter(pl.col("final").fill_null(False) & (pl.col("edit").fill_null(UNEDITED) == UNEDITED))
    return update_metrics(final).drop("step", "edit")


def base_means(frame: pl.DataFrame, value: str, by: Sequence[str] = ("arm",)) -> pl.DataFrame:
    """Return the mean of `value` over the organisms of each base, within each group of `by`; nulls are left out."""
    keys = [*by, "base"]
    return (
        frame.filter(pl.col(value).is_not_null())
        .group_by(keys)
        .agg(pl.col(value).mean(), pl.len().alias("n_organisms"))
        .sort(keys)
    )


SHARES = frozenset({
    "aligned", "misaligned", "incoherent", "off_topic", "broken", "joint", "literature",
    "removed_energy", "scaled_narrow", "scaled_broad",
})  # fmt: skip
"""Columns that are shares, whose intervals stay within 0 and 1."""


def interval_over_bases(frame: pl.DataFrame, value: str, *, min_n: int = MIN_UNITS) -> Interval:
    """Return the mean of `value` over bases with its interval; seeds are averaged within a base first.

    Student's t; of the columns in `SHARES` made on the logit scale.
    """
    make = share_interval if value in SHARES else t_interval
    return make(base_means(frame, value, by=())[value].to_list(), min_n=min_n)


def flagged_cells(organisms: pl.DataFrame, limit: float = INCOHERENT_LIMIT) -> pl.DataFrame:
    """Return the final organisms whose incoherent share on the broad panel exceeds `limit`."""
    return organisms.filter((pl.col("incoherent") > limit).fill_null(False))


def before_training(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the step-0 rows, one per base, domain and panel: before the first step every arm is the base itself."""
    keys = ["base", "persona", "domain", "panel"]
    values = [
        "aligned",
        "misaligned",
        "incoherent",
        "off_topic",
        "broken",
        "log_odds",
        "pooled",
        "pooled_if_aligned",
        "pooled_if_misaligned",
        "joint",
        "literature",
        "alignment",
        "excess_loss",
    ]
    start = outcomes.filter((pl.col("step") == 0) & (pl.col("edit") == UNEDITED))
    return start.group_by(keys).agg(*[pl.col(value).mean() for value in values], pl.col("n_questions").max()).sort(keys)
