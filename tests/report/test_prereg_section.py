import re

from narrowly.report.kit import Page, page_html
from narrowly.report.prereg_section import prereg_section

WORDS = ("established", "refuted", "open", "not tested")


def prereg(**changes):
    rows = [
        {"id": f"finding-{word.replace(' ', '-')}", "question": "Does it hold?", "word": word, "estimate": -0.004,
         "low": None if word == "not tested" else -0.3, "high": None if word == "not tested" else 0.29, "bases": 12,
         "of_bases": 16, "reason": None if word != "open" else "the interval includes 0"}
        for word in WORDS
    ]  # fmt: skip
    found = {"decisions": rows, "conclusions": ["It does not hold."], "secondary": []}
    told = [{"date": "2026-12-01", "what": "<b>one cell</b> ran again", "why": "it had failed"}]
    return {"hash": "ab" * 32, "commit": "cd" * 20, "findings": found, "deviations": told, "reason": None} | changes


def html(**changes):
    return page_html(Page("A study", "study", [prereg_section(prereg(**changes))]))


def test_hash_and_commit_are_shown_whole_and_deviations_as_text():
    text = html()
    assert "ab" * 32 in text and "cd" * 20 in text
    assert "2026-12-01: &lt;b&gt;one cell&lt;/b&gt; ran again (it had failed)" in text


def test_every_decision_stands_in_the_same_table_in_the_same_type_whatever_it_is():
    rows = re.findall(r"<tr><th.*?</tr>", html().split("<tbody>")[1].split("</tbody>")[0], re.S)
    assert len(rows) == len(WORDS)
    shapes = set()
    for word, row in zip(WORDS, rows, strict=True):
        assert f'<td class="word">{word}</td>' in row and "12 of 16" in row
        shapes.add(tuple(re.findall(r"<(\w+)[^>]*class=\"([^\"]*)\"", row)))
    assert len(shapes) == 1


def test_a_number_that_rounds_to_zero_has_no_sign_and_no_interval_is_said():
    text = html()
    assert ">0.00</td>" in text and "no interval" in text and "[\u22120.30, +0.29]" in text


def test_a_contrast_of_shares_has_a_digit_more_than_its_margin():
    row = prereg()["findings"]["decisions"][0] | {"estimate": 0.0174, "low": 0.0121, "high": 0.0227}
    text = html(findings={"decisions": [row], "conclusions": [], "secondary": []})
    assert ">+0.017</td>" in text and "[+0.012, +0.023]" in text


def test_before_the_last_cell_nothing_is_decided_and_the_reason_is_given():
    text = html(findings=None, reason="3 of 9 cells are not done; nothing is decided before")
    assert "Nothing is decided: 3 of 9 cells are not done" in text and "<table" not in text
    assert "None." in html(deviations=[])
