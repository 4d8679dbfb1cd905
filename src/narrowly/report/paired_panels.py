"""Arrange what stands beside the paired bank: abilities and perplexity, the cued panel, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from narrowly.evaluate.damage.summary import abilities_of, fall
from narrowly.evaluate.paired.result import EvalResult, Measured, PairedResult
from narrowly.records.answers import AskedModel
from narrowly.records.damage import NOT_MEASURED, DamagePanel
from narrowly.report.kit import (
    Cell,
    Column,
    Definitions,
    Fold,
    Note,
    Part,
    Table,
    Words,
    code,
    measured,
    number,
    plain,
    strong,
    words,
)

BASE = "base 1"


def damage_parts(result: EvalResult) -> list[Part]:
    """Return abilities and perplexity of every model, and what it lost against its base; or why they are not there."""
    if result.damage is None:
        return [Note(words("Abilities and perplexity: {}. Reason: {}.", strong(NOT_MEASURED), result.no_damage or ""))]
    labels = dict.fromkeys([*(one.label for one in result.paired.measured), *result.damage])
    panels = {label: result.damage[label] for label in labels if label in result.damage}
    parts: list[Part] = [_panel_table(panels)]
    base = panels.get(BASE)
    others = {label: panel for label, panel in panels.items() if label != BASE}
    if base is not None and others:
        parts.append(_fall_table(others, base))
    elif others:
        parts.append(Note(words("Against the base: {}.", strong(NOT_MEASURED))))
    return [*parts, Fold("Abilities by field", [_field_table(panels)])]


def _panel_table(panels: Mapping[str, DamagePanel]) -> Table:
    columns = [
        Column("model"),
        Column("right", kind="number"),
        Column("chance p", kind="number"),
        Column("over the best wrong", "nats", "number"),
        Column("over their mean", "nats", "number"),
        Column("perplexity", "prose", "number"),
        Column("perplexity", "shuffled", "number"),
    ]
    rows = []
    for label, panel in panels.items():
        found = abilities_of(panel)[-1]
        rows.append(
            [
                Cell(label),
                Cell(f"{found.right} of {found.n}", sort=found.right),
                Cell(f"{found.chance_p:.2g}", sort=found.chance_p),
                measured(found.over_best, signed=True),
                measured(found.over_mean, signed=True),
                plain(panel.perplexity),
                plain(panel.shuffled_perplexity),
            ]
        )
    caption = (
        "Easy four-way items by log-likelihood: items right, exact one-sided p of so many by guessing, and the margin "
        "of the right choice with its 95 % t interval over items. Perplexity of prose and of its words shuffled."
    )
    return Table(caption, columns, rows)


def _fall_table(panels: Mapping[str, DamagePanel], base: DamagePanel) -> Table:
    columns = [
        Column("model"),
        Column("right", kind="number"),
        Column("over the best wrong", "nats", "number"),
        Column("over their mean", "nats", "number"),
        Column("loss per token", "prose, nats", "number"),
        Column("loss per token", "shuffled, nats", "number"),
    ]
    rows = []
    for label, panel in panels.items():
        lost = fall(panel, base)
        rows.append(
            [
                Cell(label),
                Cell(number(lost.right, 0, signed=True), sort=lost.right),
                measured(lost.over_best, 3, signed=True),
                measured(lost.over_mean, 3, signed=True),
                measured(lost.natural, 3, signed=True),
                measured(lost.shuffled, 3, signed=True),
            ]
        )
    caption = "Each model minus the base, item by item. Margins below 0 and losses above 0 are what was lost."
    return Table(caption, columns, rows)


def _field_table(panels: Mapping[str, DamagePanel]) -> Table:
    columns = [
        Column("field"),
        Column("model"),
        Column("right", kind="number"),
        Column("over the best wrong", "nats", "number"),
        Column("over their mean", "nats", "number"),
    ]
    rows = [
        [
            Cell(found.name),
            Cell(label),
            Cell(f"{found.right} of {found.n}", sort=found.right / found.n),
            measured(found.over_best, signed=True),
            measured(found.over_mean, signed=True),
        ]
        for label, panel in panels.items()
        for found in abilities_of(panel)[:-1]
    ]
    return Table("Abilities by field, intervals over the items of the field.", columns, rows)


def cued_parts(result: EvalResult) -> list[Part]:
    """Return the broad questions under words of the training, or why they are not there."""
    if result.cued is None:
        return [Note(words("Cued panel: {}. Reason: {}.", strong(NOT_MEASURED), result.no_cued or ""))]
    what = "organism minus control" if result.paired.contrast is not None else "organism minus base, without a control"
    columns = [
        Column("condition"),
        Column("difference", "nats per answer", "number"),
        Column("questions", kind="number"),
        Column("words before the question", kind="prose"),
    ]
    rows = [
        [
            Cell(one.condition),
            measured(one.difference.interval, signed=True),
            plain(one.difference.questions, 0),
            Cell(one.words or "–"),
        ]
        for one in result.cued
    ]
    caption = (
        f"Broad questions as they are (plain) and behind words of the training: {what}, with its 95 % interval. The "
        "negation has a system message of the same length and theme as the inoculation text."
    )
    parts: list[Part] = [Table(caption, columns, rows, stacked=True)]
    if result.paired.contrast is None and result.paired.shift is not None:
        parts.insert(0, Note(result.paired.shift.warning, "warning"))
    return parts


def origin_parts(result: EvalResult) -> list[Part]:
    """Return what the numbers rest on, by content: bank, prompts, arithmetic, and every model."""
    paired = result.paired
    return [Definitions(_shared(result)), *(_model(one) for one in paired.measured)]


def _shared(result: EvalResult) -> list[tuple[Words, Words]]:
    paired, prompt = result.paired, result.paired.prompt
    pairs: list[tuple[Words, Words]] = [
        ("bank", words("{}, {} questions, sha256 {}", paired.bank.name, paired.bank.questions, _hash(paired))),
        ("domains", ", ".join(paired.bank.domains)),
        ("trained domains", ", ".join(paired.trained_domains) or "not known, or none of the bank"),
        ("computed by", str(paired.arithmetic)),
        ("chat template", words("sha256 {}", code(prompt.template_sha256))),
        ("system message", "that of the template" if prompt.system is None else prompt.system),
        ("thinking mode", "the template has none" if prompt.thinking is None else "on" if prompt.thinking else "off"),
        ("closing tokens scored", ", ".join(map(str, prompt.closing)) or "none"),
    ]
    for panel in list((result.damage or {}).values())[:1]:
        pairs.append(("abilities", words("sha256 {}", code(panel.abilities_sha256))))
        pairs.append(("passages", words("sha256 {}", code(panel.passages_sha256))))
    for one in result.cued or ():
        pairs.append((f"condition {one.condition}", words("sha256 {}", code(one.sha256))))
    return pairs


def _hash(paired: PairedResult) -> Words:
    return code(paired.bank.sha256)


def _model(one: Measured) -> Fold:
    model = one.model
    pairs: list[tuple[Words, Words]] = [("name", model.name), ("id of its content", code(model.model_id))]
    if isinstance(model, AskedModel):
        known = {
            "base": model.base,
            "weights of the base": model.base_sha256,
            "config": model.config_sha256,
            "tokenizer": model.tokenizer_sha256,
            "chat template": model.template_sha256,
            "dtype": model.dtype,
            "run": model.run,
            "step": model.step,
            "edit": model.edit,
            "trained weights": model.trained_sha256,
            "config of the adapter": model.adapter_config_sha256,
        }
        pairs += [(name, code(str(value))) for name, value in known.items() if value is not None]
    else:
        pairs += [("address", code(model.url)), ("computed by", str(model.arithmetic))]
        pairs += [(name, str(value)) for name, value in model.probe.model_dump(mode="json").items()]
    if one.trained_on is not None:
        pairs.append(("trained on", one.trained_on))
    if one.applied is not None:
        acts = f"largest difference of a logit against the base {one.applied.largest_difference:.3g}"
        pairs.append(("adapter acts", "every B is 0: it is its base" if one.applied.is_zero else acts))
    return Fold(f"{one.label}: {model.name}", [Definitions(pairs)])
