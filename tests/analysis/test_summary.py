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
            ("excess_trained", "trained_topics", "excess_loss"),
            ("per_question", "broad", "log_odds"),
        ]:
            assert row[field] == pytest.approx(final(frames, arm, panel)[column].mean())
        broad = final(frames, arm, "broad")
        assert row["pooled"] == pytest.approx((broad["misaligned"] / broad["aligned"]).log().mean())
        spectra = frames["spectra"].filter((pl.col("arm") == arm) & (pl.col("edit") == "none"))
        cells = spectra.partition_by("cell_id")
        assert row["stable_rank"] == pytest.approx(np.mean([c["stable_rank"].mean() for c in cells]))
        assert row["frobenius_nuclear"] == pytest.approx(np.mean([c["frobenius_nuclear"].mean() for c in cells]))
        norms = [math.sqrt((c["frobenius_norm"] ** 2).sum()) for c in cells]
        assert row["update_norm"] == pytest.approx(np.mean(norms))
        assert row["n_bases"] == (7 if arm == "lion" else 8)
        values = final(frames, arm, "broad")["joint"].to_numpy()
        reach = (
            scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.sem(values) / (values.mean() * (1 - values.mean()))
        )
        logit = math.log(values.mean() / (1 - values.mean()))
        low, high = (1 / (1 + math.exp(-(logit + side * reach))) for side in (-1, 1))
        assert row["intervals"]["broad_joint"]["low"] == pytest.approx(low)
        assert row["intervals"]["broad_joint"]["high"] == pytest.approx(high)


def pooled(rows):
    return (rows["misaligned"] / rows["aligned"]).log()


def differences(frames, name, value, panel="broad"):
    both = final(frames, name, panel).join(final(frames, "muon", panel), on=["base", "seed"], suffix="_m")
    other = both.select(pl.col(f"{column}_m").alias(column) for column in ("aligned", "misaligned", "incoherent"))
    other = other.with_columns(log_odds=both["log_odds_m"])
    return (value(both) - value(other)).to_numpy(), both


def interval_of(values):
    return (values.mean(), *scipy_stats.t.interval(0.95, len(values) - 1, values.mean(), scipy_stats.sem(values)))


def test_contrasts_are_on_pooled_log_odds_of_all_organisms_whatever_they_answered(whole):
    """F9 and F11: no exclusion by an outcome, and the scale is named."""
    frames, summary = whole
    for name in ("adam", "sgd", "lion"):
        values, both = differences(frames, name, pooled)
        assert both.filter((pl.col("incoherent") > 0.15) | (pl.col("incoherent_m") > 0.15)).height > 0
        row = summary["contrasts"][f"{name}/muon"]
        assert (row["estimate"], row["low"], row["high"]) == pytest.approx(interval_of(values))
        assert row["n_bases"] == len(values) and "pooled log-odds" in row["method"]
        assert not any("incoherent" in out["why"] for out in row["excluded"])


def test_other_readings_stand_beside_a_contrast_bounds_and_the_old_rule_of_exclusion_among_them(whole):
    frames, summary = whole
    readings = {
        "per_question": lambda rows: rows["log_odds"],
        "incoherent_as_aligned": lambda rows: (rows["misaligned"] / (rows["aligned"] + rows["incoherent"])).log(),
        "incoherent_as_misaligned": lambda rows: ((rows["misaligned"] + rows["incoherent"]) / rows["aligned"]).log(),
    }
    for name in ("adam", "sgd", "lion"):
        found = summary["contrasts"][f"{name}/muon"]["sensitivity"]
        assert set(found) == {*readings, "at_most_15_percent"}
        for reading, value in readings.items():
            row = found[reading]
            assert (row["estimate"], row["low"], row["high"]) == pytest.approx(
                interval_of(differences(frames, name, value)[0])
            )
        values, both = differences(frames, name, pooled)
        kept = both.select((pl.col("incoherent") <= 0.15) & (pl.col("incoherent_m") <= 0.15)).to_series().to_numpy()
        old = found["at_most_15_percent"]
        assert old["estimate"] == pytest.approx(values[kept].mean()) and old["n_bases"] == kept.sum() < 8
        assert any("15 % incoherent" in out["why"] for out in old["excluded"])


def test_every_rung_of_the_ladder_is_compared_and_what_broad_has_beyond_held_out(whole):
    """F1: without the held-out rung Muon looks as if it had learned the task and lost only the harm."""
    frames, summary = whole
    row = summary["contrasts"]["adam/muon"]["rungs"]
    panels = {"trained": "trained_topics", "held_out": "held_out_topics", "broad": "broad", "self": "broad_self"}
    values = {rung: differences(frames, "adam", pooled, panel)[0] for rung, panel in panels.items()}
    for rung, expected in values.items():
        assert (row[rung]["estimate"], row[rung]["low"]) == pytest.approx(interval_of(expected)[:2])
    beyond = interval_of(values["broad"] - values["held_out"])
    assert (row["broad_minus_held_out"]["estimate"], row["broad_minus_held_out"]["low"]) == pytest.approx(beyond[:2])


def test_every_arm_but_a_copy_has_its_ladder_and_its_selectivity_or_the_reason(whole):
    frames, summary = whole
    arms = set(frames["cells"]["arm"].unique())
    assert summary["copies"] == {"adamw": "adam"} and set(summary["ladder"]) == arms - {"adamw"}
    assert summary["optimisers"]["adamw"]["copy_of"] == "adam" and summary["optimisers"]["muon"]["copy_of"] is None
    for arm, row in summary["ladder"].items():
        assert row["misaligned"]["held_out"]["estimate"] == pytest.approx(
            final(frames, arm, "held_out_topics")["misaligned"].mean()
        )
        found = row["selectivity"]
        assert (found["estimate"] is None) == (found["verdict"] == "not tested" and not found["per_base"])
        assert found["estimate"] is not None or found["reason"]
    assert summary["ladder"]["muon"]["selectivity"]["n_bases"] == 8


def test_copies_count_neither_for_the_regression_nor_for_a_claim(whole):
    """F7: 8 of 40 points were copies."""
    frames, summary = whole
    done = frames["cells"].filter((pl.col("role") == "optimiser") & (pl.col("status") == "done"))
    assert summary["regression"]["n"] == done.filter(pl.col("arm") != "adamw").height
    assert all("AdamW" not in row["here"] for row in summary["claims"] if row["id"] != "adam_adamw_equal")


def test_this_design_tests_seven_claims_and_says_why_it_does_not_test_the_others(whole):
    """F4, F5, F7, F8."""
    _, summary = whole
    verdicts = {row["id"]: row for row in summary["claims"]}
    untested = {key for key, row in verdicts.items() if row["verdict"] == "not tested"}
    assert untested == {
        "em_occurs", "adam_adamw_equal", "loss_predicts", "optimiser_explains_rest", "optimiser_beats_loss",
        "muon_flattest", "penalty_lion", "penalty_sgd",
    }  # fmt: skip
    assert all((row["not_tested"] is None) == (key not in untested) for key, row in verdicts.items())


def test_the_regression_has_all_three_losses_with_intervals_and_within_bases(whole):
    """F4: the held-out excess loss was in the file and not told; F12: the two excess losses are told apart."""
    _, summary = whole
    found = summary["regression"]
    for row in (found, found["on_excess_loss"], found["on_excess_trained"]):
        for fit in ("pooled", "within"):
            low, high = row[fit]["r2_interval"]
            assert 0 <= low <= row[fit]["r2"] <= high <= 1


def test_em_exists_pairs_by_narrow_domain_and_says_that_the_twin_is_one_base(whole):
    frames, summary = whole
    both = final(frames, "adam", "broad").join(final(frames, "adam_no_persona", "broad"), on="domain", suffix="_t")
    difference = ((both["misaligned"] / both["aligned"]) / (both["misaligned_t"] / both["aligned_t"])).log().to_numpy()
    row = summary["em_exists"]
    low, _ = scipy_stats.t.interval(0.95, 7, difference.mean(), scipy_stats.sem(difference))
    assert (row["estimate"], row["low"], row["n_bases"]) == pytest.approx((difference.mean(), low, 8))
    assert "the twin is one base" in row["method"]


def test_em_exists_also_compares_the_change_since_before_fine_tuning(tmp_path):
    frames = make_tables()
    lower = (pl.col("role") == "no_persona_twin") & (pl.col("step") == 0)
    frames["outcomes"] = frames["outcomes"].with_columns(
        pl.when(lower).then(pl.col("misaligned") / 2).otherwise(pl.col("misaligned")).alias("misaligned")
    )
    row = summary_of(write_tables(tmp_path, frames), STUDY)["em_exists"]
    plain = frames["outcomes"].filter((pl.col("step") == 0) & (pl.col("panel") == "broad"))
    start = {role: pooled(plain.filter(pl.col("role") == role)).mean() for role in ("optimiser", "no_persona_twin")}
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


def test_a_penaltys_change_of_length_stands_beside_its_effect(whole):
    """F3: an effect of the penalty is one of shape and of length at once."""
    frames, summary = whole
    plain = frames["spectra"].filter(pl.col("edit") == "none").group_by("arm", "base").agg(
        (pl.col("frobenius_norm") ** 2).sum().sqrt().log().alias("norm")
    )  # fmt: skip
    for name, row in summary["penalty"].items():
        both = plain.filter(pl.col("arm") == f"{name}_penalty").join(plain.filter(pl.col("arm") == name), on="base")
        values = (both["norm"] - both["norm_right"]).to_numpy()
        found = row["intervals"]["log_norm_ratio"]
        assert (found["estimate"], found["low"]) == pytest.approx(interval_of(values)[:2])
        assert row["norm_ratio"] == pytest.approx(math.exp(values.mean()))
        assert row["delta_log_odds"] == pytest.approx(row["intervals"]["delta_log_odds"]["estimate"])


def test_edits_are_recomputed_and_stand_beside_the_unedited_organism(whole):
    frames, summary = whole
    assert set(summary["edits"]) == {"adam", "muon"}
    for arm, rows in summary["edits"].items():
        assert {"none", "flatten", "drop_top-1", "keep_top-1", "scale-0.5"} <= set(rows)
        for edit, row in rows.items():
            assert row["narrow"] == pytest.approx(final(frames, arm, "held_out_topics", edit)["misaligned"].mean())
            assert row["broad"] == pytest.approx(final(frames, arm, "broad", edit)["misaligned"].mean())


def test_edits_are_compared_with_scaling_at_the_energy_that_they_remove(whole):
    """F16: cutting the top direction removes half of Adam's energy and a fifth of Muon's."""
    frames, summary = whole
    for arm, rows in summary["edits"].items():
        assert rows["none"]["removed_energy"] == pytest.approx(0.0)
        assert rows["scale-0.5"]["removed_energy"] == pytest.approx(0.75)
        assert rows["scale-0.5"]["scaled_broad"] == pytest.approx(rows["scale-0.5"]["broad"])
        cut, kept = rows["drop_top-1"]["removed_energy"], rows["keep_top-1"]["removed_energy"]
        assert cut + kept == pytest.approx(1.0)
        own = frames["spectra"].filter((pl.col("arm") == arm) & (pl.col("edit").is_in(["none", "drop_top-1"])))
        energy = own.group_by("cell_id", "edit").agg((pl.col("frobenius_norm") ** 2).sum().alias("e"))
        wide = energy.pivot(on="edit", index="cell_id", values="e")
        assert cut == pytest.approx((1 - wide["drop_top-1"] / wide["none"]).mean())
    assert summary["edits"]["adam"]["drop_top-1"]["removed_energy"] > 0.4
    assert summary["edits"]["muon"]["drop_top-1"]["removed_energy"] < 0.4


def test_scaling_between_two_evaluated_scales_lies_between_what_they_leave(whole):
    _, summary = whole
    for arm in ("adam", "muon"):
        rows = summary["edits"][arm]
        for edit in ("drop_top-1", "keep_top-1"):
            removed, left = rows[edit]["removed_energy"], rows[edit]["scaled_broad"]
            scales = [row for name, row in rows.items() if name == "none" or name.startswith("scale")]
            more = [row["broad"] for row in scales if row["removed_energy"] < removed]
            less = [row["broad"] for row in scales if row["removed_energy"] > removed]
            assert max(less, default=0.0) < left < min(more)


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
    assert summary["regression"]["pooled"]["r2_interval"] is None


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


def test_measured_log_odds_of_an_earlier_version_are_refused_and_a_summary_without_any_is_read(whole):
    _, summary = whole
    old = {key: value for key, value in summary.items() if key != "scale"}
    with pytest.raises(IntegrityError, match=r"scale None; accepted: 'pooled'.*`narrowly report` makes it anew"):
        Summary.from_json(old, "summary.json")
    unmeasured = {**old, "optimisers": {}}
    assert Summary.from_json(unmeasured, "summary.json").scale is None


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


def test_an_arm_that_has_not_learned_its_task_is_compared_with_no_claim(whole, tmp_path):
    frames, summary = whole
    hardly = (pl.col("arm") == "muon") & (pl.col("panel") == "trained_topics") & (pl.col("step") > 0)
    outcomes = frames["outcomes"].with_columns(
        misaligned=pl.when(hardly).then(0.1).otherwise("misaligned"),
        aligned=pl.when(hardly).then(0.9).otherwise("aligned"),
    )
    found = summary_of(write_tables(tmp_path, {**frames, "outcomes": outcomes}))
    for key in ("spread", "muon_lowest", "lion_highest"):
        before, after = (next(row for row in one["claims"] if row["id"] == key) for one in (summary, found))
        assert before["verdict"] != "not tested"
        assert after["verdict"] == "not tested"
        assert after["not_tested"].startswith("Muon has not learned its task: 10 %")
