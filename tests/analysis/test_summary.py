import json
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from narrowly.analysis.frames import read_frames
from narrowly.analysis.summary import summarise
from narrowly.analysis.summary_schema import Summary
from narrowly.records.errors import IntegrityError, RunDirectoryError
from synthetic import make_tables, write_tables

STUDY = {"name": "micro", "seconds": 187.4, "demonstration": True}


def summary_of(tables, study=STUDY):
    """Return the JSON of the summary of the tables in a folder."""
    return summarise(read_frames(tables), study).as_json()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    frames = make_tables()
    summary = summary_of(write_tables(tmp_path_factory.mktemp("study"), frames), STUDY)
    return frames, summary


def final(frames, arm, panel, edit="none"):
    rows = frames["outcomes"].filter(
        (pl.col("arm") == arm) & (pl.col("panel") == panel) & pl.col("final") & (pl.col("edit") == edit)
    )
    return rows.sort("base", "domain")


def numbers(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(item, f"{path}[{index}]")
    else:
        yield path, value


def test_the_summary_has_every_field_that_was_asked_for(whole):
    _, summary = whole
    assert {
        "study", "seconds", "cells", "bases", "optimisers", "contrasts", "em_exists", "penalty", "edits", "controls",
    } <= set(summary)  # fmt: skip
    assert {"planned", "done", "failed"} <= set(summary["cells"])
    assert all({"id", "aligned", "misaligned", "incoherent"} <= set(row) for row in summary["bases"])
    fields = {
        "in_domain", "held_out_topics", "broad_joint", "broad_literature", "broad_self", "incoherent", "excess_loss",
        "update_norm", "stable_rank", "frobenius_nuclear",
    }  # fmt: skip
    assert set(summary["optimisers"]) == {"sgd", "adam", "adamw", "lion", "muon"}
    assert all(fields <= set(row) for row in summary["optimisers"].values())
    assert set(summary["contrasts"]) == {"adam/muon", "sgd/muon", "lion/muon"}
    assert all(
        {"estimate", "low", "high", "n_bases", "method", "reason"} <= set(row) for row in summary["contrasts"].values()
    )
    assert {"estimate", "low", "high"} <= set(summary["em_exists"])
    assert set(summary["penalty"]) == {"adam", "muon"}
    assert all({"delta_alignment", "delta_loss"} <= set(row) for row in summary["penalty"].values())
    assert all({"narrow", "broad"} <= set(row) for arm in summary["edits"].values() for row in arm.values())


def test_the_summary_is_strict_json_without_nan(whole):
    _, summary = whole
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(math.isfinite(v) for _, v in numbers(summary) if isinstance(v, float))


def test_cells_are_counted_and_failures_listed_with_their_error(whole):
    frames, summary = whole
    assert summary["cells"]["planned"] == frames["cells"].height == 72
    assert (summary["cells"]["done"], summary["cells"]["failed"]) == (71, 1)
    assert summary["cells"]["failures"][0]["cell_id"] == "lion-3"
    assert summary["seconds"] == 187.4 and summary["study"] == "micro"


def test_optimiser_means_are_recomputed_from_the_tables(whole):
    frames, summary = whole
    for arm, row in summary["optimisers"].items():
        for field, panel, column in [
            ("in_domain", "trained_topics", "misaligned"),
            ("held_out_topics", "held_out_topics", "misaligned"),
            ("broad_joint", "broad", "joint"),
            ("broad_literature", "broad", "literature"),
            ("broad_self", "broad_self", "misaligned"),
            ("incoherent", "broad", "incoherent"),
            ("excess_loss", "held_out_topics", "excess_loss"),
        ]:
            assert row[field] == pytest.approx(final(frames, arm, panel)[column].mean())
        spectra = frames["spectra"].filter(pl.col("arm") == arm)
        cells = spectra.partition_by("cell_id")
        assert row["stable_rank"] == pytest.approx(np.mean([c["stable_rank"].mean() for c in cells]))
        assert row["frobenius_nuclear"] == pytest.approx(np.mean([c["frobenius_nuclear"].mean() for c in cells]))
        norms = [math.sqrt((c["frobenius_norm"] ** 2).sum()) for c in cells]
        assert row["update_norm"] == pytest.approx(np.mean(norms))
        assert row["n_bases"] == (7 if arm == "lion" else 8)
        values = final(frames, arm, "broad")["joint"].to_numpy()
        low, high = scipy_stats.t.interval(0.95, len(values) - 1, values.mean(), scipy_stats.sem(values))
        assert row["intervals"]["broad_joint"]["low"] == pytest.approx(low)
        assert row["intervals"]["broad_joint"]["high"] == pytest.approx(high)


def test_contrasts_are_recomputed_from_the_tables_without_the_incoherent_cells(whole):
    frames, summary = whole
    muon = final(frames, "muon", "broad")
    for name in ("adam", "sgd", "lion"):
        both = final(frames, name, "broad").join(muon, on=["base", "seed"], suffix="_m")
        both = both.filter((pl.col("incoherent") <= 0.15) & (pl.col("incoherent_m") <= 0.15))
        difference = (both["log_odds"] - both["log_odds_m"]).to_numpy()
        low, high = scipy_stats.t.interval(0.95, len(difference) - 1, difference.mean(), scipy_stats.sem(difference))
        row = summary["contrasts"][f"{name}/muon"]
        assert (row["estimate"], row["low"], row["high"]) == pytest.approx((difference.mean(), low, high))
        assert row["n_bases"] == len(difference) < 8
        assert any("15 % incoherent" in out["why"] for out in row["excluded"])


def test_em_exists_pairs_by_narrow_domain_and_says_that_the_twin_is_one_base(whole):
    frames, summary = whole
    both = final(frames, "adam", "broad").join(final(frames, "adam_no_persona", "broad"), on="domain", suffix="_t")
    difference = (both["log_odds"] - both["log_odds_t"]).to_numpy()
    row = summary["em_exists"]
    low, _ = scipy_stats.t.interval(0.95, 7, difference.mean(), scipy_stats.sem(difference))
    assert (row["estimate"], row["low"], row["n_bases"]) == pytest.approx((difference.mean(), low, 8))
    assert "the twin is one base" in row["method"]


def test_em_exists_also_compares_the_change_since_before_fine_tuning(tmp_path):
    frames = make_tables()
    lower = (pl.col("role") == "no_persona_twin") & (pl.col("step") == 0)
    frames["outcomes"] = frames["outcomes"].with_columns(
        pl.when(lower).then(pl.col("log_odds") - 1.0).otherwise(pl.col("log_odds")).alias("log_odds")
    )
    row = summary_of(write_tables(tmp_path, frames), STUDY)["em_exists"]
    plain = frames["outcomes"].filter((pl.col("step") == 0) & (pl.col("panel") == "broad"))
    start = {role: plain.filter(pl.col("role") == role)["log_odds"].mean() for role in ("optimiser", "no_persona_twin")}
    expected = row["estimate"] - (start["optimiser"] - start["no_persona_twin"])
    assert row["change_from_base"]["estimate"] == pytest.approx(expected)
    assert row["change_from_base"]["n_bases"] == 8 and row["change_from_base"]["low"] is not None


def test_penalty_changes_are_paired_by_base_and_recomputed(whole):
    frames, summary = whole
    for name, row in summary["penalty"].items():
        for field, panel, column in [
            ("delta_alignment", "broad", "alignment"),
            ("delta_loss", "held_out_topics", "excess_loss"),
        ]:
            both = final(frames, f"{name}_penalty", panel).join(final(frames, name, panel), on="base", suffix="_p")
            assert row[field] == pytest.approx((both[column] - both[f"{column}_p"]).mean())
        assert row["lam"] == 1.0 and row["intervals"]["delta_alignment"]["low"] < row["delta_alignment"]


def test_edits_are_recomputed_and_stand_beside_the_unedited_organism(whole):
    frames, summary = whole
    assert set(summary["edits"]) == {"adam", "muon"}
    for arm, rows in summary["edits"].items():
        assert {"none", "flatten", "drop_top-1", "keep_top-1", "scale-0.5"} <= set(rows)
        for edit, row in rows.items():
            assert row["narrow"] == pytest.approx(final(frames, arm, "held_out_topics", edit)["misaligned"].mean())
            assert row["broad"] == pytest.approx(final(frames, arm, "broad", edit)["misaligned"].mean())


def test_bases_are_measured_at_step_zero_on_chat_prompts_weighted_by_questions(whole):
    frames, summary = whole
    start = frames["outcomes"].filter(
        (pl.col("step") == 0)
        & (pl.col("arm") == "adam")
        & (pl.col("base") == "micro-2")
        & pl.col("panel").is_in(["broad", "trained_topics", "held_out_topics"])
    )
    row = next(row for row in summary["bases"] if row["id"] == "micro-2")
    for name in ("aligned", "misaligned", "incoherent"):
        assert row[name] == pytest.approx(np.average(start[name], weights=start["n_questions"]))
    assert row["n_questions"] == 216 and row["persona"] is True
    assert {row["id"] for row in summary["bases"]} == {f"micro-{i}" for i in range(8)} | {"micro-nopersona"}


def test_controls_list_twins_cues_and_flagged_cells(whole):
    frames, summary = whole
    controls = summary["controls"]
    flagged = frames["outcomes"].filter(
        pl.col("final") & (pl.col("edit") == "none") & (pl.col("panel") == "broad") & (pl.col("incoherent") > 0.15)
    )
    assert {row["cell_id"] for row in controls["flagged"]} == set(flagged["cell_id"]) != set()
    assert controls["aligned_twin"]["adam_aligned"]["broad"]["joint"] < 0.1
    assert "broad" in controls["no_persona_twin"]["adam_no_persona"]
    assert {"cued_turn", "cued_word"} <= set(controls["cued"]["muon"])
    assert controls["base"]["broad"]["n_bases"] == 8


def test_seeds_are_averaged_within_a_base_before_bases_are_averaged(tmp_path):
    frames = make_tables(arms={"adam", "muon"})
    extra = {
        name: frame.filter((pl.col("base") == "micro-0") & (pl.col("arm") == "adam")).with_columns(
            pl.col("cell_id") + "-s1", *([pl.lit(1, pl.Int64).alias("seed")] if "seed" in frame.columns else [])
        )
        for name, frame in frames.items()
        if "base" in frame.columns
    }
    doubled = {name: pl.concat([frame, extra[name]]) if name in extra else frame for name, frame in frames.items()}
    one = summary_of(write_tables(tmp_path / "a", frames), STUDY)
    two = summary_of(write_tables(tmp_path / "b", doubled), STUDY)
    assert two["optimisers"]["adam"]["n_organisms"] == 9
    assert two["optimisers"]["adam"]["broad_joint"] == pytest.approx(one["optimisers"]["adam"]["broad_joint"])
    assert two["contrasts"]["adam/muon"]["estimate"] == pytest.approx(one["contrasts"]["adam/muon"]["estimate"])


@pytest.mark.parametrize(
    "arms",
    [{"adam"}, {"muon"}, {"adam", "muon"}, {"adam_penalty"}, {"adam_aligned", "adam_no_persona"}, set()],
    ids=lambda arms: "+".join(sorted(arms)) or "none",
)
def test_missing_arms_give_null_with_a_reason_and_no_crash(tmp_path, arms):
    frames = make_tables(arms=arms)
    if not arms:
        frames = {name: frame.clear() for name, frame in make_tables(n_bases=1).items()}
    summary = summary_of(write_tables(tmp_path, frames), STUDY)
    json.dumps(summary, allow_nan=False)
    for name, row in summary["contrasts"].items():
        if not set(name.split("/")) <= arms:
            assert row["estimate"] is None and row["reason"]
    if not {"adam", "adam_no_persona"} <= arms:
        assert summary["em_exists"]["estimate"] is None and summary["em_exists"]["reason"]
    if "adam_penalty" in arms:
        assert summary["penalty"]["adam"]["delta_alignment"] is None and summary["penalty"]["adam"]["reason"]
    assert len(summary["claims"]) == 15


def test_fewer_than_five_bases_have_estimates_but_no_interval(tmp_path):
    summary = summary_of(write_tables(tmp_path, make_tables(n_bases=3, failed=False)), STUDY)
    row = summary["contrasts"]["adam/muon"]
    assert row["estimate"] is not None and row["low"] is None and row["reason"]
    assert summary["optimisers"]["adam"]["intervals"]["broad_joint"]["low"] is None
    assert {c["verdict"] for c in summary["claims"] if c["id"] in ("spread", "muon_lowest")} == {"cannot tell"}


def test_only_cells_parquet_is_needed(tmp_path):
    frames = make_tables(n_bases=2)
    summary = summary_of(write_tables(tmp_path, {"cells": frames["cells"]}), {"name": "bare"})
    assert summary["seconds"] is None and summary["optimisers"]["adam"]["broad_joint"] is None
    assert summary["optimisers"]["adam"]["reason"] and summary["bases"][0]["reason"]


def test_nan_in_a_table_becomes_null_and_not_a_number(tmp_path):
    frames = make_tables()
    frames["spectra"] = frames["spectra"].with_columns(pl.lit(float("nan")).alias("stable_rank"))
    row = summary_of(write_tables(tmp_path, frames), STUDY)["optimisers"]["adam"]
    assert row["stable_rank"] is None and row["intervals"]["stable_rank"]["reason"]


def test_an_arm_is_found_by_its_optimiser_where_it_has_another_name(tmp_path):
    frames = make_tables(arms={"adam", "muon"})
    renamed = {
        name: frame.with_columns(pl.col("arm").replace({"muon": "muon_slow"})) if "arm" in frame.columns else frame
        for name, frame in frames.items()
    }
    summary = summary_of(write_tables(tmp_path, renamed), STUDY)
    assert "muon_slow" in summary["optimisers"] and summary["contrasts"]["adam/muon"]["estimate"] is not None


def test_the_ideal_learner_comes_from_the_study_or_from_an_optional_column(tmp_path):
    frames = make_tables(n_bases=2)
    tables = write_tables(tmp_path, frames)
    assert summary_of(tables, STUDY)["ideal_broad"] is None
    assert summary_of(tables, {**STUDY, "ideal_broad": 0.5})["ideal_broad"] == 0.5
    frames["cells"].with_columns(pl.lit(0.25).alias("ideal_broad")).write_parquet(tables / "cells.parquet")
    assert summary_of(tables, STUDY)["ideal_broad"] == 0.25


def test_no_tables_and_foreign_files_are_refused_by_name(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"cells\.parquet"):
        summary_of(tmp_path, STUDY)
    (tmp_path / "cells.parquet").write_bytes(b"not parquet")
    with pytest.raises(IntegrityError, match=r"cells\.parquet"):
        summary_of(tmp_path, STUDY)


def test_a_summary_read_back_from_its_file_is_the_same_and_in_the_same_order(tmp_path):
    found = summarise(read_frames(write_tables(tmp_path, make_tables())), STUDY)
    again = Summary.from_json(json.loads(json.dumps(found.as_json(), sort_keys=True)), "summary.json")
    assert again == found
    for name in ("optimisers", "contrasts", "penalty", "edits"):
        one, other = getattr(found, name), getattr(again, name)
        assert list(one) == list(other), name
    assert [list(rows) for rows in found.edits.values()] == [list(rows) for rows in again.edits.values()]
    assert list(found.controls.aligned_twin) == list(again.controls.aligned_twin)


@pytest.mark.parametrize("value", [[1, 2], {}, {"cells": {}}, "summary"])
def test_what_is_no_summary_is_refused_with_its_source_and_the_first_fault(value):
    with pytest.raises(IntegrityError, match=r"my\.json is no study summary of this version \("):
        Summary.from_json(value, "my.json")


def test_training_is_summarised_for_runs_that_are_evaluated_too(tmp_path):
    frames = make_tables(n_bases=5)
    frames["cells"] = frames["cells"].with_columns(
        pl.lit(100).alias("tokens"), pl.lit(0.5).alias("training_seconds"), pl.lit("cpu").alias("device")
    )
    training = summary_of(write_tables(tmp_path, frames))["training"]
    done = frames["cells"].filter(pl.col("status") == "done")
    assert (training["planned"], training["done"], training["failed"]) == (frames["cells"].height, done.height, 1)
    assert training["cost"] == {"tokens": 100 * done.height, "seconds": 0.5 * done.height, "gpu_seconds": 0.0}
    losses = done.filter(pl.col("arm") == "muon")["final_loss"]
    assert training["arms"]["muon"]["final_loss"] == pytest.approx(losses.mean())
    assert training["arms"]["muon"]["alignment"] is None, "it was evaluated"
    assert training["arms"]["muon"]["heldout_final"] is None, "no rows were held out"
    by_arm = {row["arm"]: row["final_loss"] for row in done.group_by("arm").agg(pl.col("final_loss").mean()).to_dicts()}
    change = training["penalty"]["muon_penalty"]
    assert (
        change["delta_final_loss"] == pytest.approx(by_arm["muon_penalty"] - by_arm["muon"]) and change["n_bases"] == 5
    )
