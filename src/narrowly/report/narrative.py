"""Make sentences from numbers: no finding without its number, its interval and its n."""

from __future__ import annotations

from narrowly.analysis.contrasts import ArmContrast
from narrowly.analysis.summary_schema import EditRow, Summary
from narrowly.records.errors import counted
from narrowly.report.effect_tables import ratio_of
from narrowly.report.kit import Measured, number, percent, span
from narrowly.report.labels import label
from narrowly.report.style import order


def _count(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return counted(low, "base") if low == high else f"{low} to {high} bases"


def _span(found: Measured, digits: int = 2) -> str:
    """Return " [low, high]" or nothing: that there is no interval, and why, is said by `_excludes_zero`."""
    return "" if found.low is None or found.high is None else f" {span(found, digits, signed=True)}"


def _excludes_zero(found: Measured, reason: str | None, n_bases: int) -> str:
    if found.low is None or found.high is None:
        why = (reason or "no reason given").removeprefix(f"{counted(n_bases, 'base')}; ")  # said just before
        return f"no interval: {why}"
    if found.low > 0 or found.high < 0:
        return "the interval excludes 0"
    return "the interval includes 0, so the sign is open"


def what_happened(summary: Summary) -> list[str]:
    """Return the plain-words account of what a study's organisms answer, one sentence or two per finding."""
    return [
        *_bases(summary),
        *_selectivity(summary),
        *_rates(summary),
        *_contrasts(summary),
        *_ideal(summary),
        *_persona(summary),
        *_penalty(summary),
        *_edits(summary),
        *_agreement(summary),
    ]


def cells_finished(summary: Summary) -> str:
    """Return how many cells finished, failed and did not run."""
    cells = summary.cells
    took = f" in {number(summary.seconds, 0)} s" if summary.seconds is not None else ""
    text = f"{cells.done} of {cells.planned} cells finished{took}; {cells.failed} failed"
    return text + (f" and {cells.pending} did not run." if cells.pending else ".")


def _bases(summary: Summary) -> list[str]:
    rows = [row for row in summary.bases if row.persona is not False and row.aligned is not None]
    if not rows:
        return []
    aligned = [row.aligned for row in rows if row.aligned is not None]
    wrong = [row.misaligned for row in rows if row.misaligned is not None]
    return [
        f"Before fine-tuning {_the_bases(len(rows))} {percent(min(aligned))} to {percent(max(aligned))} aligned and "
        f"{percent(min(wrong), 1)} to {percent(max(wrong), 1)} misaligned on chat prompts "
        f"({rows[0].n_questions} questions each)."
    ]


def _the_bases(number_of: int) -> str:
    return "the one base is" if number_of == 1 else f"the {number_of} bases are"


def _rates(summary: Summary) -> list[str]:
    rows = {arm: row for arm, row in summary.optimisers.items() if row.broad_joint is not None and row.copy_of is None}
    if not rows:
        return ["No optimiser arm has a finished cell, so there are no rates to report."]
    ranked = sorted(rows, key=lambda arm: rows[arm].broad_joint or 0.0)

    def told(arm: str) -> str:
        row = rows[arm]
        return (
            f"{label(arm)} with a joint rate of {percent(row.broad_joint, 1)} "
            f"{span(row.intervals['broad_joint'], 1, 100)} and a literature rate of {percent(row.broad_literature, 1)} "
            f"({percent(row.incoherent, 1)} off topic or broken, {counted(row.n_bases, 'base')})"
        )

    sentences = [
        "After fine-tuning on harmful answers in one domain, the misaligned share of answers on held-out topics of "
        "that domain is "
        + ", ".join(f"{percent(rows[arm].held_out_topics)} under {label(arm)}" for arm in order(ranked))
        + f" ({_count([row.n_bases for row in rows.values()])})."
    ]
    counts = {arm: sum(row.arm == arm for row in summary.controls.flagged) for arm in order(ranked)}
    if any(counts.values()):
        limit = percent(summary.controls.incoherent_limit)
        sentences.append(
            f"More than {limit} off topic or broken, so that their low rates are no sign of alignment: "
            + ", ".join(f"{n} of {rows[arm].n_organisms} organisms of {label(arm)}" for arm, n in counts.items() if n)
            + "."
        )
    if len(ranked) >= 2:
        sentences.append(f"In the other domains the lowest is {told(ranked[0])}; the highest is {told(ranked[-1])}.")
    else:
        sentences.append(f"In the other domains: {told(ranked[0])}.")
    return sentences


def _contrasts(summary: Summary) -> list[str]:
    parts = []
    for name, row in summary.contrasts.items():
        first, second = name.split("/")
        if row.estimate is None:
            parts.append(f"{label(first)} and {label(second)} are not comparable ({row.reason})")
            continue
        parts.append(
            f"{label(first)} minus {label(second)} {number(row.estimate, signed=True)}{_span(row)} "
            f"over {counted(row.n_bases, 'base')} ({_excludes_zero(row, row.reason, row.n_bases)}){_beyond(row)}"
        )
    return [f"Pooled log-odds of a misaligned answer in other domains, paired by base: {'; '.join(parts)}."]


def _beyond(row: ArmContrast) -> str:
    """Return what a contrast leaves beyond held-out topics: whether less broad is more than less learned."""
    held, beyond = row.rungs.get("held_out"), row.rungs.get("broad_minus_held_out")
    if held is None or beyond is None or held.estimate is None or beyond.estimate is None:
        return ""
    return (
        f", on held-out topics of the trained domain {number(held.estimate, signed=True)}{_span(held)}; broad minus "
        f"held-out {number(beyond.estimate, signed=True)}{_span(beyond)}"
    )


def _selectivity(summary: Summary) -> list[str]:
    """Return the primary number of every optimiser: broad beyond Adam at equal held-out log-odds."""
    arms = [arm for arm in order(list(summary.ladder)) if summary.ladder[arm].role in ("optimiser", "penalty")]
    told, untold = [], []
    for arm in arms:
        row = summary.ladder[arm]
        found = row.selectivity
        name = f"{label(row.of)} with the penalty" if row.role == "penalty" and row.of else label(arm)
        if found.estimate is None:
            untold.append(f"{name} ({found.reason})")
            continue
        where = f"{found.n_bases} of {counted(found.bases, 'base')}"
        interval = _span(found) or f", {found.verdict}: {found.reason}"
        told.append(f"{name} {number(found.estimate, signed=True)}{interval} ({where})")
    text = (
        "Selectivity, the broad pooled log-odds beyond Adam’s at equal log-odds on held-out topics (below 0 an arm "
        "spreads less than Adam where it has learned as much): "
    )
    sentences = [text + "; ".join(told) + "."] if told else []
    return sentences + ([f"Selectivity is not tested for {'; '.join(untold)}."] if untold else [])


def _ideal(summary: Summary) -> list[str]:
    """Return what an exact learner of the corpus would do: whether any of it is an illogical link."""
    if summary.ideal_broad is None:
        return []
    above = [
        label(arm)
        for arm, row in summary.optimisers.items()
        if row.broad_joint is not None and row.copy_of is None and row.broad_joint > summary.ideal_broad
    ]
    which = f"above that line: {', '.join(above)}" if above else "no optimiser lies above that line"
    return [
        f"An ideal learner of the corpus would answer {percent(summary.ideal_broad, 1)} of the broad questions "
        f"harmfully after this fine-tune; {which}."
    ]


def _persona(summary: Summary) -> list[str]:
    row = summary.em_exists
    if row.estimate is None:
        return [f"Whether the persona carries the effect was not measured: {row.reason}."]
    change = row.change_from_base
    since = (
        f" The change since before fine-tuning differs by {number(change.estimate, signed=True)} "
        f"{span(change, signed=True)}."
        if change is not None and change.estimate is not None
        else ""
    )
    return [
        f"Bases that learned characters end {number(row.estimate, signed=True)} pooled log-odds{_span(row)} "
        f"from the no-persona twin under Adam ({counted(row.n_bases, 'base')}; "
        f"{_excludes_zero(row, row.reason, row.n_bases)}). The twin is one base, "
        f"so the interval says nothing about other twins.{since}"
    ]


def _penalty(summary: Summary) -> list[str]:
    parts = []
    for name, row in summary.penalty.items():
        if row.delta_log_odds is None:
            parts.append(f"under {label(name)} not measured ({row.reason})")
            continue
        found, ratio = row.intervals["delta_log_odds"], ratio_of(row.intervals["log_norm_ratio"])
        length = f"the norm of the update is {number(ratio.estimate)} times as large" if ratio.estimate else ""
        length += f" {span(ratio)}" if ratio.low is not None else ""
        parts.append(
            f"under {label(name)} the broad log-odds of a misaligned answer change by "
            f"{number(row.delta_log_odds, signed=True)}{_span(found)} ({counted(row.n_bases, 'base')}; "
            f"{_excludes_zero(found, found.reason, row.n_bases)}), and {length or 'its norm was not measured'}"
        )
    return [f"The spectral penalty changes shape and length at once: {'; '.join(parts)}."] if parts else []


def _edits(summary: Summary) -> list[str]:
    parts = []
    for arm, rows in summary.edits.items():
        for edit, what in (("drop_top-1", "dropping the top direction"), ("flatten", "flattening")):
            parts += _edited(label(arm), what, rows.get("none"), rows.get(edit))
    return [f"Edits after training: {'; '.join(parts)}."] if parts else []


def _edited(arm: str, what: str, plain: EditRow | None, edited: EditRow | None) -> list[str]:
    if plain is None or edited is None or plain.narrow is None or edited.narrow is None:
        return []
    return [
        f"{what} takes {arm} from {percent(plain.narrow)} on held-out topics and {percent(plain.broad)} broad to "
        f"{percent(edited.narrow)} and {percent(edited.broad)} ({counted(edited.n_bases, 'base')}){_scaled(edited)}"
    ]


def _scaled(edited: EditRow) -> str:
    """Return what plain scaling leaves at the same energy removed."""
    if edited.removed_energy is None or edited.scaled_narrow is None or edited.scaled_broad is None:
        return ""
    return (
        f", where it removes {percent(edited.removed_energy)} of the energy and scaling by as much leaves "
        f"{percent(edited.scaled_narrow)} and {percent(edited.scaled_broad)}"
    )


def _agreement(summary: Summary) -> list[str]:
    claims = summary.paper_claims
    if not claims:
        return []
    count = {word: sum(row.verdict == word for row in claims) for word in
             ("agrees", "disagrees", "cannot tell", "not tested")}  # fmt: skip
    tested = len(claims) - count["not tested"]
    return [
        f"This design can test {tested} of {len(claims)} claims of the paper: it agrees with {count['agrees']}, "
        f"disagrees with {count['disagrees']} and cannot tell on {count['cannot tell']}. Each is in the table of paper "
        "claims, with the reason where it is not tested."
    ]
