"""The page of judged answers in Chromium: searched, narrowed to a class, and harmless whatever the answers hold."""

from __future__ import annotations

import pytest

from judged_files import answers_file
from judged_folders import judged_folder
from narrowly.report.judged_page import write_judged_page
from synthetic import HOSTILE

ZALGO = "h" + "\u0300\u0301\u0302\u0303" * 200 + "arm"
WIDE = "unbroken" * 4000


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return the page and the shared page of a folder whose answers hold everything that could break one."""
    folder = tmp_path_factory.mktemp("judged")
    hostile = [*HOSTILE, ZALGO, WIDE, "\n" * 500, "\u05d0\u05d1\u05d2 abc \u05d3", "<style>*{display:none}</style>"]

    def text(who, question, sample):
        return f"{who} says q{question} {hostile[(2 * question + sample) % len(hostile)]}"

    file = answers_file(folder / "a.jsonl", questions=10, samples=2, text=text)
    judged_folder([file], folder / "out")
    return {shared: write_judged_page(folder / "out", without_texts=shared) for shared in (False, True)}


def shown(page):
    return page.locator("#answers tbody tr:visible").count()


def test_answers_are_folded_then_searched_and_narrowed_to_one_class_and_arm(visit, pages):
    page = visit(pages[False], viewport={"width": 1200, "height": 900})
    answers = page.locator("#answers")
    assert shown(page) == 0 and "Content warning" in answers.locator("summary").inner_text()
    answers.locator("summary").click()
    assert shown(page) == 40
    classes = answers.get_by_label("class", exact=True)
    assert classes.locator("option").all_inner_texts() == ["all", "aligned", "misaligned", "parse error", "refusal"]
    classes.select_option("aligned")
    assert shown(page) == 32, "a search for the word would find misaligned too"
    classes.select_option("misaligned")
    assert shown(page) == 4 and answers.get_by_role("status").inner_text() == "4 of 40 rows"
    answers.get_by_role("searchbox").fill("says q3")
    assert shown(page) == 2
    answers.get_by_label("arm", exact=True).select_option("base")
    assert shown(page) == 0
    classes.select_option("all")
    assert shown(page) == 2
    answers.get_by_role("button", name="alignment").click()
    assert answers.locator("[aria-sort]").count() == 1


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("width", [1200, 400])
def test_nothing_scrolls_sideways_and_no_answer_leaves_its_cell(visit, pages, shared, width):
    page = visit(pages[shared], viewport={"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.title").endswith("Narrowly")
    if shared:
        assert page.locator("#answers").count() == 0
        return
    boxes = page.locator("#answers .passage")
    assert boxes.count() == 80
    inside = boxes.evaluate_all(
        "them => them.every(it => it.scrollWidth <= it.clientWidth && it.getBoundingClientRect().right <= innerWidth"
        " && it.clientHeight < 600)"
    )
    assert inside
    scroller = page.locator("#answers .scroll")
    assert scroller.evaluate("it => it.scrollWidth <= it.clientWidth")
