"""Pages in a real browser, that of `conftest.py` one folder above."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from judged_files import answers_file
from judged_folders import judged_folder
from narrowly.data.banks.paired import paired_items
from narrowly.report.judged_page import write_judged_page
from narrowly.report.kit import Cell, Column, Figure, Page, Paragraph, Section, Table, page_html
from narrowly.report.paired_page import write_paired_page
from narrowly.report.write import write_report
from paired_results import drawn_results
from synthetic import make_tables, write_study
from synthetic_training import real_tables

pypdfium2 = pytest.importorskip("pypdfium2", reason="the tests of pages need pypdfium2")

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return the page of a study with answers, of one which only trained, of an evaluation, and of judged answers."""
    folder = tmp_path_factory.mktemp("out")
    answered = make_tables(5, arms={"sgd", "adam", "muon", "adam_penalty", "adam_aligned"}, failed=False)
    return {
        "answers": write_report(write_study(folder / "answers", answered, ideal_broad=0.5)),
        "training": write_report(write_study(folder / "training", real_tables(), demonstration=False)),
        "paired": write_paired_page(evaluated(folder / "paired")),
        "judged": write_judged_page(judged(folder / "judged")),
    }


def judged(folder: Path) -> Path:
    folder.mkdir()
    judged_folder([answers_file(folder / "a.jsonl", questions=10)], folder / "out")
    return folder / "out"


def evaluated(folder: Path) -> Path:
    drawn_results(
        folder, list(paired_items()), seeds=5, margin=1.0, notes=("Organism and control differ in the seed.",)
    )
    return folder


ROWS = [
    ["b", Cell("−2.0", sort=-2.0), "x10"],
    ["a", Cell("+10.0", sort=10.0), "x9"],
    ["d", Cell("–"), "–"],
    ["c", Cell("+9.0", sort=9.0), "x1"],
    ["only one cell", Cell("not measured", columns=2)],
]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "page.html"
    columns = [Column("name"), Column("value", kind="number"), Column("text")]
    many = [[f"row {n}", Cell(str(n), sort=n), "even" if n % 2 == 0 else "odd"] for n in range(40)]
    parts = [Table("few", columns, ROWS), Table("many", columns, many), Table("none", columns, [], empty="Nothing.")]
    path.write_text(page_html(Page("Tables", "", [Section("tables", "Tables", parts)])), encoding="utf-8")
    return path


def names(page, table):
    return page.locator(f"table:nth-match(table, {table}) tbody tr:visible > :first-child").all_inner_texts()


def test_a_click_on_a_heading_sorts_by_value_then_backwards_then_as_written(visit, tables):
    page = visit(tables)
    few = page.locator("table").first
    value = few.get_by_role("button", name="value")
    written = ["b", "a", "d", "c", "only one cell"]
    for order, direction in (
        (["b", "c", "a", "d", "only one cell"], "ascending"),
        (["a", "c", "b", "d", "only one cell"], "descending"),
        (written, None),
    ):
        value.click()
        assert names(page, 1) == order  # what is missing stays last
        assert few.locator("th", has_text="value").get_attribute("aria-sort") == direction
    few.get_by_role("button", name="text").press("Enter")
    assert names(page, 1) == ["c", "a", "b", "d", "only one cell"]  # x1, x9, x10
    assert few.locator("[aria-sort]").count() == 1


def test_a_filter_keeps_the_rows_that_hold_every_word_and_says_how_many(visit, tables):
    page = visit(tables)
    assert page.get_by_role("searchbox").count() == 1  # short tables have none
    page.get_by_role("searchbox", name="Filter rows").fill("ROW 1 odd")
    assert names(page, 2) == ["row 1", "row 11", "row 13", "row 15", "row 17", "row 19", "row 21", "row 31"]
    assert page.get_by_role("status").inner_text() == "8 of 40 rows"
    page.get_by_role("searchbox").fill("")
    assert len(names(page, 2)) == 40 and page.get_by_role("status").inner_text() == ""


def test_a_filter_finds_the_name_behind_a_label(visit, reports):
    page = visit(reports["answers"])
    rows = page.locator("#edits tr:has([title^=drop_top]):visible")
    assert rows.count() == 2
    page.locator("#edits").get_by_role("searchbox").fill("drop_top adam")
    assert rows.count() == 1 and "drop the top 1" in rows.first.inner_text()


def test_questions_of_an_evaluation_are_folded_under_a_warning_and_can_be_filtered_and_sorted(visit, reports):
    page = visit(reports["paired"])
    section = page.locator("#questions")
    rows = section.locator("tbody tr:visible")
    assert rows.count() == 0 and "Content warning" in section.locator("summary").inner_text()
    section.locator("summary").click()
    assert rows.count() == 540
    section.get_by_role("searchbox").fill("held work")
    assert rows.count() == 40 == sum(item.part == "held_out" and item.domain == "work" for item in paired_items())
    section.get_by_role("button", name="organism − control").click()
    shown = [float(text.split()[0].replace("−", "-")) for text in rows.locator("td:last-child").all_inner_texts()]
    assert shown == sorted(shown) and shown[0] < shown[-1]


@pytest.mark.parametrize(("report", "figure"), [("answers", "loss_misalignment"), ("training", "training_losses")])
def test_a_point_names_base_seed_run_and_the_command_that_repeats_it(visit, reports, report, figure):
    page = visit(reports[report])
    box = page.get_by_role("tooltip", include_hidden=True)
    assert box.is_hidden()
    point = page.locator(f"#figure-{figure} .point").last
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    said = box.inner_text().split("\n")
    assert re.match(r"\S.* on \S+, seed \d", said[0])
    run = next(line for line in said if line.startswith("run ")).removeprefix("run ")
    assert re.fullmatch(rf"narrowly train \S+/runs/{run}/spec\.json --out again", said[-1])
    point.click(force=True)
    page.mouse.move(2, 2)
    assert box.is_visible()  # a click keeps it, so that the command can be copied
    page.keyboard.press("Escape")
    assert box.is_hidden()


def test_the_arrow_keys_go_through_the_points_of_a_drawing(visit, reports):
    page = visit(reports["answers"])
    drawing, box = page.locator("#figure-edits .drawing"), page.get_by_role("tooltip", include_hidden=True)
    drawing.focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        said.append(box.inner_text())
    assert said[0] == said[2] != said[1] and all("narrowly repair" in text for text in said)
    page.keyboard.press("Tab")
    assert box.is_hidden()


def test_without_script_every_row_fold_and_title_is_there(visit, reports):
    plain, full = visit(reports["answers"], java_script_enabled=False), visit(reports["answers"])
    assert plain.locator("tbody tr").count() == full.locator("tbody tr").count() > 50
    assert plain.locator(".point title").count() == full.locator(".point").count() > 50
    assert "narrowly train" in plain.locator(".point title").first.text_content()
    assert plain.locator("button, input").count() == 0
    fold = plain.locator("details.method").first
    fold.locator("summary").click()
    assert fold.evaluate("it => it.open") and "Microworld" in fold.inner_text()


def test_a_script_that_is_not_the_kits_own_does_not_run(browser, tables, tmp_path):
    changed = tmp_path / "changed.html"
    hostile = "<script>document.title = 'ran'</script><p id=p onclick=\"document.title = 'ran'\">p</p></main>"
    changed.write_text(tables.read_text(encoding="utf-8").replace("</main>", hostile), encoding="utf-8")
    page = browser.new_page()
    page.goto(changed.as_uri())
    page.locator("#p").click()
    assert page.title() == "Tables · Narrowly" and page.locator("button.theme").count() == 1
    page.close()


LEAST_CONTRAST = """() => {
  const channel = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data; };
  const light = ([r, g, b]) => .2126 * channel(r / 255) + .7152 * channel(g / 255) + .0722 * channel(b / 255);
  const ground = it => { for (; it; it = it.parentElement) {
    const colour = rgba(getComputedStyle(it).backgroundColor); if (colour[3]) return colour; } };
  const found = {};
  for (const it of document.querySelectorAll("body :not(svg, svg *, script, style)")) {
    const text = [...it.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!text || !it.checkVisibility()) continue;
    const [a, b] = [light(rgba(getComputedStyle(it).color)), light(ground(it))].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < 4.5) found[`${it.tagName}.${it.className}`] = contrast;
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("report", ["answers", "training", "paired", "judged"])
def test_every_text_reaches_the_contrast_of_wcag_aa(visit, reports, report, scheme):
    page = visit(reports[report], color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    assert page.evaluate(LEAST_CONTRAST) == {}


def luminances(png: bytes):
    """Return the relative luminance of every pixel, darkest first (WCAG 2.2)."""
    rgb = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.sort(linear @ [0.2126, 0.7152, 0.0722])


def test_dark_mode_follows_the_system_or_the_switch_and_drawings_stay_legible(visit, reports):
    page = visit(reports["answers"], color_scheme="dark")
    drawing = page.locator("#figure-misalignment svg")
    for switched, dark in ((False, True), (True, False), (True, True)):
        if switched:
            page.locator("button.theme").click()
        found = luminances(drawing.screenshot())
        ground, ink = (found[len(found) // 2], found[-1 if dark else 0])
        assert bool(ground < 0.02) == dark
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 7
    page.locator("button.theme").click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("report", ["answers", "training", "paired", "judged"])
def test_a_phone_scrolls_down_and_never_sideways(visit, reports, report):
    page = visit(reports[report], viewport=PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    narrow = page.locator("caption:visible, p:visible, li:visible, h1, h2, h3").evaluate_all(
        "them => them.filter(it => it.getBoundingClientRect().right > innerWidth && !it.closest('nav')).length"
    )
    assert narrow == 0
    if report == "answers":  # rows of long text become blocks
        cell = page.locator("#claims td").first
        assert cell.evaluate("it => getComputedStyle(it).display") == "block"
    if report == "paired":
        cell = page.locator("#questions td.number").first
        assert cell.evaluate("it => getComputedStyle(it).textAlign") == "left"


def test_the_contents_stay_in_sight_and_say_where_the_reader_is(visit, reports):
    for viewport in (DESK, PHONE):
        page = visit(reports["answers"], viewport=viewport)
        page.locator("nav a", has_text="Controls").click()
        page.wait_for_function("document.querySelector('nav [aria-current]')?.textContent === 'Controls'")
        top = page.locator("nav").bounding_box()["y"]
        assert 0 <= top < 40
        heading = page.locator("#controls h2").bounding_box()["y"]
        assert heading < viewport["height"] / 2
        assert viewport is DESK or heading > page.locator("nav").bounding_box()["height"] - 1


def test_the_keyboard_gets_a_skip_link_and_sees_where_it_is(visit, reports):
    page = visit(reports["answers"])
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the content" and skip.bounding_box()["x"] >= 0
    assert skip.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.locator(":focus").evaluate("it => it.closest('main') !== null")


def content_ends(pdf: bytes) -> list[float]:
    """Return how far down the content of each page reaches, as a share of the page's height."""
    ends = []
    for page in pypdfium2.PdfDocument(pdf, autoclose=True):
        inked = (page.render(scale=0.5, grayscale=True).to_numpy() < 250).any(axis=1)
        ends.append(inked.nonzero()[0].max(initial=0) / len(inked))
    return ends


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """Return a page of drawings that are each taller than a sheet."""
    path = tmp_path_factory.mktemp("tall") / "page.html"
    drawing = '<svg viewBox="0 0 900 2400"><rect width="900" height="2400" fill="#888"/></svg>'
    sections = [
        Section(
            f"s{n}", f"Section {n}", [Paragraph("A line."), Figure(f"f{n}", "Tall", "Caption.", "Method.", drawing)]
        )
        for n in range(4)
    ]
    path.write_text(page_html(Page("Tall", "", sections)), encoding="utf-8")
    return path


@pytest.mark.parametrize("report", ["answers", "training", "paired", "tall"])
def test_print_is_light_and_wastes_no_page(visit, reports, tall, report):
    page = visit({**reports, "tall": tall}[report], color_scheme="dark")
    pdf = page.pdf(prefer_css_page_size=True)
    ends = content_ends(pdf)
    assert len(ends) > 3 and min(ends[:-1]) > 0.25, ends
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav, button.theme, input, .files").locator("visible=true").count() == 0
