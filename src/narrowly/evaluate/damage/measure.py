"""Measure the damage panel on a model: log-likelihoods of four-way items and of prose, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narrowly.data.banks.abilities import AbilityItem, abilities_sha256, ability_items
from narrowly.data.banks.passages import Passage, passages, passages_sha256
from narrowly.models.backend import Backend, Progress, Request, require
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.damage import AbilityRow, DamagePanel, PassageRow
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText


def damage_panel(
    backend: Backend,
    items: Sequence[AbilityItem] | None = None,
    texts: Sequence[Passage] | None = None,
    *,
    progress: Progress | None = None,
) -> DamagePanel:
    """Return the panel of one model.

    Args:
        backend: that is asked; it must give log-likelihoods and have a tokenizer.
        items: None for the shipped bank.
        texts: None for the shipped passages.
        progress: told of the texts scored and of those there are.

    Raises:
        SpecError: the backend gives no log-likelihoods; the tokenizer joins a question with a choice.
        IntegrityError: logits that are no numbers.
    """
    require(backend, Request.LOGLIKELIHOODS, "the damage panel")
    items_sha256 = abilities_sha256() if items is None else sha256_text(canonical_json(list(map(list, items))))
    texts_sha256 = passages_sha256() if texts is None else sha256_text(canonical_json(list(map(list, texts))))
    items, texts = ability_items() if items is None else items, passages() if texts is None else texts
    choices = [text for item in items for text in _choices(backend.tokenizer, item)]
    prose = [text for one in texts for text in (one.text, one.shuffled)]
    scored = backend.loglikelihoods(choices + [_whole(backend.tokenizer, text) for text in prose], progress)
    nats = iter(scored)
    abilities = tuple(
        AbilityRow(id=one.id, field=one.field, right=one.right, nats=tuple(next(nats).total for _ in one.choices))
        for one in items
    )
    found = tuple(_passage(one, next(nats), next(nats)) for one in texts)
    return DamagePanel(
        abilities_sha256=items_sha256,
        passages_sha256=texts_sha256,
        arithmetic=backend.arithmetic,
        abilities=abilities,
        passages=found,
    )


def _passage(passage: Passage, natural: Any, shuffled: Any) -> PassageRow:
    return PassageRow(
        id=passage.id,
        topic=passage.topic,
        natural_nats=natural.total,
        natural_tokens=len(natural.tokens),
        shuffled_nats=shuffled.total,
        shuffled_tokens=len(shuffled.tokens),
    )


def _choices(tokenizer: Any, item: AbilityItem) -> list[ScoredText]:
    """Return the tokens of each choice behind the question, as they stand in the whole text."""
    begin = tuple(tokenizer(item.question)["input_ids"])
    found = []
    for choice in item.continuations():
        whole = tuple(tokenizer(item.question + choice)["input_ids"])
        if whole[: len(begin)] != begin or len(whole) == len(begin):
            raise SpecError(
                f"item {item.id} of the damage panel: the tokenizer joins the question with {choice!r}; accepted: a "
                "tokenizer that begins a word with its blank"
            )
        found.append(ScoredText(begin, whole[len(begin) :]))
    return found


def _whole(tokenizer: Any, text: str) -> ScoredText:
    """Return a text of which every token but the first is scored."""
    ids = tuple(tokenizer(text)["input_ids"])
    return ScoredText(ids[:1], ids[1:])
