"""Arrange the section of a preregistered study: what was fixed, what the rules say, what was done otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrowly.report.answer_tables import numbers
from narrowly.report.kit import Column, Fold, Heading, Listing, Note, Paragraph, Part, Section, Table, code, words
from narrowly.report.kit.numbers import number

ALL_ELSE = (
    "The contrasts of this table were fixed before the first run. Everything else on this page is secondary and "
    "decides nothing."
)


SMALL = 0.1
"""Contrasts within this of 0 get one digit more."""


def prereg_section(prereg: Mapping[str, Any]) -> Section:
    """Return the section on a study's preregistration.

    Args:
        prereg: as the summary has it: hash, commit, deviations, findings, reason.
    """
    where = words("Preregistration {}, first held by commit {}.", code(prereg["hash"]), code(prereg["commit"]))
    parts: list[Part] = [Paragraph(where), Paragraph(ALL_ELSE)]
    findings = prereg["findings"]
    if findings is None:
        parts.append(Note(f"Nothing is decided: {prereg['reason']}.", "warning"))
    else:
        parts.append(_decisions(findings["decisions"]))
        parts += [Heading("What may be said"), Listing(list(findings["conclusions"]) or ["Nothing yet."])]
        if findings["secondary"]:
            parts.append(Fold("Secondary contrasts", [_secondary(findings["secondary"])]))
    told = [f"{one['date']}: {one['what']} ({one['why']})" for one in prereg["deviations"]]
    return Section("prereg", "Preregistered", [*parts, Heading("Deviations"), Listing(told or ["None."])])


def _estimate(row: Mapping[str, Any]) -> str:
    return number(row["estimate"], digits_of(row), signed=True)


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return "no interval"
    digits = digits_of(row)
    return f"[{number(row['low'], digits, signed=True)}, {number(row['high'], digits, signed=True)}]"


def digits_of(row: Mapping[str, Any]) -> int:
    """Return 2 decimal places, or 3 where estimate and interval lie within .1: margins of shares go down to .02."""
    known = [abs(row[name]) for name in ("estimate", "low", "high") if row[name] is not None]
    return 3 if known and max(known) < SMALL else 2


def _decisions(rows: list[Mapping[str, Any]]) -> Table:
    return Table(
        "What the preregistered rules say; mean over bases with 95 % t interval.",
        [Column("finding"), Column("question", kind="prose"), Column("decision"),
         *numbers("estimate", "interval", "bases"), Column("why not more", kind="prose")],
        [
            [
                row["id"], row["question"], row["word"], _estimate(row), _interval(row),
                f"{row['bases']} of {row['of_bases']}", row["reason"] or "",
            ]
            for row in rows
        ],
    )  # fmt: skip


def _secondary(rows: list[Mapping[str, Any]]) -> Table:
    return Table(
        "Secondary contrasts: p of no difference, and adjusted within the study (Benjamini and Hochberg 1995).",
        [Column("contrast"), *numbers("estimate", "interval", "bases", "p", "adjusted p")],
        [
            [
                row["id"], _estimate(row), _interval(row), f"{row['bases']} of {row['of_bases']}",
                number(row["p"], 3), number(row["p_adjusted"], 3),
            ]
            for row in rows
        ],
    )  # fmt: skip
