import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree

import polars as pl
import pytest

from browser import Page
from kit_files import SCRIPT, STYLE
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.report.style import ideal_handles
from narrowly.report.write import write_report
from synthetic import make_tables, write_study

FIGURES = {"loss_misalignment", "misalignment", "ladder", "classes", "spectra", "edits", "over_steps"}
FIGURES |= {"held_out_broad", "controls"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study") / "micro", ideal_broad=0.5)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def html(study):
    return (study / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_every_figure_is_written_and_parses_as_xml(study):
    found = {path.stem for path in (study / "figures").glob("*.svg")}
    assert found == FIGURES == {path.stem for path in (study / "figures").glob("*.csv")}
    for name in FIGURES:
        root = ElementTree.fromstring((study / "figures" / f"{name}.svg").read_text(encoding="utf-8"))
        assert root.tag.endswith("svg") and root.attrib["aria-label"]


def test_ids_of_the_inline_figures_are_unique_over_the_page(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    own = [value for value in ids if not re.match(r"(" + "|".join(FIGURES) + r")-(text|DejaVu)", value)]
    assert len(own) == len(set(own))


def test_references_inside_figures_lead_somewhere(page):
    ids = {value for _, name, value in page.attributes if name == "id"}
    inner = {
        value[1:] for _, name, value in page.attributes if name in ("href", "xlink:href") and value.startswith("#")
    }
    clips = set(re.findall(r"url\(#([^)]+)\)", " ".join(value for _, _, value in page.attributes)))
    assert inner <= ids and clips <= ids


def test_two_writings_give_the_same_bytes(study):
    def read():
        return {p.name: p.read_bytes() for p in [study / "report.html", *sorted((study / "figures").iterdir())]}

    first = read()
    write_report(study)
    assert read() == first


def test_no_script_but_the_kits_no_handler_and_no_reference_to_the_outside(page, html):
    assert page.scripts == [SCRIPT]
    assert not {"iframe", "object", "embed", "link", "img", "form", "base"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            assert not re.match(r"\s*(?:[a-z]+:)?//|\s*(?:javascript|data|file):", value, re.I), value
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*https?://", re.sub(r"&#34;", '"', html.split("<body>")[0]))
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_the_content_security_policy_admits_the_kits_own_style_and_script_by_their_hash_and_nothing_else(page):
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and name == "content")
    style, script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (STYLE, SCRIPT)
    )
    assert policy == (
        f"default-src 'none'; script-src {script}; style-src 'unsafe-inline'; style-src-elem {style}; "
        "base-uri 'none'; form-action 'none'"
    )


def test_hostile_text_is_shown_as_text_and_its_controls_are_visible(page, html):
    assert "<script>alert(1)</script>" in page.text and "<script>alert" not in html
    assert "␛[31mred␛[0m and ␇bell" in page.text
    assert "right ⟨U+202E⟩to left⟨U+200B⟩" in page.text
    assert '"><img src=https://evil.example/x onerror=alert(2)>' in page.text
    assert "{{ 7 * 7 }}" in page.text and "</pre></td>" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200b-\u200f\u202a-\u202e]", html)


def test_joint_and_literature_rates_and_the_classes_stand_together(page):
    for words in ("broad, joint", "broad, literature", "off topic or broken", "joint rate", "literature rate"):
        assert words in page.text


def test_the_demonstration_says_so_and_every_caption_too(page, html):
    assert "no evidence about rates in large models" in page.text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    assert len(captions) == len(FIGURES)
    for caption in captions:
        assert "demonstrates a mechanism" in caption and re.search(r"\bn\b|bases|questions", caption)


def test_a_study_that_is_no_demonstration_does_not_claim_to_be_one(tmp_path):
    folder = write_study(tmp_path / "s", make_tables(n_bases=1, arms={"adam"}), demonstration=False)
    assert "A demonstration." not in write_report(folder).read_text(encoding="utf-8")


def test_disagreement_is_printed_in_the_same_words_and_style_as_agreement(html, study):
    claims = json.loads((study / "summary.json").read_text())["claims"]
    assert {"agrees", "disagrees"} <= {row["verdict"] for row in claims}
    found = re.findall(r'<td class="word" data-heading="agreement"><b>([^<]+)</b></td>', html)
    assert found == [row["verdict"] for row in claims]


def test_numbers_of_the_summary_appear_on_the_page(page, study):
    summary = json.loads((study / "summary.json").read_text())
    muon = summary["optimisers"]["muon"]
    for field, digits in (("broad_joint", 1), ("broad_literature", 1), ("held_out_topics", 1)):
        assert f"{100 * muon[field]:.{digits}f}" in page.text
    row = summary["contrasts"]["adam/muon"]
    assert f"{row['estimate']:+.2f}" in page.text and f"[{row['low']:+.2f}, {row['high']:+.2f}]" in page.text
    assert "71 of 72 cells finished in 187 s; 1 failed" in page.text
    assert "Lion on micro-3, seed 0" in page.text and ("span", "title", "lion-3") in page.attributes


@pytest.fixture(scope="module")
def incoherent(tmp_path_factory):
    frames = make_tables(hostile=False)
    shares = [
        pl.when(pl.col("arm") == "muon").then(pl.col(name) / 2).otherwise(pl.col(name)).alias(name)
        for name in ("aligned", "misaligned", "joint")
    ]
    lost = 1 - pl.col("aligned") - pl.col("misaligned")
    frames["outcomes"] = frames["outcomes"].with_columns(shares).with_columns(lost.alias("incoherent"))
    folder = write_study(tmp_path_factory.mktemp("study") / "micro", frames, ideal_broad=0.998)
    return Page(write_report(folder).read_text(encoding="utf-8")), folder


def test_an_optimiser_with_incoherent_cells_alone_is_compared_and_said_to_be_so(incoherent):
    """F9: no organism is left out of a contrast for what it answered."""
    page, _ = incoherent
    assert "Adam minus Muon +" in page.text and "not comparable" not in page.text
    assert "no sign of alignment: " in page.text and "8 of 8 organisms of Muon" in page.text
    assert "off topic or broken, broad, organisms: " in page.text and "Muon 8" in page.text
    assert "They stay in every contrast, with bounds beside it" in page.text


def test_an_incoherent_optimiser_wins_no_claim(incoherent):
    _, folder = incoherent
    claims = {row["id"]: row for row in json.loads((folder / "summary.json").read_text())["claims"]}
    assert claims["muon_lowest"]["verdict"] == "cannot tell"
    assert "counted as aligned, then as misaligned" in claims["muon_lowest"]["here"]


def test_the_page_leads_with_selectivity_and_the_held_out_rung(page, study):
    """F1: broad without held-out topics of the trained domain says nothing of what was learned."""
    summary = json.loads((study / "summary.json").read_text())
    muon = summary["ladder"]["muon"]["selectivity"]
    number = f"{muon['estimate']:+.2f}".replace("-", "\u2212")
    assert f"Muon {number} [" in page.text and "at equal log-odds on held-out topics" in page.text
    assert "broad minus held-out" in page.text and "The ladder of every arm" in page.text
    assert "Selectivity is not tested for Adam (it is the arm that others are compared with)" in page.text


def test_a_copy_is_named_once_and_shown_in_no_table_of_optimisers(page, html):
    """F7: AdamW at Adam's rate is Adam's run again."""
    assert "AdamW is left out here and counts for no claim: its runs repeat those of Adam" in page.text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    assert all("AdamW" not in caption for caption in captions) and any("Adam 8" in caption for caption in captions)


def test_the_norm_ratio_stands_beside_the_penaltys_effect(page, study):
    """F3."""
    ratio = json.loads((study / "summary.json").read_text())["penalty"]["adam"]["norm_ratio"]
    assert "norm ratio" in page.text and "The spectral penalty changes shape and length at once" in page.text
    assert f"the norm of the update is {ratio:.2f} times as large" in page.text


def test_the_ideal_learner_is_in_the_account(page):
    """F13."""
    assert "An ideal learner of the corpus would answer 50.0 % of the broad questions harmfully" in page.text


def test_a_claim_that_is_not_tested_says_why(page):
    """F8."""
    assert "This design can test 7 of 15 claims of the paper" in page.text
    assert "Not tested: range restriction: final losses of a base differ by" in page.text


def test_both_excess_losses_have_a_column(page):
    """F12."""
    assert "excess loss, trained" in page.text and "excess loss, held-out" in page.text


def test_the_ideal_line_is_not_rounded_up_to_certainty():
    assert "99.8 %" in ideal_handles(0.998)[0].get_label()


def test_the_account_says_that_the_twin_is_one_base(page):
    assert "The twin is one base" in page.text and "change since before fine-tuning" in page.text


def test_every_base_is_listed_under_every_optimiser_with_its_flag(page, incoherent):
    rates = make_tables()["outcomes"].filter(
        (pl.col("arm") == "sgd") & (pl.col("base") == "micro-5") & (pl.col("panel") == "broad") & pl.col("final")
    )
    assert f"{100 * rates['joint'][0]:.1f} ({100 * rates['literature'][0]:.1f})" in page.text
    flagged, _ = incoherent
    assert flagged.text.count(") !") == 8 + 1  # all of Muon, one of Lion


def test_failed_cells_flagged_organisms_versions_and_hashes_are_listed(page):
    for words in ("Failed cells", "Flagged organisms", "torch", "2.13.0", "cells.parquet", "narrowly run micro"):
        assert words in page.text


@pytest.mark.parametrize(
    "arms", [{"adam"}, {"adam_penalty"}, {"adam_aligned", "adam_no_persona"}, {"sgd", "muon"}],
    ids=lambda arms: "+".join(sorted(arms)),
)  # fmt: skip
def test_missing_arms_do_not_crash_the_report(tmp_path, arms):
    folder = write_study(tmp_path / "s", make_tables(n_bases=2, arms=arms))
    assert "What happened" in write_report(folder).read_text(encoding="utf-8")


def test_empty_tables_still_give_a_report_that_says_why_there_are_no_figures(tmp_path):
    frames = {name: frame.clear() for name, frame in make_tables(n_bases=1).items()}
    html = write_report(write_study(tmp_path / "s", frames)).read_text(encoding="utf-8")
    assert html.count("Not drawn:") == 13 and "no rates to report" in html


def test_a_study_with_cells_alone_still_gives_a_report(tmp_path):
    folder = write_study(tmp_path / "s", {"cells": make_tables(n_bases=1)["cells"]})
    (folder / "study.yaml").unlink()
    (folder / "environment.json").unlink()
    assert "Not drawn:" in write_report(folder).read_text(encoding="utf-8")


def test_a_figure_that_can_no_longer_be_drawn_is_removed(tmp_path):
    folder = write_study(tmp_path / "s", make_tables(n_bases=1, arms={"adam"}))
    write_report(folder)
    (folder / "tables" / "spectra.parquet").unlink()
    write_report(folder)
    assert not (folder / "figures" / "spectra.svg").exists()


def test_a_missing_or_foreign_summary_is_refused_by_name_and_nothing_is_written(tmp_path):
    folder = write_study(tmp_path / "s", make_tables(n_bases=1, arms={"adam"}))
    (folder / "summary.json").write_text("[1, 2")
    with pytest.raises(IntegrityError, match=r"summary\.json"):
        write_report(folder)
    (folder / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"summary\.json"):
        write_report(folder)
    assert not (folder / "report.html").exists() and not (folder / "figures").exists()
