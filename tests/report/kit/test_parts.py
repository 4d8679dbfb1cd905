"""What a page of the kit holds, read as text: no browser."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import polars as pl
import pytest

from browser import Page as Seen
from narrowly.report.kit import (
    Cell,
    Column,
    Definitions,
    Figure,
    Fold,
    Heading,
    Listing,
    Note,
    Page,
    Paragraph,
    Preformatted,
    Section,
    Table,
    code,
    named,
    page_html,
    passage,
    to_section,
    words,
    write_page,
)
from narrowly.report.kit.svg import hover
from narrowly.report.style import svg_text
from synthetic import HOSTILE

BAD = " ".join(HOSTILE)
SVG = '<svg xmlns="http://www.w3.org/2000/svg"></svg>'


def page(*parts, title="A page"):
    return Page(title, "kicker", [Section("first", "First", parts)])


def test_every_part_escapes_its_text_and_makes_it_visible():
    table = Table(BAD, [Column(BAD, BAD)], [[Cell(BAD, below=[BAD])], [named(BAD, BAD + "!")]], title=BAD)
    stacked = Table("rows", [Column("a"), Column(BAD)], [["a", BAD]], groups=[(BAD, 2)], stacked=True)
    figure = Figure("one", BAD, BAD, BAD, None, BAD)
    parts = [
        Heading(BAD), Paragraph(BAD), Listing([BAD]), Note(BAD, "warning"), Preformatted(BAD),
        Definitions([(BAD, BAD)]), Fold(BAD, [table]), stacked, figure,
        Paragraph(words("{} and {what}", BAD, what=code(BAD))),
    ]  # fmt: skip
    html = page_html(Page(BAD, BAD, [Section("first", BAD, parts, short=BAD)], [Note(BAD)], BAD))
    seen = Seen(html)
    assert "img" not in seen.tags and len(seen.scripts) == 1
    assert "\x1b" not in html and "\u202e" not in html
    assert seen.text.count("<script>alert(1)</script>") > 20
    assert {tag for tag, name, _ in seen.attributes if name == "onerror"} == set()


def test_markup_comes_from_templates_of_our_own_alone():
    assert str(words("<em>{}</em>", "<b>")) == "<em>&lt;b&gt;</em>"
    assert str(to_section("first", "a & b")) == '<a href="#first">a &amp; b</a>'
    assert named("same", "same") == "same"


def test_two_anchors_of_one_name_are_an_error():
    double = Page("t", "", [Section("a", "A", []), Section("a", "B", [])])
    with pytest.raises(ValueError, match="unique"):
        page_html(double)


def test_a_table_has_a_caption_scopes_and_the_values_that_it_is_sorted_by():
    seen = page_html(
        page(Table("Rates.", [Column("arm"), Column("rate", "%", "number")], [["a", Cell("−1.0", sort=-1.0)]]))
    )
    assert "<caption>Rates.</caption>" in seen and '<th scope="col" class="number">' in seen
    assert '<th scope="row" class="word">a</th><td class="number" data-sort="-1.0">−1.0</td>' in seen


@pytest.mark.parametrize(("rows", "filtered"), [(12, False), (13, True)])
def test_a_long_table_is_filtered_and_a_short_one_kept_together(rows, filtered):
    html = page_html(page(Table("t", [Column("a")], [[str(n)] for n in range(rows)])))
    assert ("data-filter>" in html, 'class="scroll short"' in html) == (filtered, not filtered)


def test_drawing_and_data_lie_beside_the_page_and_go_when_they_are_no_longer_drawn(tmp_path):
    data = pl.DataFrame({"name": ["=1+1", "ok", None], "list": [[1.0, None, 0.5], [], None], "n": [1.5, None, -2.0]})
    figure = Figure("one", "One", "caption", svg=SVG, data=data)
    write_page(page(Fold("more", [figure])), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert 'href="figures/one.svg"' in html and 'href="figures/one.csv"' in html
    assert (tmp_path / "figures" / "one.svg").read_text() == SVG
    assert (tmp_path / "figures" / "one.csv").read_text() == 'name,list,n\n\'=1+1,1 nan 0.5,1.5\nok,"",\n,,-2.0\n'
    write_page(page(Figure("one", "One", "caption", reason="no rows", data=data)), tmp_path / "page.html")
    assert list((tmp_path / "figures").iterdir()) == []
    html = (tmp_path / "page.html").read_text()
    assert "Not drawn: no rows." in html and "figures/one" not in html


@pytest.mark.parametrize("points", [1, 3, 40])
def test_every_point_and_line_of_a_drawing_has_its_words_as_title(points):
    figure, axis = plt.subplots()
    hover(axis.scatter(range(points), range(points)), [f"point {n}\n{BAD}" for n in range(points)])
    (line,) = axis.plot([0, 1], [0, 1], marker="o")
    hover(line, ["a line"])
    axis.scatter([1, 2], [2, 1])  # without words
    svg = svg_text(figure, "one", "One")
    plt.close(figure)
    space = "{http://www.w3.org/2000/svg}"
    titles = [one.text for one in ElementTree.fromstring(svg).iter(f"{space}title")]
    assert [text.split("\n")[0] for text in titles if text != "a line"] == [f"point {n}" for n in range(points)]
    assert titles.count("a line") in (1, 2)  # the line, and its markers
    assert BAD.split("\x1b")[0] in titles[0] and "\x1b" not in svg
    assert not re.search(r"<a\b|hover:|_blank", svg)


def test_the_kit_names_nothing_of_the_rooms_below():
    from kit_files import KIT

    own = " ".join(file.read_text(encoding="utf-8") for file in KIT.iterdir() if file.is_file())
    found = re.findall(r"adam|muon|microworld|misalign|organism|optimi[sz]er", own, re.I)
    assert found == ["optimiser"]  # its docstring says that it knows none


def test_a_passage_keeps_its_lines_and_is_escaped_and_columns_with_choices_name_the_value_of_every_row():
    columns = [Column("name"), Column("class", choices=True), Column("text", kind="prose")]
    rows = [[f"row {at}", named("off topic", "off_topic"), passage("a <b>\n\u202e c")] for at in range(2)]
    html = page_html(Page("T", "", [Section("s", "S", [Table("c", columns, rows)])]))
    assert html.count('data-choice="off topic"') == 2 and html.count(" data-choices>") == 1
    assert html.count('<span class="passage" dir="auto">a &lt;b&gt;\n⟨U+202E⟩ c</span>') == 2
