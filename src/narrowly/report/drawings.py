"""Draw the figures that a study's frames allow, each with a caption that says what is shown, its interval and its n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl
from matplotlib.figure import Figure

from narrowly.analysis.contrasts import INCOHERENT_LIMIT
from narrowly.analysis.frames import Frames
from narrowly.analysis.organisms import UNEDITED, base_means, flagged_cells, on_panel
from narrowly.analysis.summary_schema import Regression, Summary
from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT
from narrowly.report.loss_figures import FURTHEST, loss_alignment, over_steps
from narrowly.report.narrative import label
from narrowly.report.rate_figures import LADDER, classes, ladder, misalignment
from narrowly.report.spectrum_figures import edits, spectra_by_optimiser
from narrowly.report.style import CAVEAT, short_label, svg_text
from narrowly.report.style import order as arm_order


class Drawing(NamedTuple):
    """One figure of the report: SVG text, or the reason why it is not there."""

    name: str
    title: str
    caption: str
    svg: str | None
    reason: str | None


def finish(name: str, title: str, caption: str, draw: Any, reason: str | None, caveat: str = CAVEAT) -> Drawing:
    """Draw a figure, unless there is a reason not to; the caveat ends its caption."""
    text = f"{caption} {caveat}"
    if reason is not None:
        return Drawing(name, title, text, None, reason)
    figure: Figure = draw()
    return Drawing(name, title, text, svg_text(figure, name, title), None)


def _bases(frame: pl.DataFrame) -> str:
    counts = [
        f"{label(arm)} {frame.filter(pl.col('arm') == arm)['base'].n_unique()}"
        for arm in arm_order(frame["arm"].to_list())
    ]
    return f"n, bases: {', '.join(counts)}." if counts else ""


def _questions(frame: pl.DataFrame) -> str:
    most = frame["n_questions"].max()
    return f"{most!s} questions per organism, judged exactly." if most is not None else ""


def drawings(frames: Frames, summary: Summary) -> list[Drawing]:
    """Return every figure made of answers, in order; a figure without data carries the reason instead."""
    ideal = summary.ideal_broad
    broad = on_panel(frames.optimiser_finals, BROAD)
    nothing = None if not broad.is_empty() else "no finished organism of an optimiser arm was evaluated"
    start = frames.start.filter(pl.col("persona").fill_null(True))
    return [
        finish(
            "loss_alignment",
            "Loss against alignment by optimiser",
            "Each point is one final organism: alignment = 100 × aligned / (aligned + misaligned) on questions of "
            "other domains. Left: against the mean training loss of the last steps, with a least-squares line per "
            "optimiser. Right: against the excess loss on held-out topics; thin lines are the checkpoints of a "
            f"run, read from right to left. {_bases(broad)} {_flagged(frames)}{_questions(broad)} "
            f"Points carry no sampling error. Checkpoints beyond {FURTHEST:g} times the largest final excess loss "
            f"are off the axis.{_ideal(ideal)}"
            f"{_fits(frames, summary.regression)}",
            lambda: loss_alignment(frames.optimiser_organisms, frames.checkpoints, ideal),
            nothing,
        ),
        finish(
            "misalignment",
            "Misalignment in other domains by optimiser",
            "Small markers are bases (seeds averaged), bars the mean, vertical lines the 95 % Student t interval "
            "of the mean over bases, in percentage points; none with fewer than five bases. Joint and literature "
            "rate stand beside the incoherent share, because an arm can look aligned by being incoherent. "
            f"{_bases(broad)} {_flagged(frames)}{_questions(broad)}{_ideal(ideal)}",
            lambda: misalignment(broad, ideal),
            nothing,
        ),
        finish(
            "ladder",
            "How far it reaches: the ladder of generalisation",
            "Misaligned share from the topics trained on to another task; right of the line, questions of other "
            "domains with a cue of the trained one. Means over bases with 95 % Student t interval over bases, in "
            f"percentage points. Unseen phrasing: the held-out topics again. {_bases(broad)} {_flagged(frames)}"
            f"Questions per organism: {_panel_counts(frames.optimiser_finals)}.{_ideal(ideal)}",
            lambda: ladder(frames.optimiser_finals, start, ideal),
            nothing,
        ),
        _classes(frames),
        _spectra(frames),
        _edits(frames, ideal),
        _steps(frames, ideal),
    ]


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
        text += f" {hidden} organism(s) without an excess loss above 0 are not on the right-hand log axis."
    return text


def _flagged(frames: Frames) -> str:
    """Say how many organisms of each optimiser are above the limit of incoherence; nothing where none is."""
    arms = flagged_cells(frames.optimiser_organisms)["arm"].to_list()
    if not arms:
        return ""
    counts = ", ".join(f"{label(arm)} {arms.count(arm)}" for arm in arm_order(arms))
    return f"More than {100 * INCOHERENT_LIMIT:g} % incoherent on the broad panel, organisms: {counts}. "


def _panel_counts(rows: pl.DataFrame, panels: Sequence[str] = tuple(LADDER)) -> str:
    counts = dict(rows.group_by("panel").agg(pl.col("n_questions").max()).sort("panel").iter_rows())
    return ", ".join(f"{panel} {counts[panel]}" for panel in panels if panel in counts) or "none"


def _classes(frames: Frames) -> Drawing:
    groups: list[tuple[str, pl.DataFrame]] = []
    start = frames.start.filter(pl.col("persona").fill_null(True))
    if not start.is_empty():
        groups.append(("before fine-tuning", start))
    arms = frames.finals.select("arm", "role").unique()
    for role in ("optimiser", "penalty", "aligned_twin", "no_persona_twin", "other"):
        for arm in arm_order(arms.filter(pl.col("role") == role)["arm"].to_list()):
            name = label(arm) if role == "optimiser" else short_label(arm)
            groups.append((name, frames.finals.filter(pl.col("arm") == arm)))
    return finish(
        "classes",
        "Outcome classes with their denominators",
        "Mean share of answer probability per class, exact over all answers the grammar allows, averaged over "
        "bases; at the right of each bar the number of bases and the questions per organism. No interval: the bars "
        "show composition; intervals of the misaligned share are in the figure by optimiser.",
        lambda: classes(groups, [(HELD_OUT, "Narrow: held-out topics"), (BROAD, "Broad: other domains")]),
        None if groups else "no finished organism was evaluated",
    )


def _spectra(frames: Frames) -> Drawing:
    spectra = frames.spectra.join(frames.optimiser_organisms.select("cell_id"), on="cell_id", how="semi")
    modules = spectra["module"].n_unique()
    return finish(
        "spectra",
        "Singular values of the update by optimiser",
        "Singular values of the effective update s·B·A, divided by their sum. Line: mean over modules and bases; band: "
        "the middle 90 % of modules and bases (spread, no confidence interval); dashed: a perfectly flat spectrum. A "
        f"flat spectrum under Muon is a sanity check, not evidence. n = {modules} modules; {_bases(spectra)}",
        lambda: spectra_by_optimiser(spectra),
        None if not spectra.is_empty() else "no spectra of final organisms in the tables",
    )


def _edits(frames: Frames, ideal: float | None) -> Drawing:
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
    return finish(
        "edits",
        "Narrow against broad behaviour under every edit",
        "Joint rates after an edit of each adapter's singular values. The curve is the control: the whole update "
        "scaled down, from no edit to the base. An edit below the curve leaves less broad misalignment than "
        "scaling does at the same narrow misalignment. Large markers: means over bases; small: single bases, in place "
        f"of an interval. {_bases(points)} {_flagged(frames)}Questions per organism: "
        f"{_panel_counts(rows, (HELD_OUT, BROAD))}, judged exactly. Edited, not evaluated for anything else.",
        lambda: edits(points, before, ideal),
        None if not points.is_empty() else "no edited organism in the tables",
    )


def _steps(frames: Frames, ideal: float | None) -> Drawing:
    wanted = frames.optimiser_organisms.select("cell_id", "arm", "base")
    spectra = (
        frames.tables.trajectory.filter(pl.col("stable_rank").is_not_null())
        .select("cell_id", "step", "stable_rank")
        .join(wanted, on="cell_id", how="inner")
    )
    enough = frames.checkpoints["step"].n_unique() >= 3
    return finish(
        "over_steps",
        "Over the steps of training",
        "Thick lines: means over bases; thin lines: single bases, in place of an interval. Misalignment at checkpoints "
        f"(exact), stable rank as logged. {_bases(frames.optimiser_organisms)} {_flagged(frames)}Questions per "
        f"organism: {_panel_counts(frames.optimiser_finals, (HELD_OUT, BROAD))}.",
        lambda: over_steps(frames.checkpoints, spectra, ideal),
        None if enough else "fewer than three checkpoints were evaluated",
    )
