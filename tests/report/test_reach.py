import math

import polars as pl
import pytest
from matplotlib.colors import to_hex

from browser import Page
from narrowly.analysis.frames import gather_frames, read_frames
from narrowly.analysis.summary_schema import Summary
from narrowly.analysis.tables import SCHEMAS, Tables, conform
from narrowly.records.dial import STRENGTHS
from narrowly.records.files import read_json
from narrowly.report.control_figures import control_forest, dial_figure, prior_figure
from narrowly.report.first_screen import sentences
from narrowly.report.reach_figures import broad_norm, held_out_broad, log_odds
from narrowly.report.reach_rows import control_rows, crossings, penalty_pairs, prior_rows, reach_rows
from narrowly.report.style import FIXED
from narrowly.report.write import write_report
from synthetic import make_tables, write_study


def frames_of(tables):
    return gather_frames(Tables(**{name: conform(name, tables.get(name, pl.DataFrame())) for name in SCHEMAS}))


def swept(n_bases=5, factors=(0.5, 1.0, 2.0)):
    """Return tables of Adam and Muon at several rates; a larger rate scales the norm and moves the odds."""
    parts = {name: [] for name in ("cells", "outcomes", "spectra")}
    for place, factor in enumerate(factors):
        made = make_tables(n_bases, arms={"adam", "muon"}, hostile=False, seed=place)
        for name, frames in parts.items():
            frame = made[name].with_columns((pl.col("cell_id") + f"-{place}").alias("cell_id"))
            if name == "cells":
                frame = frame.with_columns(pl.col("lr") * factor)
            if name == "spectra":
                frame = frame.with_columns(pl.col("frobenius_norm") * factor)
            frames.append(frame)
    return {name: pl.concat(frames, how="diagonal_relaxed") for name, frames in parts.items()}


def dial_table(bases=6):
    """Return a synthetic dial: Muon's broad rises at f = .5 along the same init, and along no other."""
    rows = []
    for base in range(bases):
        for reference in ("same_init", "other_init", None):
            for control in ("orthogonal", "random") if reference else ("scaled",):
                for f in STRENGTHS:
                    rise = 0.4 if (reference, control, f) == ("same_init", "orthogonal", 0.5) else 0.0
                    share = 0.3 + rise + 0.01 * base
                    rows.append(
                        {"base": f"micro-{base}", "arm": "muon", "reference": reference, "control": control, "f": f,
                         "inner": "frobenius", "granularity": "joint", "draw": 0, "trained_misaligned": 0.95,
                         "held_out_misaligned": share, "broad_misaligned": share}
                    )  # fmt: skip
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study") / "micro", ideal_broad=0.5)
    dial_table().write_parquet(folder / "tables" / "dial.parquet")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def html(study):
    return (study / "report.html").read_text(encoding="utf-8")


def test_the_first_screen_is_headline_three_sentences_and_strip_before_anything_else(html):
    first, rest = html.split('id="first"')[1].split('id="happened"')
    assert 'id="figure-held_out_broad"' in first and 'id="figure-held_out_broad"' not in rest
    assert first.index("<figure") < first.index('class="listing"') < first.index('class="strip"')
    assert first.split('class="listing"')[1].split("</ul>")[0].count("<li>") == 3


def test_each_verdict_of_the_strip_has_its_symbol_its_class_and_its_claims(html, study):
    claims = read_json(study / "summary.json")["claims"]
    strip = html.split('class="strip"')[1].split("</section>")[0]
    for verdict, symbol in (("agrees", "✓"), ("disagrees", "✗"), ("cannot tell", "?"), ("not tested", "–")):
        part = strip.split(f'<div class="{verdict.replace(" ", "-")}">')[1].split("</div>")[0]
        count = sum(row["verdict"] == verdict for row in claims)
        assert f'<span aria-hidden="true">{symbol}</span> {verdict}</b> {count}</p>' in part
        assert part.count("<li>") == count
    assert all(row["claim"].replace("'", "&#39;") in strip for row in claims)


def test_the_sentences_have_the_numbers_of_the_summary(study):
    summary = Summary.from_json(read_json(study / "summary.json"), "summary")
    first, second, third = sentences(summary)
    muon = summary.optimisers["muon"]
    assert f"Muon {100 * muon.broad_joint:.1f}\u00a0%" in first and "AdamW" not in first
    selectivity = summary.ladder["muon"].selectivity
    assert f"Muon {selectivity.estimate:+.2f}".replace("-", "\u2212") in second
    assert selectivity.dial == "step" and "pulls this to 0: no proof of equality" in second
    assert "50.0\u00a0%" in third


def test_a_preregistered_study_leads_with_its_decisions_whatever_they_are(study):
    summary = Summary.from_json(read_json(study / "summary.json"), "summary")
    found = {"decisions": [{"word": "refuted"}, {"word": "open"}], "conclusions": ["It does not hold."]}
    first, *_ = sentences(summary.model_copy(update={"prereg": {"findings": found}}))
    assert first == "Of 2 preregistered findings: 1 open, 1 refuted. It does not hold."


def test_figures_without_data_are_listed_with_one_reason_each_and_have_no_files(html, study):
    fold = html.split("Figures that this study has no data for")[1].split("</details>")[0]
    assert "no arm ran at two rates or more" in fold and "two are needed" in fold
    assert not (study / "figures" / "broad_norm.svg").exists() and not (study / "figures" / "prior.csv").exists()


def test_the_page_speaks_of_misalignment_in_every_figure_and_table(html):
    headings = html.split("<thead>")[1:]
    assert not any("alignment</th>" in part.split("</thead>")[0].replace("misalignment", "") for part in headings)
    assert "alignment on other domains" not in html


def test_paths_run_through_rates_where_there_are_several_and_through_steps_where_there_is_one(study):
    rows = reach_rows(frames_of(swept()))
    assert rows["final"].all() and rows.group_by("arm", "base").len()["len"].unique().to_list() == [3]
    steps = reach_rows(read_frames(study / "tables"))
    assert set(steps["arm"]) == {"sgd", "adam", "lion", "muon"} and steps["step"].n_unique() > 2


def test_points_of_the_ladder_line_are_the_final_organisms_and_the_ideal_is_at_its_log_odds(study):
    rows = reach_rows(read_frames(study / "tables"))
    figure = held_out_broad(rows, 0.9)
    drawn = sum(len(one.get_offsets()) for one in figure.axes[0].collections)
    assert drawn == rows.filter(pl.col("final")).height
    dashed = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx(log_odds(0.9))]
    colours = {to_hex(one.get_facecolor()[0]) for one in figure.axes[0].collections}
    assert colours == {FIXED[arm].colour.lower() for arm in ("sgd", "adam", "lion", "muon")}


def test_ticks_of_a_log_odds_axis_lie_within_the_data():
    rows = pl.DataFrame(
        {"arm": "adam", "base": ["a", "b"], "domain": 0, "seed": 0, "cell_id": ["x", "y"], "lr": 1e-3, "step": 80,
         "final": True, "held_out_pooled": [-1.0, 1.0], "broad_pooled": [-0.5, 0.5], "held_out_misaligned": 0.5,
         "broad_misaligned": 0.5}
    )  # fmt: skip
    axis = held_out_broad(rows).axes[0]
    low, high = axis.get_xlim()
    assert low < -1 < 1 < high and all(low <= tick <= high for tick in axis.get_xticks())
    assert [text.get_text() for text in axis.get_xticklabels()] == ["50"]


def test_crossings_are_those_of_the_curves_and_none_is_made_up():
    up, down = [(0.0, 0.0), (2.0, 2.0)], [(0.0, 3.0), (1.0, 1.0), (4.0, -2.0)]
    (one,) = crossings({"up": up, "down": down})
    assert (one.x, one.y) == (pytest.approx(1.0), pytest.approx(1.0))
    assert crossings({"a": [(0.0, 0.0), (1.0, 0.0)], "b": [(2.0, -1.0), (3.0, 1.0)]}) == []
    assert crossings({"a": [(0.0, 0.0), (1.0, 0.0)], "b": [(0.5, 0.0)]}) == []


def test_the_crossing_is_marked_in_the_figure_at_its_norm():
    rows = [
        {"arm": arm, "base": base, "domain": 0, "seed": 0, "cell_id": f"{arm}{base}{norm}", "lr": float(norm),
         "update_norm": float(norm), "broad_pooled": slope * math.log(norm / 4), "broad_misaligned": 0.5}
        for arm, slope in (("adam", -1.0), ("muon", 1.0)) for base in ("a", "b") for norm in (2, 8)
    ]  # fmt: skip
    figure = broad_norm(pl.DataFrame(rows))
    rings = [line for line in figure.axes[0].lines if line.get_markersize() == 14]
    assert [ring.get_xdata()[0] for ring in rings] == [pytest.approx(4.0)]
    assert rings[0].get_ydata()[0] == pytest.approx(0.0)


def test_a_penalty_is_compared_at_the_norm_that_both_arms_reach():
    """Plain at norms 1 and 4 by scaling, penalised at 2: the middle of 1 to 4 in logarithms."""
    ladder = pl.DataFrame(
        [
            {"arm": "adam", "role": "optimiser", "of": None, "base": "b", "edit": "scale-0.25", "update_norm": 1.0,
             "stable_rank": 2.0, "held_out_pooled": 0.0, "broad_pooled": -1.0},
            {"arm": "adam", "role": "optimiser", "of": None, "base": "b", "edit": "none", "update_norm": 4.0,
             "stable_rank": 2.0, "held_out_pooled": 2.0, "broad_pooled": 1.0},
            {"arm": "flat", "role": "penalty", "of": "adam", "base": "b", "edit": "none", "update_norm": 2.0,
             "stable_rank": 5.0, "held_out_pooled": 3.0, "broad_pooled": 0.5},
            {"arm": "flat", "role": "penalty", "of": "adam", "base": "c", "edit": "none", "update_norm": 2.0,
             "stable_rank": 5.0, "held_out_pooled": 3.0, "broad_pooled": 0.5},
        ]
    ).with_columns(final=pl.lit(True), step=80)  # fmt: skip
    pairs, without = penalty_pairs(ladder)
    (row,) = pairs.to_dicts()
    assert row["norm"] == pytest.approx(2.0) and without == {"flat": 1}
    assert (row["rank_of"], row["rank"]) == (2.0, 5.0)
    assert (row["broad_of"], row["broad"]) == (pytest.approx(0.0), pytest.approx(0.5))
    assert (row["held_out_of"], row["held_out"]) == (pytest.approx(1.0), pytest.approx(3.0))


def test_the_dial_shows_the_rise_along_the_same_init_and_none_along_another(study, html):
    data = pl.read_csv(study / "figures" / "dial.csv")
    assert data.height == dial_table().height and set(data["reference"].drop_nulls()) == {"same_init", "other_init"}
    assert 'id="figure-dial"' in html and "n, bases: Muon 6" in html
    figure = dial_figure(data)
    assert len(figure.axes) == 6
    solid = [
        [line for line in axis.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == len(STRENGTHS)]
        for axis in figure.axes
    ]
    at_half = [lines[0].get_ydata()[STRENGTHS.index(0.5)] for lines in solid]
    assert at_half[0] == pytest.approx(72.5) and at_half[3] == pytest.approx(32.5)
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert len(dashed) >= 1


def test_controls_are_changes_from_the_base_of_the_same_domain(study):
    frames = read_frames(study / "tables")
    rows = control_rows(frames, ["broad"])
    row = rows.filter(pl.col("base") == "micro-2").to_dicts()[0]
    after = frames.finals.filter(
        (pl.col("arm") == "adam_aligned") & (pl.col("base") == "micro-2") & (pl.col("panel") == "broad")
    )["joint"][0]
    before = frames.start.filter((pl.col("base") == "micro-2") & (pl.col("panel") == "broad"))["joint"].mean()
    assert row["answers"] == "aligned" and row["change"] == pytest.approx(after - before)
    labels = [text.get_text() for text in control_forest(rows, {"broad": "Broad"}).axes[0].get_yticklabels()]
    assert labels == ["adam_aligned, lr 0.0006"]


def test_the_ideal_curve_is_one_over_one_plus_rho():
    tables = make_tables(4, arms={"adam"}, hostile=False)
    ideal = pl.when(pl.col("base_seed") < 2).then(0.5).otherwise(0.25).alias("ideal_broad")
    rows = prior_rows(frames_of(tables | {"cells": tables["cells"].with_columns(ideal)}))
    assert sorted(rows["rho"].unique()) == [pytest.approx(1.0), pytest.approx(3.0)]
    curve = prior_figure(rows).axes[0].lines[0]
    assert curve.get_ydata()[0] == pytest.approx(50.0) and curve.get_ydata()[-1] == pytest.approx(25.0)


def test_hostile_names_of_arms_and_references_stay_text(tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    folder = write_study(tmp_path / "s", make_tables(5, arms={"adam"}))
    dial = dial_table().with_columns(pl.lit(evil).alias("arm"), pl.col("reference") + pl.lit(evil))
    dial.write_parquet(folder / "tables" / "dial.parquet")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<img" not in text and 'id="figure-dial"' in text and "img" not in Page(text).tags
