"""Arrange what the report's page says: sections of text, tables and figures, from summary and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from narrowly.analysis.frames import Frames
from narrowly.analysis.summary_schema import Summary
from narrowly.records.outcome import NO_JUDGE
from narrowly.report import answer_tables as answers
from narrowly.report import effect_tables as effects
from narrowly.report.first_screen import first_screen
from narrowly.report.glossary import GLOSSARY
from narrowly.report.kit import (
    Column,
    Definitions,
    Figure,
    Fold,
    Heading,
    Listing,
    Note,
    Page,
    Paragraph,
    Part,
    Section,
    Table,
    Words,
    code,
    named,
    number,
    percent,
    strong,
    to_section,
    words,
)
from narrowly.report.labels import ArmNames, label
from narrowly.report.narrative import cells_finished, what_happened
from narrowly.report.paired_first_screen import paired_first_screen
from narrowly.report.paired_section import GLOSSARY as PAIRED_GLOSSARY
from narrowly.report.paired_section import paired_section, paired_sentences
from narrowly.report.prereg_section import prereg_section
from narrowly.report.reach_drawings import headline, split_drawn
from narrowly.report.repeat_section import StudyFiles, arms_as_run, repeat_section
from narrowly.report.training_page import GLOSSARY as TRAINING_GLOSSARY
from narrowly.report.training_page import training_section, training_sentences
from narrowly.report.visible import shortened

DEMONSTRATION = (
    "The microworld was chosen so that emergent misalignment occurs. This page demonstrates a mechanism; it is no "
    "evidence about rates in large models."
)


def page(
    study: StudyFiles,
    frames: Frames,
    summary: Summary,
    figures: Sequence[Figure],
    training: Sequence[Figure],
    paired: Figure | None = None,
) -> Page:
    """Return the page of a study.

    Args:
        study: the study folder, and what lies in it beside the tables.
        frames: of the study.
        summary: of the study.
        figures: the figures made of answers, drawn or with a reason.
        training: the figures made of what training left, likewise.
        paired: the figure made of paired answers, where the study has some.
    """
    name = summary.study or study.folder.name
    unjudged, names = summary.not_evaluated, ArmNames(frames.tables.cells)
    judged = unjudged.cells < unjudged.planned or not unjudged.cells
    drawn, absent = split_drawn(figures)
    lead = headline(drawn) if judged else None
    sections = [Section("happened", "What happened", [Listing(_happened(summary, judged, names))])]
    if summary.prereg is not None:
        sections.append(prereg_section(summary.prereg))
    if summary.paired is not None and paired is not None:
        first = not judged and paired.svg is not None
        sections.append(paired_section(summary.paired, None if first else paired, names))
    if unjudged.cells:
        sections.append(training_section(frames.runs, summary, training, names, judged))
    if judged:
        sections.insert(0, first_screen(summary, lead))
        rest = [figure for figure in drawn if figure is not lead]
        sections += _answered(frames, summary, rest, absent, names)
    else:
        if summary.paired is not None and paired is not None:
            sections.insert(0, paired_first_screen(summary, summary.paired, paired, names))
        sections.append(_unanswered(frames.tables.cells, summary, figures, names))
    sections += [
        repeat_section(study, frames.tables.cells, name, names),
        Section("glossary", "Words", [Definitions(_glossary(summary, judged))]),
    ]
    return Page(
        title=str(summary.title or study.spec.get("title") or f"Study {name}"),
        kicker=f"Narrowly · study {name}",
        sections=sections,
        notices=_notices(summary, judged),
        footer="Written by Narrowly from tidy tables. Nothing on this page says that a model is safe.",
    )


def _glossary(summary: Summary, judged: bool) -> list[tuple[Words, Words]]:
    return [
        *(GLOSSARY if judged else TRAINING_GLOSSARY),
        *(PAIRED_GLOSSARY if summary.paired is not None else ()),
    ]


def _notices(summary: Summary, judged: bool) -> list[Note]:
    unjudged = summary.not_evaluated
    notices = []
    if summary.demonstration:
        notices.append(Note(words("{} {}", strong("A demonstration."), DEMONSTRATION)))
    if not judged:
        text = (
            f"{unjudged.cells} cells are trained and nothing more. This page shows what training left and says nothing "
            "about what these models answer."
            if summary.paired is None
            else "No answer that a model writes is judged. What is measured is which of two given answers it finds "
            "likelier, against a control."
        )
        notices.append(Note(words("{} {}", strong(f"Broad alignment: {NO_JUDGE}."), text)))
    elif unjudged.cells:
        text = f"Broad alignment: {NO_JUDGE} in {unjudged.cells} of {unjudged.planned} cells"
        rest = "They have a section of their own; every rate on this page is of the other cells."
        notices.append(Note(words("{}. {}", strong(text), rest)))
    return notices


def _happened(summary: Summary, judged: bool, names: ArmNames) -> list[str]:
    """Return the account of a study: answers first, unless some cells have none, which is said before anything else."""
    training, answered = training_sentences(summary), _of_answers(summary, judged)
    account = [*training, *answered] if summary.not_evaluated.cells else [*answered, *training]
    return [cells_finished(summary), *paired_sentences(summary, names), *account]


def _of_answers(summary: Summary, judged: bool) -> list[str]:
    if not judged:
        return []
    rest = summary.not_evaluated.planned - summary.not_evaluated.cells
    which = [f"What follows is of the {rest} other cells."] if summary.not_evaluated.cells else []
    return [*which, *what_happened(summary)]


def _failed(summary: Summary, names: ArmNames) -> Part:
    cells = summary.cells
    if not cells.failures:
        return Paragraph(f"None: {cells.done} of {cells.planned} planned cells finished.")
    return Table(
        "Cells whose last attempt failed.",
        [Column("cell", kind="prose"), Column("error", kind="prose")],
        [
            [named(names.one(row.arm, row.base, row.seed), row.cell_id), shortened(row.error or "no message")]
            for row in cells.failures
        ],
    )


def _answered(
    frames: Frames, summary: Summary, figures: Sequence[Figure], absent: Sequence[Figure], names: ArmNames
) -> list[Section]:
    """Return the sections about answers, for studies that have some; the headline figure stands before them."""
    unjudged = summary.not_evaluated
    parts: list[Part] = []
    if unjudged.cells:
        text = f"The {unjudged.cells} cells that are not evaluated are in none of these figures: {NO_JUDGE}."
        parts.append(Note(text, "warning"))
    numbered = [replace(figure, title=f"{place}. {figure.title}") for place, figure in enumerate(figures, 1)]
    left_out = [Fold(f"Figures that this study has no data for ({len(absent)})", list(absent))] if absent else []
    uncounted = " The cells that are not evaluated count for no paper claim." if unjudged.cells else ""
    rules = (
        "Each verdict follows from a rule in the code; some rules were set after this study had been looked at "
        "(docs/microworld.md). A claim that the design cannot decide is not tested, with the reason. The paper’s "
        "numbers are for large language models and, except the 7-fold spread and the directions, as third parties read "
        f"them from its full text. “Agrees” means the same sign or size in this small world, no more.{uncounted}"
    )
    method = Fold("Method, and every base", _contrast_methods(summary))
    return [
        Section("optimisers", "The optimisers", _optimisers(frames, summary, names), "Optimisers"),
        Section("figures", "Figures", [*parts, *numbered, *left_out]),
        Section(
            "claims", "What the paper says, and what happened here", [Paragraph(rules), effects.claims(summary)],
            "Paper claims",
        ),
        Section(
            "contrasts", "Contrasts fixed in advance", [effects.contrasts(summary), effects.rungs(summary), method],
            "Contrasts",
        ),
        Section(
            "edits", "Penalty and edits",
            [
                effects.penalties(summary, names),
                effects.edits(summary, names),
            ],
        ),
        Section("controls", "Controls", _controls(summary, names)),
        Section("samples", "Sample answers", _samples(frames, names), "Answers"),
    ]  # fmt: skip


def _optimisers(frames: Frames, summary: Summary, names: ArmNames) -> list[Part]:
    """Return the key tables, every base, and how many organisms are flagged."""
    limit, flagged = summary.controls.incoherent_limit, summary.controls.flagged
    introduction = words("“Broad” is the share of misaligned answers in the domains that were <em>not</em> trained on.")
    parts: list[Part] = [
        Paragraph(introduction),
        answers.ladder(summary, names),
        *_copies(summary, names),
        answers.optimisers(summary, names, answers.OUTCOME_COLUMNS, "What they answer"),
        answers.optimisers(summary, names, answers.LEARNING_COLUMNS, "What they learned"),
    ]
    if not frames.optimiser_organisms.is_empty():
        parts += [Heading("Every base"), answers.per_base(frames.optimiser_organisms, names, limit)]
    if flagged:
        text = (
            "{}: more than {} of their broad answers are off topic or broken. They stay in every contrast, with bounds "
            "beside it, and are listed under {}."
        )
        count = strong(f"{len(flagged)} final organisms are flagged")
        parts.append(Note(words(text, count, percent(limit), to_section("controls", "controls")), "warning"))
    return parts


def _copies(summary: Summary, names: ArmNames) -> list[Part]:
    """Say which arms are left out of everything below, and why."""
    text = "{} is left out here and counts for no claim: its runs repeat those of {} up to a negligible weight decay."
    return [Note(words(text, names(arm), names(original))) for arm, original in summary.copies.items()]


def _contrast_methods(summary: Summary) -> list[Part]:
    parts: list[Part] = []
    for name, row in summary.contrasts.items():
        values = "; ".join(f"{base} {number(value, signed=True)}" for base, value in row.per_base.items())
        by_base = f" By base: {values}." if values else ""
        parts.append(Paragraph(words("<strong>{}.</strong> {}.{}", effects.contrast_name(name), row.method, by_base)))
        if row.excluded:
            out = [
                f"{label(one.arm)} on {one.base}, seed {one.seed}: {one.why}"
                + ("" if one.incoherent is None else f" (off topic or broken {percent(one.incoherent, 1)})")
                for one in row.excluded
            ]
            parts.append(Listing(out))
    return [
        *parts,
        Paragraph(words("<strong>Persona.</strong> {}.", summary.em_exists.method)),
        *_other_readings(summary),
    ]


def _other_readings(summary: Summary) -> list[Part]:
    """Return the organisms that the one reading with an exclusion leaves out, by contrast."""
    left = [
        f"{effects.contrast_text(name)}: {label(one.arm)} on {one.base}, {one.why}"
        for name, row in summary.contrasts.items()
        if "at_most_15_percent" in row.sensitivity
        for one in row.sensitivity["at_most_15_percent"].excluded
    ]
    return [Paragraph("Left out of the reading with the 15\u00a0% limit:"), Listing(left)] if left else []


def _controls(summary: Summary, names: ArmNames) -> list[Part]:
    found = summary.controls
    limit = percent(found.incoherent_limit)
    none = f"None: no final organism has more than {limit} of its broad answers off topic or broken."
    return [
        answers.controls(found, names),
        Heading("Under a cue of the trained domain"),
        answers.cued(found, names),
        Heading("Flagged organisms"),
        answers.flagged(found, names) if found.flagged else Paragraph(none),
        Heading("Failed cells"),
        _failed(summary, names),
    ]


def _samples(frames: Frames, names: ArmNames) -> list[Part]:
    introduction = words(
        "Written by the organisms, shown as text only, control characters made visible. One organism per arm, the "
        "first base by name; up to three answers per panel in the order they were sampled. The first base may be "
        "untypical: the counts beside each arm are over all bases, and all samples are in {}. After an earlier turn "
        "(cued_turn) nothing is sampled. The rates above come from exact probabilities, not from these.",
        code("tables/samples.parquet"),
    )
    folds: list[Part] = [*answers.samples(frames.tables, names)]
    return [Paragraph(introduction), *(folds or [Paragraph("No sampled answers in this study.")])]


def _unanswered(cells: pl.DataFrame, summary: Summary, figures: Sequence[Figure], names: ArmNames) -> Section:
    """Return the section that says what is missing where nothing is evaluated."""
    titles = [figure.title.lower() for figure in figures if figure.name != "spectra"]
    return Section(
        "answers",
        "What they answer",
        [
            Paragraph(
                "Rates, alignment, contrasts between optimisers, the claims of the paper, controls, edits and sampled "
                "answers all need a judge of a real model’s answers, which this version does not have. These figures "
                f"are not drawn for the same reason: {', '.join(titles)}."
            ),
            Table(
                "Cells by arm.",
                [Column("arm"), *answers.numbers("done / planned"), Column("broad alignment")],
                [[names(row["arm"]), f"{row['done']} / {row['planned']}", NO_JUDGE] for row in arms_as_run(cells)],
            ),
            Paragraph(
                "The runs stay as they are: a version with a judge evaluates them with the same command and trains "
                "nothing anew."
            ),
            Heading("Failed cells"),
            _failed(summary, names),
        ],
        "Answers",
    )
