"""The ladder has one row per organism, and each of its numbers is one of the tables' or follows from two of them."""

from __future__ import annotations

import math

import polars as pl
import pytest

from narrowly.analysis.ladder import RUNGS, ladder_table
from narrowly.analysis.organisms import final_organisms, organism_spectra, outcomes_of_done
from narrowly.analysis.tables import read_tables
from synthetic import make_tables, write_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return read_tables(write_tables(tmp_path_factory.mktemp("study"), make_tables(hostile=False)))


def test_there_is_one_row_per_organism_of_a_finished_cell(tables):
    ladder = ladder_table(tables)
    organisms = outcomes_of_done(tables).select("cell_id", "step", "edit").unique()
    assert ladder.height == organisms.height == ladder.select("cell_id", "step", "edit").n_unique()
    failed = set(tables.cells.filter(pl.col("status") == "failed")["cell_id"])
    assert failed and not failed & set(ladder["cell_id"])


def test_rates_pooled_and_per_question_log_odds_are_those_of_the_panels(tables):
    ladder = ladder_table(tables)
    one = ladder.filter((pl.col("cell_id") == "muon-2") & pl.col("final") & (pl.col("edit") == "none")).row(
        0, named=True
    )
    for rung, panel in RUNGS.items():
        row = tables.outcomes.filter(
            (pl.col("cell_id") == "muon-2") & (pl.col("panel") == panel) & pl.col("final") & (pl.col("edit") == "none")
        ).row(0, named=True)
        assert one[f"{rung}_aligned"] == row["aligned"] and one[f"{rung}_misaligned"] == row["misaligned"]
        assert one[f"{rung}_pooled"] == pytest.approx(math.log(row["misaligned"] / row["aligned"]))
        assert one[f"{rung}_per_question"] == row["log_odds"]
    assert one["excess_held_out"] > 0 and one["excess_trained"] > 0
    cell = tables.cells.filter(pl.col("cell_id") == "muon-2").row(0, named=True)
    assert (one["lr"], one["final_loss"], one["optimiser"]) == (cell["lr"], cell["final_loss"], "muon")


def test_pooled_is_not_the_mean_of_the_questions_log_odds(tables):
    """The two scales differ wherever questions differ: .9 and .1 of two questions pool to 0, and so would .99 and .01,
    while three questions do not."""
    shares = [0.999, 0.5, 0.5]
    pooled = math.log(sum(shares) / sum(1 - share for share in shares))
    per_question = sum(math.log(share / (1 - share)) for share in shares) / 3
    outcomes = tables.outcomes.with_columns(
        pl.lit(sum(shares) / 3).alias("misaligned"),
        pl.lit(1 - sum(shares) / 3).alias("aligned"),
        pl.lit(per_question).alias("log_odds"),
    )
    ladder = ladder_table(tables._replace(outcomes=outcomes))
    assert ladder["broad_pooled"].drop_nulls().to_list() == pytest.approx([pooled] * ladder.height)
    assert ladder["broad_per_question"].drop_nulls().to_list() == pytest.approx([per_question] * ladder.height)
    assert per_question > 2 * pooled


def test_norm_and_stable_rank_are_of_the_organism_and_the_base_has_norm_zero(tables):
    ladder = ladder_table(tables)
    ends = ladder.filter(pl.col("final") & (pl.col("edit") == "none") & (pl.col("arm") == "adam"))
    spectra = organism_spectra(tables).filter(pl.col("cell_id").str.contains("^adam-"))
    both = ends.join(spectra, on="cell_id", suffix="_expected")
    assert both.height == 8
    assert both["update_norm"].to_list() == pytest.approx(both["update_norm_expected"].to_list())
    assert both["stable_rank"].to_list() == pytest.approx(both["stable_rank_expected"].to_list())
    start = ladder.filter(pl.col("step") == 0)
    assert start.height > 0 and set(start["update_norm"]) == {0.0} and start["stable_rank"].null_count() == start.height


def test_an_edited_organism_has_the_norm_of_its_own_spectrum(tables):
    ladder = ladder_table(tables)
    norm = dict(ladder.filter((pl.col("cell_id") == "adam-1") & pl.col("final")).select("edit", "update_norm").rows())
    assert norm["scale-0.5"] == pytest.approx(norm["none"] / 2)


def test_a_rung_that_was_not_asked_is_null_and_so_is_the_split_in_tables_made_before_it(tables):
    ladder = ladder_table(tables)
    edited = ladder.filter(pl.col("edit") == "flatten")
    assert edited["trained_pooled"].null_count() == edited.height > 0
    assert edited["broad_pooled"].null_count() == 0
    for rung in RUNGS:
        assert ladder[f"{rung}_off_topic"].null_count() == ladder[f"{rung}_broken"].null_count() == ladder.height


def test_the_split_of_incoherent_answers_is_taken_over_where_the_table_has_it(tables):
    outcomes = tables.outcomes.with_columns(
        (pl.col("incoherent") * 0.75).alias("off_topic"), (pl.col("incoherent") * 0.25).alias("broken")
    )
    ladder = ladder_table(tables._replace(outcomes=outcomes))
    whole = ladder.select(pl.sum_horizontal(f"broad_{c}" for c in ("aligned", "misaligned", "off_topic", "broken")))
    assert whole.to_series().to_list() == pytest.approx([1.0] * ladder.height)
    assert (ladder["broad_off_topic"] / ladder["broad_broken"]).to_list() == pytest.approx([3.0] * ladder.height)


def test_an_organism_that_never_answers_one_way_has_no_pooled_log_odds(tables):
    outcomes = tables.outcomes.with_columns(pl.lit(0.0).alias("aligned"))
    assert ladder_table(tables._replace(outcomes=outcomes))["broad_pooled"].null_count() == ladder_table(tables).height


def test_the_ladder_agrees_with_the_frame_of_final_organisms(tables):
    outcomes = outcomes_of_done(tables)
    ladder = ladder_table(tables).filter(pl.col("final") & (pl.col("edit") == "none"))
    both = ladder.join(final_organisms(outcomes), on="cell_id", suffix="_other")
    assert both.height == ladder.height
    assert both["broad_misaligned"].to_list() == both["misaligned"].to_list()
    assert both["excess_held_out"].to_list() == both["excess_loss"].to_list()
