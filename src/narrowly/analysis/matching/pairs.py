"""Lay out runs on text like a ladder: differences of log-odds to the matched control, by rung, in nats per answer."""

from __future__ import annotations

import polars as pl

from narrowly.analysis.matching.curves import ORGANISM
from narrowly.analysis.organisms import UNEDITED, update_metrics
from narrowly.analysis.paired_paths import CONTROLS
from narrowly.analysis.tables import Tables
from narrowly.records.errors import SpecError

UNIT = ["base", "domain", "seed"]
_KEYS = ["cell_id", "arm", "role", "of", "optimiser", "lr", "base", "seed", "step", "final", "edit"]


def paired_organisms(tables: Tables) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return organisms with a control, and the differences of their questions to it.

    The first has one row per run and evaluated step, with `domain` for the trained domain, `control`, `bank` and
    `arithmetic`; the second one row per organism and question, with rung, domain of the question and difference. Before
    training every difference is 0: step 0 of a run is such a row.

    Args:
        tables: of one study.
    """
    asked = tables.paired.filter((pl.col("edit") == UNEDITED) & (pl.col("step") > 0))
    own = asked.filter(~pl.col("answers").fill_null("").is_in(CONTROLS))
    parts: list[pl.DataFrame] = []
    for kind in CONTROLS:
        of_kind = asked.filter(pl.col("answers") == kind)
        first = of_kind.group_by("matched").agg(pl.col("cell_id").sort().first())
        control = of_kind.join(first, on=["matched", "cell_id"]).select(
            "matched", "step", "question_id", pl.col("log_odds").alias("_control")
        )
        taken = [part["cell_id"].unique() for part in parts]
        left = own.filter(~pl.col("cell_id").is_in(pl.concat(taken).implode())) if taken else own
        parts.append(left.join(control, on=["matched", "step", "question_id"]).with_columns(control=pl.lit(kind)))
    both = pl.concat(parts)
    organisms = both.select(*_KEYS, pl.col("trained").alias("domain"), "control", "bank", "arithmetic").unique()
    differences = both.select(
        *ORGANISM, "rung", "domain", pl.col("question_id").alias("question"),
        (pl.col("log_odds") - pl.col("_control")).alias("value"),
    )  # fmt: skip
    start = organisms.sort("step").unique("cell_id", keep="first", maintain_order=True)
    at_start = start.with_columns(step=pl.lit(0, pl.Int64), final=pl.lit(False))
    zeros = (
        differences.join(start.select(ORGANISM), on=ORGANISM)
        .with_columns(step=pl.lit(0, pl.Int64), value=pl.lit(0.0))
    )  # fmt: skip
    rows = pl.concat([organisms, at_start])
    cells = tables.cells.select("cell_id", "final_loss").unique("cell_id")
    norms = update_metrics(tables.spectra).select(*ORGANISM, "update_norm")
    joined = rows.join(cells, on="cell_id", how="left").join(norms, on=ORGANISM, how="left")
    return joined, pl.concat([differences, zeros])


def with_differences(
    first: pl.DataFrame, second: pl.DataFrame, differences: pl.DataFrame, names: tuple[str, str]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return both sets with a column for each rung, and what each question gave.

    Only questions that every organism of a base, domain and seed was asked count, in both sets. Domains of a rung
    count alike.

    Args:
        first: organisms of one set.
        second: of the other.
        differences: of both.
        names: what the sets are called.

    Raises:
        SpecError: controls, banks or arithmetic that differ.
    """
    both = pl.concat([first, second], how="diagonal")
    for column, what in (("control", "controls"), ("bank", "banks"), ("arithmetic", "kinds of arithmetic")):
        kinds = both[column].unique().sort().cast(pl.String).to_list()
        if len(kinds) > 1:
            raise SpecError(
                f"{names[0]} and {names[1]} are measured with other {what} ({', '.join(kinds)}); accepted: one for both"
            )
    asked = differences.rename({"domain": "of"}).join(both.select(*ORGANISM, *UNIT).unique(), on=ORGANISM)
    organisms = both.group_by(UNIT).agg(pl.struct(ORGANISM).n_unique().alias("organisms"))
    shared = (
        asked.group_by(*UNIT, "question")
        .agg(pl.struct(ORGANISM).n_unique().alias("here"))
        .join(organisms, on=UNIT, nulls_equal=True)
        .filter(pl.col("here") == pl.col("organisms"))
    )
    kept = asked.join(shared, on=[*UNIT, "question"], how="semi", nulls_equal=True)
    here = [*ORGANISM, "rung"]
    kept = kept.with_columns(
        (1 / pl.len().over([*here, "of"]) / pl.col("of").n_unique().over(here)).alias("weight"),
        pl.format("{}_nats", "rung").alias("column"),
        below=pl.lit(None, pl.Float64),
    )
    values = (
        kept.group_by(*ORGANISM, "column")
        .agg((pl.col("value") * pl.col("weight")).sum() / pl.col("weight").sum())
        .pivot("column", index=ORGANISM, values="value")
    )
    sets = [rows.join(values, on=ORGANISM, how="left") for rows in (first, second)]
    return sets[0], sets[1], kept.select(*ORGANISM, "column", "question", "value", "below", "weight")
