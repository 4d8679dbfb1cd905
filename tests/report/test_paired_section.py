"""The section about paired answers: what it shows of a summary, against the numbers in it."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl

from browser import Page as Read
from narrowly.analysis.paired_answers import paired_answers
from narrowly.report.kit import Figure, Page, page_html
from narrowly.report.labels import ArmNames
from narrowly.report.paired_figure import paired_paths
from narrowly.report.paired_first_screen import paired_headlines
from narrowly.report.paired_section import paired_section, paired_sentences
from narrowly.report.style import svg_text
from synthetic_paired import SHIFTS, both, organism, table

HOSTILE = "<script>alert(1)</script>"


def read(rows: list[dict]) -> tuple[str, Read]:
    found = paired_answers(table(rows))
    assert found is not None
    names = ArmNames(pl.DataFrame(rows).select("arm", "role", "of"))
    section = paired_section(found, Figure("paired_paths", "Paths", "caption", reason="not drawn here"), names)
    html = page_html(Page("title", "kicker", [section]))
    return html, Read(html)


def test_every_difference_stands_with_its_interval_control_and_seeds() -> None:
    _, page = read([*both(0), *both(1)])
    for rung in SHIFTS.values():
        assert f"+{rung:.2f}" in page.text
    assert "these seeds only" in page.text and "aligned" in page.text and "float32 on cpu" in page.text
    assert "Damage panel: not measured" in page.text and "Without a control" not in page.text


def test_an_arm_without_control_has_no_number_of_misalignment_and_the_warning() -> None:
    _, page = read([*organism("adam", None, 0, {}), *organism("adam", "harmful", 20, SHIFTS)])
    assert "no matched control in this study" in page.text and "not called misalignment" in page.text
    assert "Against the matched control" not in page.text and "At equal held-out difference" not in page.text


def test_names_from_files_are_shown_as_text() -> None:
    rows = [{**row, "base": HOSTILE, "arm": f"{row['arm']}{HOSTILE}", "trained": HOSTILE} for row in both(0)]
    html, page = read([{**row, "domain": "money" if row["rung"] in ("trained", "held_out") else row["domain"]}
                       for row in rows])  # fmt: skip
    assert HOSTILE not in html and "<script>alert(1)" in page.text


def test_the_figure_has_one_path_per_run_and_one_per_arm() -> None:
    found = paired_answers(table([*both(0), *both(1), *both(0, 0.5, optimiser="muon", series="s2")]))
    assert found is not None
    figure = paired_paths(found.paths)
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3]
    assert len(lines) == 3 + 2, "three runs and two arms, each from before training through two steps"
    ends = sorted(tuple(map(float, (line.get_xdata()[-1], line.get_ydata()[-1]))) for line in lines)
    assert ends == [(4.0, 1.0), (4.0, 1.0), (4.0, 2.0), (4.0, 2.0), (4.0, 2.0)]
    assert "<svg" in svg_text(figure, "paired_paths", "Paths")


def test_every_control_is_told_in_the_account_and_zero_has_no_sign() -> None:
    """A permuted control that leaves nothing is as much a result as the aligned one."""
    permuted = organism("adam_permuted", "permuted", 20, {rung: -5.001 + shift for rung, shift in SHIFTS.items()},
                        matched="adam0")  # fmt: skip
    rows = [*both(0), *permuted]
    found = paired_answers(table(rows))
    names = ArmNames(pl.DataFrame(rows).select("arm", "role", "of"))
    aligned, against_permuted = paired_sentences(SimpleNamespace(paired=found), names)  # type: ignore[arg-type]
    assert "aligned control (1 seed, these seeds only)" in aligned and "other domains +2.00" in aligned
    assert "permuted control" in against_permuted and "other domains 0.00 [0.00, 0.00]" in against_permuted
    _, page = read(rows)
    assert "smallest effect, given these seeds" in page.text and "+0.00" not in page.text and "−0.00" not in page.text


def test_rows_of_an_arm_with_several_rates_are_told_apart_and_the_legend_says_what_the_tables_say() -> None:
    other = [{**row, "cell_id": f"{row['cell_id']}-lr3"} for row in both(0, 0.5, series="s3", matched="m3")]
    _, page = read([*both(0), *other])
    assert "adam-0-lr3" in page.text
    found = paired_answers(table(both(0)))
    assert found is not None
    figure = paired_paths(found.paths, called={"adam": "Adam + penalty"}.__getitem__)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Adam + penalty"]


def test_the_first_screen_has_extremes_with_intervals_and_never_a_rate() -> None:
    lower = {rung: shift - 5.5 for rung, shift in SHIFTS.items()}
    muon = [*organism("muon", "harmful", 20, lower, matched="adam0", optimiser="muon", series="s2")]
    rows = [*both(0), *muon]
    found = paired_answers(table(rows))
    assert found is not None
    names = ArmNames(pl.DataFrame(rows).select("arm", "role", "of"))
    spread, beyond, limits = paired_headlines(found, names)
    ends = {row.arm: row.rungs["broad"].interval.estimate for row in found.ladder}
    assert len(ends) == 2 and min(ends, key=ends.__getitem__) == "muon"
    assert f"from +{ends['muon']:.2f} [" in spread and f"to +{ends['adam']:.2f} [" in spread
    assert "minus the aligned control" in spread and "2 of 2 intervals without 0" in spread
    assert "not tested by this design" in beyond or "At equal differences" in beyond
    assert limits == (
        "No answer was written or judged, so nothing here is a rate; 1 seed an arm: such intervals hold for these "
        "seeds only."
    )


def test_the_first_screen_without_controls_says_nothing_of_misalignment() -> None:
    rows = [*organism("adam", None, 0, {}), *organism("adam", "harmful", 20, SHIFTS)]
    found = paired_answers(table(rows))
    assert found is not None
    names = ArmNames(pl.DataFrame(rows).select("arm", "role", "of"))
    spread, beyond, _ = paired_headlines(found, names)
    assert spread == "No arm has a matched control at its last step, so nothing is said of misalignment."
    assert "not tested" in beyond
