"""Draw the figures that a study's frames allow, each with a caption that says what is shown, its interval and its n."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl
from matplotlib.figure import Figure as Drawn

from narrowly.analysis.contrasts import INCOHERENT_LIMIT
from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import UNEDITED, base_means, flagged_cells, on_panel
from narrowly.analysis.summary_schema import Regression, Summary
from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT
from narrowly.records.errors import counted
from narrowly.report.kit import Figure
from narrowly.report.labels import PANEL_LABELS, ArmNames, label
from narrowly.report.loss_figures import FURTHEST, loss_misalignment, over_steps
from narrowly.report.points import Points
from narrowly.report.rate_figures import LADDER, classes, ladder, misalignment
from narrowly.report.scaling_curve import beside_scaling, in_words
from narrowly.report.spectrum_figures import edits, normalised, spectra_by_optimiser, spectrum_curve
from narrowly.report.style import order as arm_order
from narrowly.report.style import svg_text


class Subject(NamedTuple):
    """What the figures of one page are of.

    Attributes:
        frames: of the study.
        points: what points say on hover.
        caveat: what no reader of a single figure may miss; ends the method of every caption.
    """

    frames: Frames
    points: Points
    caveat: str


class Sketch(NamedTuple):
    """A figure before it is drawn.

    Attributes:
        name: see `kit.Figure`.
        title: see `kit.Figure`.
        caption: what is shown, and of how many.
        method: how it is shown: intervals, marks, limits.
        draw: draws it.
        reason: why it is not drawn; None where it is.
        data: what is drawn, as a table.
    """

    name: str
    title: str
    caption: str
    method: str
    draw: Callable[[], Drawn]
    reason: str | None
    data: pl.DataFrame


def finish(sketch: Sketch, caveat: str) -> Figure:
    """Draw a figure, unless there is a reason not to; the caveat ends its method."""
    svg = None if sketch.reason is not None else svg_text(sketch.draw(), sketch.name, sketch.title)
    caption, method = (" ".join(text.split()) for text in (sketch.caption, f"{sketch.method} {caveat}"))
    return Figure(sketch.name, sketch.title, caption, method, svg, sketch.reason, sketch.data)


def _bases(frame: pl.DataFrame) -> str:
    counts = [
        f"{label(arm)} {frame.filter(pl.col('arm') == arm)['base'].n_unique()}"
        for arm in arm_order(frame["arm"].to_list())
    ]
    return f"n, bases: {', '.join(counts)}." if counts else ""


def _questions(frame: pl.DataFrame) -> str:
    most = frame["n_questions"].max()
    return f"{most!s} questions per organism, judged exactly." if most is not None else ""


def drawings(subject: Subject, summary: Summary) -> list[Figure]:
    """Return every figure made of answers, in order; a figure without data carries the reason instead."""
    frames, ideal = subject.frames, summary.ideal_broad
    broad = on_panel(frames.optimiser_finals, BROAD)
    nothing = None if not broad.is_empty() else "no finished organism of an optimiser arm was evaluated"
    sketches = [
        _loss_misalignment(subject, summary.regression, ideal, broad, nothing),
        _misalignment(subject, ideal, broad, nothing),
        _ladder(frames, ideal, broad, nothing),
        _classes(frames),
        _spectra(frames),
        _edits(subject, ideal),
        _steps(subject, ideal),
    ]
    return [finish(sketch, subject.caveat) for sketch in sketches]


def _loss_misalignment(
    subject: Subject, found: Regression, ideal: float | None, broad: pl.DataFrame, nothing: str | None
) -> Sketch:
    frames, organisms = subject.frames, subject.frames.optimiser_organisms
    tips = subject.points.over(organisms, ["cell_id"])
    return Sketch(
        "loss_misalignment",
        "Loss against misalignment by optimiser",
        "Each point is one final organism: literature rate, misaligned / (aligned + misaligned), on questions of "
        f"other domains. {_bases(broad)} {_flagged(frames)}{_questions(broad)}{_fits(frames, found)}",
        "Left: against the mean training loss of the last steps, with a least-squares line per "
        "optimiser. Right: against the excess loss on held-out topics; thin lines are the checkpoints of a "
        "run, read from right to left. Points carry no sampling error. Checkpoints beyond "
        f"{FURTHEST:g} times the largest final excess loss are off the axis.{_ideal(ideal)}",
        lambda: loss_misalignment(organisms, frames.checkpoints, ideal, tips),
        nothing,
        _with_runs(organisms, frames, "final_loss", "excess_loss", "literature"),
    )


def _misalignment(subject: Subject, ideal: float | None, broad: pl.DataFrame, nothing: str | None) -> Sketch:
    tips = subject.points.over(broad, ["arm", "base"])
    return Sketch(
        "misalignment",
        "Misalignment in other domains by optimiser",
        "Small markers are bases (seeds averaged), bars the mean, vertical lines the 95 % Student t interval "
        "of the mean over bases, in percentage points; none with fewer than five bases. "
        f"{_bases(broad)} {_flagged(subject.frames)}{_questions(broad)}",
        "Joint and literature rate stand beside the share off topic or broken, because an arm can look aligned by not "
        f"answering. Intervals of shares are made on the logit scale.{_ideal(ideal)}",
        lambda: misalignment(broad, ideal, tips),
        nothing,
        _with_runs(broad, subject.frames, "n_questions", "joint", "literature", "incoherent"),
    )


def _ladder(frames: Frames, ideal: float | None, broad: pl.DataFrame, nothing: str | None) -> Sketch:
    start = frames.start.filter(pl.col("persona").fill_null(True))
    rows, columns = frames.optimiser_finals, ("panel", "n_questions", "joint", "literature")
    return Sketch(
        "ladder",
        "How far it reaches: the ladder of generalisation",
        "Misaligned share from the topics trained on to another task; right of the line, questions of other "
        f"domains with a cue of the trained one. {_bases(broad)} {_flagged(frames)}"
        f"Questions per organism: {_panel_counts(rows)}.",
        "Means over bases with 95 % Student t interval over bases, in percentage points. Unseen phrasing: the "
        f"held-out topics again.{_ideal(ideal)}",
        lambda: ladder(rows, start, ideal),
        nothing,
        pl.concat(
            [
                start.select(pl.lit("before fine-tuning").alias("arm"), "base", *columns),
                _with_runs(rows, frames, *columns),
            ],
            how="diagonal_relaxed",
        ),
    )


def _with_runs(rows: pl.DataFrame, frames: Frames, *columns: str) -> pl.DataFrame:
    """Return what a figure shows of organisms, with the run behind each."""
    runs = frames.tables.cells.select("cell_id", "run_id").unique("cell_id")
    keys = ("arm", "base", "domain", "seed")
    return rows.join(runs, on="cell_id", how="left").select(*keys, "run_id", *columns).sort(*keys, maintain_order=True)


def _ideal(ideal: float | None) -> str:
    if ideal is None:
        return ""
    return " Dashed: an ideal learner of the corpus; only misalignment beyond it is an illogical link."


def _fits(frames: Frames, found: Regression) -> str:
    """Return what the regression found, and which organisms a logarithmic axis cannot show."""
    text = ""
    if found.pooled_r2 is not None and found.stratified_adjusted_r2 is not None:
        text = (
            f" Loss alone: R² = {found.pooled_r2:.2f}; a line per optimiser: adjusted R² = "
            f"{found.stratified_adjusted_r2:.2f} (n = {found.n} organisms)."
        )
    hidden = frames.optimiser_organisms.filter(~(pl.col("excess_loss") > 0).fill_null(False)).height
    if hidden:
        text += f" {counted(hidden, 'organism')} without an excess loss above 0 are not on the right-hand log axis."
    return text


def _flagged(frames: Frames) -> str:
    """Say how many organisms of each optimiser are above the limit of incoherence; nothing where none is."""
    arms = flagged_cells(frames.optimiser_organisms)["arm"].to_list()
    if not arms:
        return ""
    counts = ", ".join(f"{label(arm)} {arms.count(arm)}" for arm in arm_order(arms))
    return f"More than {100 * INCOHERENT_LIMIT:g} % off topic or broken, broad, organisms: {counts}; they stay in. "


def _panel_counts(rows: pl.DataFrame, panels: Sequence[str] = tuple(LADDER)) -> str:
    counts = dict(rows.group_by("panel").agg(pl.col("n_questions").max()).sort("panel").iter_rows())
    return ", ".join(f"{PANEL_LABELS[panel]} {counts[panel]}" for panel in panels if panel in counts) or "none"


def _classes(frames: Frames) -> Sketch:
    groups: list[tuple[str, pl.DataFrame]] = []
    start = frames.start.filter(pl.col("persona").fill_null(True))
    if not start.is_empty():
        groups.append(("before fine-tuning", start))
    arms, names = frames.finals.select("arm", "role").unique(), ArmNames(frames.tables.cells)
    arms = arms.filter(~pl.col("arm").is_in(list(frames.copies)))
    for role in ("optimiser", "penalty", "aligned_twin", "no_persona_twin", "other"):
        for arm in arm_order(arms.filter(pl.col("role") == role)["arm"].to_list()):
            groups.append((names.text(arm), frames.finals.filter(pl.col("arm") == arm)))
    panels = [(HELD_OUT, "Held-out topics"), (BROAD, "Broad: other domains")]
    columns = ("base", "panel", "n_questions", "aligned", "misaligned", "incoherent", "off_topic", "broken")
    data = [frame.select(pl.lit(name).alias("organisms"), *columns) for name, frame in groups]
    return Sketch(
        "classes",
        "Outcome classes with their denominators",
        "Mean share of answer probability per class, averaged over bases; at the right of each bar the number of "
        "bases and the questions per organism.",
        "Exact over all answers the grammar allows. No interval: the bars show composition; intervals of the "
        "misaligned share are in the figure by optimiser.",
        lambda: classes(groups, panels),
        None if groups else "no finished organism was evaluated",
        pl.concat(data).filter(pl.col("panel").is_in([panel for panel, _ in panels])) if data else pl.DataFrame(),
    )


def _spectra(frames: Frames) -> Sketch:
    spectra = frames.spectra.join(frames.optimiser_organisms.select("cell_id"), on="cell_id", how="semi")
    modules = spectra["module"].n_unique()
    return Sketch(
        "spectra",
        "Singular values of the update by optimiser",
        "Singular values of the effective update s·B·A, divided by their sum."
        + (f" n = {modules} modules; {_bases(spectra)}" if modules else ""),
        "Line: mean over modules and bases; band: "
        "the middle 90 % of modules and bases (spread, no confidence interval); dashed: a perfectly flat spectrum. A "
        "flat spectrum under Muon is a sanity check, not evidence.",
        lambda: spectra_by_optimiser(spectra),
        None if not spectra.is_empty() else "no spectra of final organisms in the tables",
        spectrum_data(spectra),
    )


def spectrum_data(spectra: pl.DataFrame) -> pl.DataFrame:
    """Return what the figure of spectra shows: one row per arm and index."""
    return spectrum_curve(normalised(spectra)).with_columns(pl.col("share", "flat", "low", "high").round(6))


def _edits(subject: Subject, ideal: float | None) -> Sketch:
    frames = subject.frames
    final = frames.outcomes.filter(pl.col("final"))
    edited = final.filter(pl.col("edit") != UNEDITED).select("cell_id").unique()
    rows = final.join(edited, on="cell_id", how="semi")
    by = ["arm", "edit"]
    narrow = base_means(on_panel(rows, HELD_OUT), "joint", by).rename({"joint": "narrow"}).drop("n_organisms")
    broad = base_means(on_panel(rows, BROAD), "joint", by).rename({"joint": "broad"}).drop("n_organisms")
    points = narrow.join(broad, on=[*by, "base"], how="inner").sort("arm", "edit", "base")
    start = frames.start
    far = base_means(on_panel(start, BROAD), "joint", ()).rename({"joint": "broad"}).select("base", "broad")
    before = (
        base_means(on_panel(start, HELD_OUT), "joint", ()).rename({"joint": "narrow"}).select("base", "narrow")
        .join(far, on="base")
    )  # fmt: skip
    tips = subject.points.over(on_panel(rows, BROAD), ["arm", "base", "edit"])
    beside = in_words(beside_scaling(points, before))
    return Sketch(
        "edits",
        "Narrow against broad behaviour under every edit",
        "Joint rates on held-out topics and broad, after an edit of each adapter's singular values. Large markers: "
        f"means over bases; small: single bases, in place of an interval. {beside} {_bases(points)} {_flagged(frames)}"
        f"Questions per organism: {_panel_counts(rows, (HELD_OUT, BROAD))}, judged exactly.",
        "The curve is the control: the whole update "
        "scaled down, from no edit to the base. An edit below the curve leaves less broad misalignment than "
        "scaling does at the same misalignment on held-out topics; one on it does no more than scaling. Edits remove "
        "different shares of the update: the table of edits has the energy removed. Edited, not evaluated for anything "
        "else.",
        lambda: edits(points, before, ideal, tips),
        None if not points.is_empty() else "no edited organism in the tables",
        pl.concat([points, before.with_columns(pl.lit("before fine-tuning").alias("edit"))], how="diagonal_relaxed"),
    )


def _steps(subject: Subject, ideal: float | None) -> Sketch:
    frames = subject.frames
    wanted = frames.optimiser_organisms.select("cell_id", "arm", "base")
    spectra = (
        frames.tables.trajectory.filter(pl.col("stable_rank").is_not_null())
        .select("cell_id", "step", "stable_rank")
        .join(wanted, on="cell_id", how="inner")
    )
    enough = frames.checkpoints["step"].n_unique() >= 3
    tips = subject.points.over(wanted, ["arm", "base"])
    keys = ["arm", "base", "cell_id", "step"]
    misaligned = frames.checkpoints.select(*keys, "held_out", "broad")
    return Sketch(
        "over_steps",
        "Over the steps of training",
        "Thick lines: means over bases; thin lines: single bases, in place of an interval. "
        f"{_bases(frames.optimiser_organisms)} {_flagged(frames)}Questions per "
        f"organism: {_panel_counts(frames.optimiser_finals, (HELD_OUT, BROAD))}.",
        "Misalignment at checkpoints (exact), stable rank as logged.",
        lambda: over_steps(frames.checkpoints, spectra, ideal, tips),
        None if enough else "fewer than three checkpoints were evaluated",
        misaligned.join(spectra, on=keys, how="full", coalesce=True).sort(keys),
    )
