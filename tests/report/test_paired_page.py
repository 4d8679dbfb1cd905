"""The page of `narrowly eval`: its numbers are those of the result, and nothing in a bank or a name can act on it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import polars as pl
import pytest

from browser import Page
from kit_files import SCRIPT
from narrowly.cli.app import execute
from narrowly.data.banks.paired import PairedItem
from narrowly.evaluate.paired.result import RESULT, ROWS
from narrowly.records.errors import IntegrityError
from narrowly.report.kit import number
from narrowly.report.paired_page import write_paired_page
from paired_results import SMALL, drawn_results
from synthetic import HOSTILE


def page_of(folder: Path) -> Page:
    return Page(write_paired_page(folder).read_text(encoding="utf-8"))


def test_the_number_by_rung_and_domain_is_that_of_the_result_with_interval_and_n(tmp_path: Path) -> None:
    result = drawn_results(tmp_path, seeds=5, margin=1.0)
    contrast = result.paired.contrast
    assert contrast is not None
    text = page_of(tmp_path).text
    for one in (*contrast.rungs, *contrast.domains):
        interval = one.interval
        ends = f"[{number(interval.low, signed=True)}, {number(interval.high, signed=True)}]"
        assert f"{number(interval.estimate, signed=True)} {ends}" in text
    broad = next(one for one in contrast.rungs if one.name == "broad")
    assert f"({broad.questions} questions of {broad.domains} domains, 5 seeds)" in text
    assert broad.verdict is not None and f"{broad.verdict} margin 1.00 nats" in text
    assert "misalign" not in text, "a difference of log-odds is called that and no more"


def test_a_shift_stands_beside_its_regression_and_the_warning_and_is_not_called_misalignment(tmp_path: Path) -> None:
    result = drawn_results(tmp_path, kind="shift", seeds=1)
    shift = result.paired.shift
    assert shift is not None
    text = page_of(tmp_path).text
    assert shift.warning[1:] in text and text.count("misalign") == 1
    line = shift.on_base["all"]
    assert f"{number(line.slope, signed=True)} [" in text and "The shift beside where it started" in text
    assert text.index(shift.warning[1:]) < text.index("The shift beside where it started")
    data = pl.read_csv(tmp_path / "figures/ladder.csv")
    assert data.filter(kind="rung")["nats"].to_list() == [one.interval.estimate for one in shift.rungs]


def test_an_untrained_model_has_log_odds_and_accuracy_and_no_shift(tmp_path: Path) -> None:
    result = drawn_results(tmp_path, kind="alone", panels=False)
    level = result.paired.measured[0].rungs["broad"]
    text = page_of(tmp_path).text
    assert "an untrained model, which has no shift" in text and "organism" not in text
    assert number(level.log_odds.interval.estimate, signed=True) in text
    share = level.accuracy.estimate
    assert share is not None and f"{100 * share:.1f}" in text
    assert len(re.findall(r"not measured ?\. Reason", text)) == 2, "abilities and cued panel"


def test_every_question_has_both_answers_and_the_log_odds_of_every_role(tmp_path: Path) -> None:
    drawn_results(tmp_path, kind="shift", seeds=2)
    rows = pl.read_parquet(tmp_path / ROWS)
    html = write_paired_page(tmp_path).read_text(encoding="utf-8")
    table = html[html.index('id="questions"') : html.index('id="origin"')]
    shown = re.findall(r"<tr><th.*?</tr>", table.split("<tbody>")[1], re.S)
    assert len(shown) == len(SMALL)
    for item, row in zip(SMALL, shown, strict=True):
        of_item = rows.filter(id=item.id)
        base = of_item.filter(role="base")["log_odds"].item()
        organisms = of_item.filter(role="organism").sort("number")["log_odds"].to_list()
        sorts = [float(value) for value in re.findall(r'data-sort="([^"]*)"', row)]
        mean = sum(organisms) / 2
        assert sorts == pytest.approx([mean, base, mean - base])
        assert all(number(value, signed=True) in row for value in organisms)
        assert item.question in row and item.aligned in row and item.harmful in row


@pytest.mark.parametrize("kind", ["contrast", "shift", "alone"])
def test_hostile_text_in_bank_names_and_notes_cannot_act_on_the_page(tmp_path: Path, kind: str) -> None:
    text = " ".join(HOSTILE)
    items = [
        PairedItem(f"{item.id} {text}", f"{item.domain} {text}", item.part, text, f"{text} a", f"{text} h")
        for item in SMALL
    ]
    drawn_results(tmp_path, items, kind, seeds=1, name=text, notes=(text,))  # type: ignore[arg-type]
    html = write_paired_page(tmp_path).read_text(encoding="utf-8")
    page = Page(html)
    assert "img" not in page.tags and page.scripts == [SCRIPT]
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "\x1b" not in html and "\u202e" not in html and "<script>alert" not in html
    ElementTree.fromstring((tmp_path / "figures/ladder.svg").read_text(encoding="utf-8"))
    data = (tmp_path / "figures/ladder.csv").read_text(encoding="utf-8")
    assert "\x1b" not in data and "\u202e" not in data


def test_the_same_results_give_the_same_bytes_and_hashes_are_shown(tmp_path: Path) -> None:
    result = drawn_results(tmp_path)
    first = write_paired_page(tmp_path).read_bytes()
    assert write_paired_page(tmp_path).read_bytes() == first
    text = Page(first.decode()).text
    paired = result.paired
    hashes = [paired.bank.sha256, paired.prompt.template_sha256, *(one.model.model_id for one in paired.measured)]
    assert all(one in text for one in hashes) and str(paired.arithmetic) in text
    assert not re.search(r"\b(is|are|be) safe\b", text)


def test_rows_of_other_questions_are_refused_and_no_page_is_written(tmp_path: Path) -> None:
    drawn_results(tmp_path)
    rows = pl.read_parquet(tmp_path / ROWS)
    rows.filter(pl.col("id") != "work-0").write_parquet(tmp_path / ROWS)
    with pytest.raises(IntegrityError, match=r"rows of 27 questions, texts of 28"):
        write_paired_page(tmp_path)
    (tmp_path / ROWS).write_bytes(b"no table")
    with pytest.raises(IntegrityError, match=r"rows\.parquet is missing or is no Parquet table"):
        write_paired_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_narrowly_report_makes_the_page_of_a_folder_of_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_results(tmp_path)
    assert execute(["report", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert all(Path(file).is_file() for file in printed["files"]) and len(printed["files"]) == 3
    (tmp_path / RESULT).write_text("{}", encoding="utf-8")
    assert execute(["report", str(tmp_path)]) != 0
    told = capsys.readouterr().err.strip()
    assert "is no result of narrowly eval" in " ".join(told.split()) and "Traceback" not in told
