import unicodedata
from dataclasses import asdict
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from narrowly.report import narrative
from narrowly.report.answer_tables import Rate
from narrowly.report.kit import number, percent, span
from narrowly.report.spectrum_figures import edit_kind, edit_label
from narrowly.report.visible import preformatted, shortened, shown, visible
from narrowly.stats.intervals import t_interval


@given(st.text())
def test_visible_text_holds_no_control_or_format_character(text):
    assert not [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs", "M"])))
def test_ordinary_text_is_left_alone(text):
    assert visible(text) == text


def test_a_terminal_escape_is_shown_as_its_picture():
    assert visible("\x1b[2J\r\n\t\x7f") == "␛[2J␍␊␉␡"


def test_preformatted_text_keeps_its_lines_and_is_escaped():
    assert str(preformatted("a: <b>\n\x1b")) == "a: &lt;b&gt;\n␛"


def test_a_long_text_is_cut_and_the_cut_is_marked():
    assert shortened("x" * 500, 400) == "x" * 400 + " … (100 more characters)"
    assert shortened("short") == "short"


def test_the_finaliser_leaves_numbers_alone_and_hides_none():
    assert shown(3) == 3 and shown(None) == "" and shown("\x00") == "␀"


def test_numbers_have_a_true_minus_sign_and_missing_ones_a_dash():
    assert number(-1.234, 1) == "−1.2" and number(0.5, 1, signed=True, factor=100) == "+50.0"
    assert number(None) == "–" and percent(None) == "–" and percent(0.5) == "50\u00a0%"
    assert span(Rate(None, -1.0, 2.0), signed=True) == "[−1.00, +2.00]"
    assert span(Rate(None, None, None)) == "no interval"


def test_edit_ids_are_read_back_into_kind_and_number():
    assert edit_kind("scale-0.5") == ("scale", 0.5)
    assert edit_kind("keep_top-1") == ("keep_top", 1.0)
    assert edit_kind("flatten") == ("flatten", None)
    assert edit_kind("scale-1e-05") == ("scale", 1e-05)
    assert edit_label("drop_top-2") == "drop the top 2" and edit_label("Odd Edit") == "Odd Edit"


def test_a_sentence_without_an_interval_says_its_bases_and_the_reason_once():
    def sentence(values):
        row = SimpleNamespace(**asdict(t_interval(values)), n_bases=len(values), rungs={})
        return narrative._contrasts(SimpleNamespace(contrasts={"muon/adam": row}))[0]

    assert sentence([1.0, 2.0, 3.0, 6.0]).endswith(" +3.00 over 4 bases (no interval: an interval needs at least 5).")
    assert " over 1 base (no interval: an" in sentence([1.0])
    assert "] over 5 bases (the interval excludes 0)" in sentence([1.0, 1.1, 1.2, 1.3, 1.4])


def test_a_share_near_a_limit_gets_one_digit_more_and_no_other_number_does():
    assert number(0.9996, 1, factor=100.0) == "99.96" and number(0.0004, 1, factor=100.0) == "0.04"
    assert percent(0.004) == "0.4\u00a0%" and percent(0.9975) == "99.8\u00a0%" and percent(0.99) == "99\u00a0%"
    assert number(1.0, 1, factor=100.0) == "100.0" and number(0.0, 1, factor=100.0) == "0.0"
    assert number(-0.0004, 1, factor=100.0, signed=True) == "0.0" and number(0.0004, 1, factor=1.0) == "0.0"
