"""The part of the report about training: runs that nothing evaluated, beside evaluated ones and alone."""

import json
import re

import polars as pl
import pytest

from browser import Page
from narrowly.analysis.contrasts import PRIMARY
from narrowly.analysis.frames import read_frames
from narrowly.analysis.training import paired_runs
from narrowly.records.outcome import NO_JUDGE
from narrowly.report.training_figures import looks, running_mean
from narrowly.report.write import write_report
from synthetic import make_tables, write_study
from synthetic_training import real_tables


def joined(micro, real):
    return {name: pl.concat([frame, real[name]], how="diagonal_relaxed") if name in real else frame
            for name, frame in micro.items()}  # fmt: skip


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def micro():
    return make_tables(2, arms={"adam", "muon"}, hostile=False)


@pytest.fixture(scope="module")
def alone(micro, tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("alone") / "s", micro)


@pytest.fixture(scope="module")
def mixed(micro, tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("mixed") / "s", joined(micro, real_tables()))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("real") / "s", real_tables(), demonstration=False)
    write_report(folder)
    return folder


def test_cells_on_real_data_change_no_number_of_the_others(alone, mixed):
    before, after = summary_of(alone), summary_of(mixed)
    for part in ("contrasts", "em_exists", "edits", "controls", "regression", "claims", "penalty", "ideal_broad"):
        assert after[part] == before[part], part
    assert {arm: after["optimisers"][arm] for arm in before["optimisers"]} == before["optimisers"]
    assert before["not_evaluated"]["cells"] == 0
    for arm in ("adam", "muon"):
        assert after["training"]["arms"][arm] == before["training"]["arms"][arm]
    assert after["training"]["done"] == before["training"]["done"] + 12
    assert after["not_evaluated"] == {"cells": 12, "planned": 16, "alignment": NO_JUDGE}


def test_an_arm_on_real_data_has_no_rate_beside_arms_that_have(mixed):
    row = summary_of(mixed)["optimisers"]["real_adam"]
    assert row["reason"] == NO_JUDGE and row["broad_joint"] is None and row["n_not_evaluated"] == 4
    bases = {row["id"]: row["reason"] for row in summary_of(mixed)["bases"]}
    assert bases["small"] == NO_JUDGE and bases["micro-0"] is None
    text = Page((mixed / "report.html").read_text(encoding="utf-8")).text
    assert f"{NO_JUDGE} in 12 of 16 cells" in text
    assert "The 12 cells that are not evaluated are in none of these figures" in text
    assert "What follows is of the 4 other cells." in text
    assert re.search(rf"real_adam lr 0.001 {re.escape(NO_JUDGE)}; see training", text)


def test_a_contrast_with_an_arm_that_is_not_judged_says_so(micro, tmp_path):
    frames = real_tables()
    frames = {name: frame.with_columns(pl.col("arm").replace("real_muon", "lion")) for name, frame in frames.items()}
    frames["cells"] = frames["cells"].with_columns(
        pl.when(pl.col("arm") == "lion").then(pl.lit("lion")).otherwise("optimiser").alias("optimiser")
    )
    contrasts = summary_of(write_study(tmp_path / "s", joined(micro, frames)))["contrasts"]
    assert contrasts["lion/muon"]["reason"] == NO_JUDGE and contrasts["lion/muon"]["estimate"] is None
    assert contrasts["adam/muon"]["estimate"] is not None


def test_both_kinds_of_figures_are_drawn_in_a_mixed_study_and_only_training_alone(mixed, real):
    training = {"training_losses", "training_spectra", "training_spectrum_steps", "training_penalty"}
    both = {path.stem for path in (mixed / "figures").glob("*.svg")}
    assert training < both and "loss_misalignment" in both
    assert {path.stem for path in (real / "figures").glob("*.svg")} == training


def test_a_study_on_real_data_alone_has_no_section_that_needs_answers(real):
    html = (real / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert {"training", "answers", "repeat"} <= set(ids)
    assert not {"claims", "contrasts", "edits", "controls", "samples", "optimisers", "figures"} & set(ids)
    inner = {value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")}
    assert inner <= set(ids)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    assert len(captions) == 4 and all(NO_JUDGE in caption for caption in captions)
    assert "icroworld" not in page.text


def test_the_summary_of_training_is_the_mean_over_bases_and_the_difference_over_pairs(real):
    training = summary_of(real)["training"]
    assert training["arms"]["real_adam"]["heldout_final"] == pytest.approx(1.55)
    assert training["arms"]["real_adam"]["heldout_ratio"] == pytest.approx(1.55 / 3)
    assert training["arms"]["real_adam"]["n_runs"] == 4 and training["arms"]["real_adam"]["n_bases"] == 2
    change = training["penalty"]["real_penalty"]
    assert change["delta_heldout_final"] == pytest.approx(0.05) and change["n_bases"] == 2
    assert change["intervals"]["delta_heldout_final"]["low"] is None and "2 base" in change["reason"]
    assert training["step_0"] == {"equal": 12, "different": [], "not_measured": 0}
    assert training["cost"]["tokens"] == 12_000 and training["cost"]["gpu_seconds"] == 0
    assert {summary_of(real)["contrasts"][f"{a}/{b}"]["reason"] for a, b in PRIMARY} == {NO_JUDGE}


def at_rate(lr, lam, shift):
    """Return the tables of `real_tables` at another learning rate and lambda, with every loss `shift` higher."""
    frames = real_tables(bases=("small",), seeds=(0,))
    cells = [json.loads(spec) for spec in frames["cells"]["spec"]]
    for spec in cells:
        spec["optimiser"]["lr"] = lr
        spec["penalty"] = spec["penalty"] and {"lam": lam}
    frames["cells"] = frames["cells"].with_columns(
        pl.Series("spec", [json.dumps(spec) for spec in cells]),
        pl.col("final_loss", "heldout_final") + shift * (pl.col("role") != "penalty"),
        pl.col("penalty_lam") * lam,
        pl.lit(lr).alias("lr"),
    )
    return {name: frame.with_columns(pl.col("cell_id") + f"-{lr:g}") for name, frame in frames.items()}


def test_a_run_with_a_penalty_is_compared_with_the_one_of_its_own_learning_rate(tmp_path):
    slow, fast = at_rate(1e-4, 1.0, 0.0), at_rate(1e-2, 1.0, 0.5)
    fast = {name: frame.filter(pl.col("arm") != "real_muon") for name, frame in fast.items()}
    frames = {name: pl.concat([fast[name], slow[name]]) for name in slow}
    folder = write_study(tmp_path / "s", frames, demonstration=False)
    pairs = paired_runs(read_frames(folder / "tables").runs)
    assert (pairs["final_loss"] - pairs["final_loss_without"]).to_list() == pytest.approx([-0.45, 0.05], abs=1e-9)
    training = summary_of(folder)["training"]
    assert training["penalty"]["real_penalty"]["delta_final_loss"] == pytest.approx(-0.2)
    assert training["arms"]["real_adam"]["lr"] is None and training["arms"]["real_muon"]["lr"] == 1e-4
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert text.count("several learning rates") == 2 and "lr 0.01, λ 1" in text
    lonely = {
        name: frame.filter(~pl.col("cell_id").str.contains("real_adam.*-0.0001")) for name, frame in frames.items()
    }
    folder = write_study(tmp_path / "lonely", lonely, demonstration=False)
    assert summary_of(folder)["training"]["penalty"]["real_penalty"]["delta_final_loss"] == pytest.approx(-0.45)


def test_several_strengths_of_a_penalty_are_not_shown_as_the_first(tmp_path):
    one, other = at_rate(1e-3, 1.0, 0.0), at_rate(1e-3, 3.0, 0.0)
    other = {
        name: frame.filter(pl.col("arm") == "real_penalty").with_columns(pl.col("cell_id") + "-lam")
        for name, frame in other.items()
    }
    frames = {name: pl.concat([one[name], other[name]]) for name in one}
    folder = write_study(tmp_path / "s", frames, demonstration=False)
    assert summary_of(folder)["training"]["penalty"]["real_penalty"]["lam"] is None
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert re.search(r"real_adam \+ penalty − real_adam several", text) and "λ 3" in text


def test_a_step_0_that_differs_from_its_base_is_named(tmp_path):
    frames = real_tables()
    first = frames["cells"]["cell_id"][0]
    frames["cells"] = frames["cells"].with_columns(
        pl.when(pl.col("cell_id") == first).then(3.1).otherwise(pl.col("base_heldout")).alias("base_heldout")
    )
    folder = write_study(tmp_path / "s", frames, demonstration=False)
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert f"Step 0 DIFFERS from the base in: {first}" in text
    assert "the base's own in 11 of 12 runs" in text


def test_runs_without_held_out_rows_and_studies_without_a_finished_run_still_give_a_report(tmp_path):
    bare = real_tables(seeds=(0,))
    for column in ("heldout_start", "heldout_final", "base_heldout"):
        bare["cells"] = bare["cells"].with_columns(pl.lit(None, pl.Float64).alias(column))
    bare["trajectory"] = bare["trajectory"].with_columns(pl.lit(None, pl.Float64).alias("heldout_loss"))
    folder = write_study(tmp_path / "bare", bare, demonstration=False)
    assert "held-out loss is the base" not in Page(write_report(folder).read_text(encoding="utf-8")).text
    folder = write_study(tmp_path / "failed", real_tables(failed=True), demonstration=False)
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "no run is finished" in text and "the loss is not finite" in text and NO_JUDGE in text


def test_many_bases_and_data_are_drawn_up_to_a_limit_that_the_caption_tells(tmp_path):
    frames = real_tables(bases=tuple("abcde"), data=("x.jsonl", "y.jsonl"), seeds=(0,))
    folder = write_study(tmp_path / "s", frames, demonstration=False)
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "2 more are in tables/trajectory.parquet" in text
    interval = summary_of(folder)["training"]["arms"]["real_adam"]["intervals"]["final_loss"]
    assert interval["n"] == 5 and interval["low"] is not None


def test_an_arm_with_a_penalty_looks_like_its_own_without_dashed():
    found = looks({"adam": ("optimiser", None), "adam_penalty": ("penalty", "adam"), "x": ("penalty", "gone")})
    assert found["adam_penalty"].colour == found["adam"].colour and found["adam_penalty"].dash != found["adam"].dash
    assert found["x"].dash == "-", "its partner is not in the study"


def test_the_running_mean_is_that_of_the_last_values():
    assert running_mean([1, 2, 6, 8], 2).tolist() == [1, 1.5, 4, 7]
    assert running_mean([3, 5], 1).tolist() == [3, 5]
