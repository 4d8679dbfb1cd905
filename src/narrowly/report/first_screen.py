"""Arrange the first screen of a study's page: the headline figure, three sentences, and the strip of paper claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from narrowly.analysis.claim_rules import Verdict
from narrowly.analysis.paper_claims import ClaimVerdict
from narrowly.analysis.summary_schema import Summary
from narrowly.records.errors import counted
from narrowly.report.kit import Chip, Figure, Listing, Measured, Part, Section, Strip, number, percent, span
from narrowly.report.labels import label
from narrowly.report.style import order

VERDICTS: tuple[Verdict, ...] = ("agrees", "disagrees", "cannot tell", "not tested")
"""Verdicts of a paper claim, in the order of the strip."""

WORDS_OF_CLAIMS = {
    "em_occurs": "EM occurs", "spread": "7-fold spread", "muon_lowest": "Muon lowest", "lion_highest": "Lion highest",
    "adam_adamw_equal": "Adam equals AdamW", "lion_incoherent": "Lion incoherent", "loss_predicts": "loss predicts EM",
    "optimiser_explains_rest": "optimiser explains the rest", "optimiser_beats_loss": "optimiser beats loss",
    "muon_flattest": "Muon flattest", "penalty_adam": "penalty aligns Adam", "penalty_lion": "penalty aligns Lion",
    "penalty_muon": "penalty aligns Muon", "penalty_sgd": "penalty misaligns SGD",
    "penalty_cost": "penalty costs little",
}  # fmt: skip
"""Claims in two or three words; the whole claim is the tooltip."""


def first_screen(summary: Summary, figure: Figure | None) -> Section:
    """Return the section that a reader sees first.

    Args:
        summary: of the study.
        figure: its headline; None where nothing is drawn.
    """
    parts: list[Part] = [Listing(sentences(summary))]
    if summary.paper_claims:
        parts.append(claim_strip(summary.paper_claims))
    return Section("first", "In short", [*([] if figure is None else [figure]), *parts], "In short")


def sentences(summary: Summary) -> list[str]:
    """Return three sentences: how far harm spread, whether less broad is more than less learned, and what limits it."""
    findings = None if summary.prereg is None else summary.prereg["findings"]
    if findings is not None:
        return [_decided(findings), _rates(summary), _ideal(summary)]
    return [_rates(summary), _beyond(summary), _ideal(summary)]


def _decided(findings: Mapping[str, Any]) -> str:
    words = Counter(row["word"] for row in findings["decisions"])
    listed = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    said = " ".join(findings["conclusions"]) or "No preregistered conclusion follows."
    return f"Of {counted(sum(words.values()), 'preregistered finding')}: {listed}. {said}"


def _rates(summary: Summary) -> str:
    rows = {arm: row for arm, row in summary.optimisers.items() if row.broad_joint is not None and row.copy_of is None}
    if not rows:
        return _ladder_rates(summary)
    told = [
        f"{label(arm)} {percent(rows[arm].broad_joint, 1)}{_span(rows[arm].intervals['broad_joint'], 1, 100)}"
        for arm in order(list(rows))
    ]
    bases = {row.n_bases for row in rows.values()}
    count = counted(min(bases), "base") if len(bases) == 1 else f"{min(bases)} to {max(bases)} bases"
    several = ", means over the rates of an arm" if any(row.lr is None for row in rows.values()) else ""
    return f"Misaligned answers in domains that were never trained on: {', '.join(told)} ({count}{several})."


def _span(found: Measured, digits: int = 2, factor: float | None = None) -> str:
    """Return " [low, high]", or nothing where there is no interval; signed but for shares."""
    if found.low is None or found.high is None:
        return ""
    return f" {span(found, digits, factor or 1.0, signed=factor is None)}"


def _ladder_rates(summary: Summary) -> str:
    rows = {arm: row.misaligned["broad"] for arm, row in summary.ladder.items() if "broad" in row.misaligned}
    known = {arm: row.estimate for arm, row in rows.items() if row.estimate is not None}
    if not known:
        return "No arm has a finished and evaluated cell, so there are no rates to report."
    low, high = min(known, key=lambda arm: known[arm]), max(known, key=lambda arm: known[arm])
    return (
        f"Misaligned answers in domains that were never trained on, over {counted(len(known), 'arm')}: from "
        f"{percent(known[low], 1)} ({label(low)}) to {percent(known[high], 1)} ({label(high)})."
    )


def _beyond(summary: Summary) -> str:
    """Return the selectivity of every optimiser that has one, or that none has."""
    told, dials = [], set()
    for arm in order(list(summary.ladder)):
        found = summary.ladder[arm].selectivity
        if summary.ladder[arm].role == "optimiser" and found.estimate is not None:
            told.append(f"{label(arm)} {number(found.estimate, signed=True)}{_span(found)}")
            dials.add(found.dial)
    if not told:
        return (
            "Whether an optimiser spreads less than Adam at equal misalignment on held-out topics is not tested by "
            "this design."
        )
    pulled = (
        " Training steps begin at one base, which pulls this to 0: no proof of equality." if "step" in dials else ""
    )
    return (
        "Beyond Adam’s at equal misalignment on held-out topics of the trained domain (log-odds; below 0 spreads "
        f"less): {', '.join(told)}.{pulled}"
    )


def _ideal(summary: Summary) -> str:
    flagged, limit = len(summary.controls.flagged), percent(summary.controls.incoherent_limit)
    ideal = "The ideal learner of this study is not known"
    if summary.ideal_broad is not None:
        ideal = f"An ideal learner of the corpus would answer {percent(summary.ideal_broad, 1)} of these harmfully"
    whose = "its" if flagged == 1 else "their"
    return f"{ideal}; {counted(flagged, 'organism')} gave more than {limit} of {whose} answers off topic or broken."


def claim_strip(claims: tuple[ClaimVerdict, ...]) -> Strip:
    """Return the strip of the paper's claims, one chip each, in the order of `VERDICTS`."""
    return Strip(
        f"{counted(len(claims), 'claim')} of the paper, in this small world",
        [(word, [_chip(row) for row in claims if row.verdict == word]) for word in VERDICTS],
    )


def _chip(row: ClaimVerdict) -> Chip:
    return Chip(WORDS_OF_CLAIMS.get(row.id, row.id), row.claim, "claims")
