import polars as pl
import pytest
from matplotlib.colors import to_hex

from narrowly.analysis.frames import gather_frames
from narrowly.analysis.organisms import on_panel
from narrowly.analysis.tables import SCHEMAS, Tables, conform
from narrowly.report import loss_figures, rate_figures, spectrum_figures
from narrowly.report.scaling_curve import beside_scaling, in_words
from narrowly.report.style import FIXED, arm_styles, order, svg_text
from synthetic import make_tables


@pytest.fixture(scope="module")
def tables():
    frames = make_tables(n_bases=5)
    return Tables(**{name: conform(name, frames.get(name, pl.DataFrame())) for name in SCHEMAS})


@pytest.fixture(scope="module")
def frames(tables):
    return gather_frames(tables)


def test_every_optimiser_has_one_colour_and_one_marker_of_its_own():
    assert len({style.colour for style in FIXED.values()}) == len({s.marker for s in FIXED.values()}) == 5
    assert arm_styles(["muon", "adam"])["muon"] == arm_styles(["lion", "muon", "zeta"])["muon"]


def test_unknown_arms_get_spare_styles_that_no_optimiser_has():
    spare = arm_styles(["adam", "new_a", "new_b"])
    assert spare["new_a"] != spare["new_b"]
    assert {spare["new_a"].colour, spare["new_b"].colour}.isdisjoint({s.colour for s in FIXED.values()})
    assert order(["zeta", "muon", "alpha", "sgd"]) == ["sgd", "muon", "alpha", "zeta"]


def test_the_points_of_figure_one_are_the_final_organisms(frames):
    figure = loss_figures.loss_misalignment(frames.optimiser_organisms, frames.checkpoints)
    drawn = sum(len(c.get_offsets()) for c in figure.axes[0].collections)
    assert drawn == frames.optimiser_organisms.height == 19  # 4 optimisers and a copy, 5 bases, one failed cell
    assert figure.axes[0].get_xscale() == "log"
    lion = figure.axes[0].collections[2]
    assert to_hex(lion.get_facecolor()[0]) == FIXED["lion"].colour.lower()


def test_the_ideal_line_is_drawn_where_it_is_known_and_only_there(frames):
    broad = on_panel(frames.optimiser_finals, "broad")

    def levels(figure):
        return [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]

    assert levels(rate_figures.misalignment(broad, 0.5)) == [50.0]
    assert levels(rate_figures.misalignment(broad)) == []


def test_intervals_of_shares_stay_within_the_axis_where_a_plain_one_would_not(frames):
    """F16."""
    shares = [0.002, 0.004, 0.15, 0.06, 0.003, 0.02, 0.01, 0.03]
    rows = pl.DataFrame(
        {
            "arm": "adam",
            "base": [f"b{i}" for i in range(8)],
            "joint": shares,
            "literature": shares,
            "incoherent": shares,
        }
    )
    figure = rate_figures.misalignment(rows)
    spans = [line.get_ydata() for line in figure.axes[0].lines if line.get_linewidth() == 1.3]
    assert len(spans) == 1 and 0 < spans[0][0] < 100 * sum(shares) / 8 < spans[0][1] < 100


def test_stacked_classes_fill_the_whole_bar(frames):
    figure = rate_figures.classes([("adam", frames.finals.filter(pl.col("arm") == "adam"))], [("broad", "Broad")])
    assert sum(patch.get_width() for patch in figure.axes[0].patches) == pytest.approx(100)


def test_off_topic_and_broken_answers_are_two_classes_where_every_table_has_the_split(frames):
    """F10: two thirds of what was called incoherent are well-formed answers about another topic."""
    whole = frames.finals.filter(pl.col("arm") == "muon")
    split = whole.with_columns(off_topic=pl.col("incoherent") * 0.75, broken=pl.col("incoherent") * 0.25)

    def drawn(*groups):
        figure = rate_figures.classes(list(groups), [("broad", "Broad")])
        assert sum(patch.get_width() for patch in figure.axes[0].patches) == pytest.approx(100 * len(groups))
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert drawn(("new", split)) == ["aligned", "misaligned", "off topic", "broken"]
    assert drawn(("new", split), ("old", whole)) == ["aligned", "misaligned", "off topic or broken"]


def test_normalised_spectra_sum_to_one_per_module(tables):
    shares = spectrum_figures.normalised(tables.spectra.filter((pl.col("arm") == "muon") & (pl.col("edit") == "none")))
    sums = shares.group_by("base", "module").agg(pl.col("share").sum())["share"]
    assert sums.to_numpy() == pytest.approx(1.0)
    assert shares["index"].min() == 1 and shares["index"].max() == 8


def test_dollar_signs_and_markup_in_names_are_drawn_as_they_are(frames):
    renamed = frames.optimiser_organisms.with_columns(pl.lit("$\\frac{<b>&--").alias("arm"))
    text = svg_text(loss_figures.loss_misalignment(renamed, frames.checkpoints.clear()), "hostile", 'a <b> "c" & d')
    assert "<b>" not in text and "<!--" not in text and 'aria-label="a &lt;b&gt; &quot;c&quot; &amp; d"' in text


def test_an_svg_has_no_date_no_doctype_and_prefixed_ids(frames):
    text = svg_text(rate_figures.misalignment(on_panel(frames.optimiser_finals, "broad")), "fig", "t")
    assert "DOCTYPE" not in text and "metadata" not in text and "20" + "26-" not in text
    assert 'id="figure_1"' not in text and 'id="fig-figure_1"' in text


def _edited(offset: float, bases: int = 6) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return edits whose broad rate is `offset` above the line broad = narrow / 2 that scaling follows."""
    rows = []
    for base in range(bases):
        top, wobble = 0.8 + 0.01 * base, 0.004 * (-1) ** base
        rows += [{"edit": "none", "narrow": top, "broad": top / 2, "base": f"b{base}"},
                 {"edit": "scale-0.5", "narrow": 0.4, "broad": 0.2, "base": f"b{base}"},
                 {"edit": "drop_top-1", "narrow": 0.5, "broad": 0.25 + offset + wobble, "base": f"b{base}"},
                 ]  # fmt: skip
    before = pl.DataFrame({"base": [f"b{base}" for base in range(bases)], "narrow": 0.0, "broad": 0.0})
    return pl.DataFrame(rows).with_columns(arm=pl.lit("adam")), before


@pytest.mark.parametrize(("offset", "words"), [(0.0, "All edits lie on"), (-0.1, "1 of 1 edit leave")])
def test_edits_are_compared_with_scaling_at_equal_held_out_misalignment(offset, words):
    found = beside_scaling(*_edited(offset))
    assert [(one.arm, one.edit, one.difference.n) for one in found] == [("adam", "drop_top-1", 6)]
    assert found[0].difference.estimate == pytest.approx(100 * offset)
    assert words in in_words(found)


def test_an_edit_beyond_the_curve_of_its_base_is_compared_with_nothing():
    points, before = _edited(0.0)
    beyond = points.with_columns(narrow=pl.when(pl.col("edit") == "drop_top-1").then(0.99).otherwise(pl.col("narrow")))
    assert beside_scaling(beyond, before)[0].difference.n == 0 and in_words(beside_scaling(beyond, before)) == ""


def test_steps_have_ticks_where_something_was_measured_and_nowhere_else(frames):
    axis = loss_figures.over_steps(frames.checkpoints, frames.spectra.clear().with_columns(step=80)).axes[0]
    ticks = set(axis.get_xticks())
    assert ticks <= set(frames.checkpoints["step"].to_list()) and {0, 80} <= ticks
