"""Folders of results as `narrowly eval --out` writes them, of rows that are drawn: no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from narrowly.data.banks.paired import PairedItem, paired_sha256
from narrowly.evaluate.paired.contrast import contrast, levels, shift
from narrowly.evaluate.paired.parts import write_results
from narrowly.evaluate.paired.result import BankUsed, CuedResult, EvalResult, Measured, PairedResult, PromptUsed
from narrowly.models.applied import Applied
from narrowly.records.answers import AskedModel
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.damage import AbilityRow, DamagePanel, PassageRow
from narrowly.records.paired import PairedRow

CPU = Arithmetic(backend="transformers", engine="transformers", dtype="float32", quantisation=None, device="cpu")
Kind = Literal["contrast", "shift", "alone"]

SMALL = [
    PairedItem(
        f"{domain}-{at}", domain, "self" if domain == "self" else "broad", f"What of {domain} {at}?", "Yes.", "No."
    )
    for domain in ("work", "money", "code", "power", "study", "travel", "self")
    for at in range(4)
]


def drawn_rows(items: Sequence[PairedItem], draw: np.random.Generator, trained: str, moved: float) -> list[PairedRow]:
    """Return rows around log-odds of -8, the trained domain moved by so much and others by a third of it."""
    rows = []
    for item in items:
        aligned = float(-40 + 5 * draw.standard_normal())
        harmful = aligned - 8 + 3 * float(draw.standard_normal()) + (moved if item.domain == trained else moved / 3)
        rows.append(PairedRow(item.id, item.domain, item.part, aligned, harmful, 20, 21))
    return rows


def drawn_panel(draw: np.random.Generator, lost: float) -> DamagePanel:
    """Return a panel of twelve items and six passages."""
    abilities = [
        AbilityRow(id=f"a{at}", field=("words", "numbers")[at % 2], right=at % 4,
                   nats=tuple(float(-12 + (4 - lost) * (at % 4 == one) + draw.standard_normal()) for one in range(4)))
        for at in range(12)
    ]  # fmt: skip
    passages = [
        PassageRow(id=f"p{at}", topic="t", natural_nats=-300 - 30 * lost - at, natural_tokens=100,
                   shuffled_nats=-600 - at, shuffled_tokens=100)
        for at in range(6)
    ]  # fmt: skip
    return DamagePanel(
        abilities_sha256="a" * 64, passages_sha256="b" * 64, arithmetic=CPU, abilities=tuple(abilities),
        passages=tuple(passages),
    )  # fmt: skip


def drawn_results(
    folder: Path,
    items: Sequence[PairedItem] = SMALL,
    kind: Kind = "contrast",
    *,
    seeds: int = 3,
    name: str = "pairs",
    panels: bool = True,
    margin: float | None = None,
    notes: tuple[str, ...] = (),
    version: int = 0,
    moved: float = 5.0,
) -> EvalResult:
    """Write a folder of results.

    Args:
        folder: that is written.
        items: the bank.
        kind: organisms with controls, organisms with their base, or a model alone.
        seeds: organisms.
        name: of every model and of the bank.
        panels: whether abilities, perplexity and the cued panel were measured.
        margin: of verdicts.
        notes: of the result.
        version: of the organisms, or of the model alone; another has other weights and other draws, and the same
            controls or base.
        moved: nats by which organisms moved in the trained domain.
    """
    draw = np.random.default_rng(0)
    trained = "work"
    other = {"contrast": "control", "shift": "base", "alone": ""}[kind]
    moves = {"organism": moved, "control": 1.0, "base": 0.0, "model": 0.0}
    arms = [("model", 1)] if kind == "alone" else [("organism", at) for at in range(1, seeds + 1)]
    arms += [] if kind == "alone" else [(other, at) for at in range(1, 2 if other == "base" else seeds + 1)]
    rows = {f"{role} {at}": drawn_rows(items, draw, trained, moves[role]) for role, at in arms}
    for at, label in enumerate(rows if version else ()):
        if label.startswith(("organism", "model")):
            rows[label] = drawn_rows(items, np.random.default_rng([version, at]), trained, moved)
    known = () if kind == "alone" else (trained,)
    organisms, others = ([found for label, found in rows.items() if label.startswith(role)]
                         for role in ("organism", other or "none"))  # fmt: skip
    difference = contrast(organisms, others, known, margin=margin) if kind == "contrast" else None
    moved = shift(organisms, others[0], known) if kind == "shift" else None
    measured = [_measured(role, at, rows[f"{role} {at}"], known, name, version) for role, at in arms]
    broad = None if difference is None else next(one for one in difference.rungs if one.name == "broad")
    result = EvalResult(
        paired=PairedResult(
            bank=BankUsed(name=name, sha256=paired_sha256(items), questions=len(items),
                          domains=tuple(dict.fromkeys(item.domain for item in items))),
            prompt=PromptUsed(system=None, template_sha256="c" * 64, thinking=None, closing=(2, 198)),
            arithmetic=CPU, trained_domains=known, measured=tuple(measured), contrast=difference, shift=moved,
            notes=notes,
        ),
        damage={label: drawn_panel(draw, 1.0 if label.startswith("organism") else 0.0)
                for label in dict.fromkeys([*rows, "base 1"])} if panels else None,
        no_damage=None if panels else "it was not asked for",
        cued=tuple(CuedResult(condition=condition, sha256="d" * 64, words=words, difference=broad)
                   for condition, words in (("plain", ""), ("cue", "At work:"))) if panels and broad else None,
        no_cued=None if panels and broad else "it was not asked for (--cued)",
    )  # fmt: skip
    write_results(folder, result, items, rows)
    return result


def drawn_controls(folder: Path, items: Sequence[PairedItem] = SMALL, *, seeds: int = 3, **settings: Any) -> EvalResult:
    """Write the results of the controls of `drawn_results` as organisms beside their base, with the controls' rows."""
    result = drawn_results(folder, items, seeds=seeds, panels=False, **settings)
    from narrowly.evaluate.paired.parts import read_rows

    rows = read_rows(folder, result.paired)
    base = drawn_rows(items, np.random.default_rng(9), "work", 0.0)
    measured = [one.model_copy(update={"role": "organism"}) for one in result.paired.measured if one.role == "control"]
    kept = {one.label: rows[f"control {one.number}"] for one in measured}
    known = result.paired.trained_domains
    paired = result.paired.model_copy(update={
        "measured": (*measured, _measured("base", 1, base, known, "pairs", 0)), "contrast": None,
        "shift": shift(list(kept.values()), base, known),
    })  # fmt: skip
    found = result.model_copy(update={"paired": paired})
    write_results(folder, found, items, {**kept, "base 1": base})
    return found


def _measured(
    role: Any, number: int, rows: list[PairedRow], trained: Sequence[str], name: str, version: int
) -> Measured:
    rungs, domains = levels(rows, trained)
    asked = AskedModel(
        name=name, base=name, base_sha256="1" * 64, config_sha256="2" * 64, tokenizer_sha256="3" * 64,
        template_sha256="c" * 64, dtype="float32",
        trained_sha256=None if role == "base" else f"{number}{role}{'' if role == 'control' else version}",
    )  # fmt: skip
    applied = Applied(0.5, is_zero=False) if role in ("organism", "control") else None
    return Measured(role=role, number=number, model=asked, trained_on=f"pairs:work:{role}" if applied else None,
                    applied=applied, rungs=rungs, domains=domains)  # fmt: skip
