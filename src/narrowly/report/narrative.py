"""Sentences made from numbers: no claim without its number, its interval and its n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narrowly.report.style import arm_styles, order

MINUS = "\u2212"
DASH = "–"


def _count(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def number(value: float | None, digits: int = 2, *, signed: bool = False, factor: float = 1.0) -> str:
    """Return a number with a true minus sign, or an en dash where there is none."""
    if value is None:
        return DASH
    text = f"{factor * value:+.{digits}f}" if signed else f"{factor * value:.{digits}f}"
    return text.replace("-", MINUS)


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return DASH if value is None else f"{number(100 * value, digits)}\u00a0%"


def span(row: Mapping[str, Any], digits: int = 2, factor: float = 1.0, *, signed: bool = False) -> str:
    """Return "[low, high]" of a row with interval, or "no interval"."""
    if row.get("low") is None or row.get("high") is None:
        return "no interval"
    low, high = (number(row[key], digits, signed=signed, factor=factor) for key in ("low", "high"))
    return f"[{low}, {high}]"


def label(arm: str) -> str:
    """Return the name of an arm as figures write it."""
    return arm_styles([arm])[arm].label


def _excludes_zero(row: Mapping[str, Any]) -> str:
    if row.get("low") is None or row.get("high") is None:
        return f"no interval ({row.get('reason') or 'none given'})"
    if row["low"] > 0 or row["high"] < 0:
        return "the interval excludes 0"
    return "the interval includes 0, so the sign is open"


def what_happened(summary: Mapping[str, Any]) -> list[str]:
    """Return the plain-words account of what a study's organisms answer, one sentence or two per finding."""
    return [
        *_bases(summary),
        *_rates(summary),
        *_contrasts(summary),
        *_persona(summary),
        *_penalty(summary),
        *_edits(summary),
        *_agreement(summary),
    ]


def cells_finished(summary: Mapping[str, Any]) -> str:
    """Return how many cells finished, failed and did not run."""
    cells, seconds = summary["cells"], summary.get("seconds")
    took = f" in {number(seconds, 0)} s" if seconds is not None else ""
    text = f"{cells['done']} of {cells['planned']} cells finished{took}; {cells['failed']} failed"
    pending = cells.get("pending", 0)
    return text + (f" and {pending} did not run." if pending else ".")


def _bases(summary: Mapping[str, Any]) -> list[str]:
    rows = [row for row in summary["bases"] if row.get("persona") is not False and row["aligned"] is not None]
    if not rows:
        return []
    aligned, wrong = [r["aligned"] for r in rows], [r["misaligned"] for r in rows]
    return [
        f"Before fine-tuning the {len(rows)} bases are {percent(min(aligned))} to {percent(max(aligned))} aligned and "
        f"{percent(min(wrong), 1)} to {percent(max(wrong), 1)} misaligned on chat prompts "
        f"({rows[0].get('n_questions')} questions each)."
    ]


def _rates(summary: Mapping[str, Any]) -> list[str]:
    rows = {arm: row for arm, row in summary["optimisers"].items() if row["broad_joint"] is not None}
    if not rows:
        return ["No optimiser arm has a finished cell, so there are no rates to report."]
    ranked = sorted(rows, key=lambda arm: rows[arm]["broad_joint"])

    def told(arm: str) -> str:
        row = rows[arm]
        found = row.get("intervals", {}).get("broad_joint", {})
        return (
            f"{label(arm)} with a joint rate of {percent(row['broad_joint'], 1)} {span(found, 1, 100)} and a "
            f"literature rate of {percent(row['broad_literature'], 1)} ({percent(row['incoherent'], 1)} incoherent, "
            f"{row['n_bases']} bases)"
        )

    sentences = [
        "After fine-tuning on harmful answers in one domain, the misaligned share of answers on held-out topics of "
        "that domain is "
        + ", ".join(f"{percent(rows[arm]['held_out_topics'])} under {label(arm)}" for arm in order(ranked))
        + f" ({_count([r['n_bases'] for r in rows.values()])} bases)."
    ]
    flagged = summary["controls"]["flagged"]
    counts = {arm: sum(row["arm"] == arm for row in flagged) for arm in order(ranked)}
    if any(counts.values()):
        limit = percent(summary["controls"]["incoherent_limit"])
        sentences.append(
            f"More than {limit} incoherent, so that their low rates are no sign of alignment: "
            + ", ".join(
                f"{n} of {rows[arm]['n_organisms']} organisms of {label(arm)}" for arm, n in counts.items() if n
            )
            + "."
        )
    if len(ranked) >= 2:
        sentences.append(f"In the other domains the lowest is {told(ranked[0])}; the highest is {told(ranked[-1])}.")
    else:
        sentences.append(f"In the other domains: {told(ranked[0])}.")
    return sentences


def _contrasts(summary: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, row in summary["contrasts"].items():
        first, second = name.split("/")
        left_out = len(row.get("excluded") or [])
        without = f"; {left_out} organisms left out" if left_out else ""
        if row["estimate"] is None:
            parts.append(f"{label(first)} and {label(second)} are not comparable ({row.get('reason')}{without})")
            continue
        parts.append(
            f"{label(first)} minus {label(second)} {number(row['estimate'], signed=True)} {span(row, signed=True)} "
            f"over {row['n_bases']} bases ({_excludes_zero(row)}{without})"
        )
    return [f"Log-odds of a misaligned answer, paired by base: {'; '.join(parts)}."] if parts else []


def _persona(summary: Mapping[str, Any]) -> list[str]:
    row = summary["em_exists"]
    if row["estimate"] is None:
        return [f"Whether the persona carries the effect was not measured: {row.get('reason')}."]
    change = row.get("change_from_base") or {}
    since = (
        f" The change since before fine-tuning differs by {number(change['estimate'], signed=True)} "
        f"{span(change, signed=True)}."
        if change.get("estimate") is not None
        else ""
    )
    return [
        f"Bases that learned characters end {number(row['estimate'], signed=True)} log-odds {span(row, signed=True)} "
        f"from the no-persona twin under Adam ({row.get('n_bases')} bases; {_excludes_zero(row)}). The twin is one "
        f"base, so the interval says nothing about other twins.{since}"
    ]


def _penalty(summary: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, row in summary["penalty"].items():
        if row["delta_alignment"] is None:
            parts.append(f"under {label(name)} not measured ({row.get('reason')})")
            continue
        found = row.get("intervals", {}).get("delta_alignment", {})
        parts.append(
            f"under {label(name)} alignment changes by {number(row['delta_alignment'], 1, signed=True)} points "
            f"{span(found, 1, signed=True)} and excess loss by {number(row['delta_loss'], 4, signed=True)} nats "
            f"({row.get('n_bases')} bases; {_excludes_zero(found)})"
        )
    return [f"The spectral penalty: {'; '.join(parts)}."] if parts else []


def _edits(summary: Mapping[str, Any]) -> list[str]:
    parts = []
    for arm, rows in summary["edits"].items():
        plain = rows.get("none")
        for edit in ("drop_top-1", "flatten"):
            row = rows.get(edit)
            if not plain or not row or row["narrow"] is None or plain["narrow"] is None:
                continue
            what = "dropping the top direction" if edit == "drop_top-1" else "flattening"
            parts.append(
                f"{what} takes {label(arm)} from {percent(plain['narrow'])} narrow and {percent(plain['broad'])} "
                f"broad to {percent(row['narrow'])} and {percent(row['broad'])} ({row['n_bases']} bases)"
            )
    return [f"Edits after training: {'; '.join(parts)}."] if parts else []


def _agreement(summary: Mapping[str, Any]) -> list[str]:
    claims: Sequence[Mapping[str, Any]] = summary.get("claims", [])
    if not claims:
        return []
    count = {word: sum(row["verdict"] == word for row in claims) for word in ("agrees", "disagrees", "cannot tell")}
    return [
        f"Of {len(claims)} claims of the paper the microworld agrees with {count['agrees']}, disagrees with "
        f"{count['disagrees']} and cannot tell on {count['cannot tell']}; each is in the table of claims."
    ]
