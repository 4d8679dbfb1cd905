"""Extract the direction of a trait from a model: both sides, their difference, how well it holds elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from narrowly.directions.positions import OF_PROMPT, Position
from narrowly.records.answers import Sampling
from narrowly.records.directions import DirectionCard, Separability, default_layer
from narrowly.records.errors import SpecError
from narrowly.stats.ranking import auc_over_groups
from narrowly.workbench.persona.contrasts import Row, Sides
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.own_answers import as_text, written_answers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.directions.contrast import Contrast
    from narrowly.records.likelihood import ScoredText

PROBE = 24
"""Tokens on which layers are compared with `hidden_states`."""


class Extracted(NamedTuple):
    """What an extraction gave: vectors by layer, their card, and the texts that were left out as empty."""

    vectors: dict[int, Tensor]
    card: DirectionCard
    left_out: int


def extract(
    opened: Opened,
    sides: Sides,
    position: Position,
    *,
    made_from: Sequence[str],
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    sampling: Sampling,
    progress: OnStep = silent,
) -> Extracted:
    """Extract directions at several layers.

    Args:
        opened: the model whose states are read.
        sides: of the contrast.
        position: of the states.
        made_from: groups that the direction is made from; where others are left, separability is that of those alone.
        layers: that are read; by default all.
        layer: that is used where none is named; by default `default_layer`.
        sampling: of the answers that the model writes itself.
        progress: told what is done.

    Raises:
        NarrowlyError: the model cannot be loaded; no such layer; no difference; states that are no numbers.
    """
    import torch

    from narrowly.directions.activations import activations
    from narrowly.directions.contrast import Contrast, Side
    from narrowly.directions.layers import check_against_hidden_states, check_layers, find_stack

    loaded = opened.load()
    model = loaded.model
    top = find_stack(model).top
    read = tuple(range(top + 1)) if layers is None else tuple(sorted(set(layers)))
    used = _used_layer(read, layer, top)
    check_layers([*read, used], top)
    texts, kept = _texts(opened, model, sides, position, sampling, progress)
    check_against_hidden_states(model, torch.tensor([texts[0].ids[:PROBE]], device=next(model.parameters()).device))
    with Contrast([Side(row.group, row.positive) for row in kept]) as contrast:
        done = 0
        for batch in activations(model, texts, read, position):
            contrast.add(batch)
            done += len(batch.rows)
            progress("states", done, len(texts))
        vectors_L_H = contrast.direction(made_from)
        counts = contrast.counts(made_from)
        card = DirectionCard(
            name=sides.name,
            kind=sides.kind,
            contrast_sha256=sides.sha256,
            model=loaded.asked[opened.model.who],
            hidden=vectors_L_H.shape[1],
            top=top,
            layers=read,
            layer=used,
            position=position,
            sampling=sampling if sides.kind == "trait" and position not in OF_PROMPT else None,
            made_from=tuple(made_from),
            held_out=tuple(group for group in sides.groups if group not in made_from),
            positive=counts[True],
            negative=counts[False],
            norms=tuple(vectors_L_H.norm(dim=-1).tolist()),
            rms=tuple(contrast.rms().tolist()),
            separability=_separability(contrast, made_from, read, "domain" if sides.kind != "trait" else "topic"),
            sha256="",
        )
    vectors = {number: vectors_L_H[at].float() for at, number in enumerate(read)}
    return Extracted(vectors, card, len(sides.rows) - len(kept))


def _used_layer(read: Sequence[int], layer: int | None, top: int) -> int:
    if layer is None:
        wanted = default_layer(top)
        return min(read, key=lambda one: (abs(one - wanted), one))
    if layer not in read and 0 <= layer <= top:
        raise SpecError(f"--layer is {layer}, which --layers leaves out; accepted: {', '.join(map(str, read))}")
    return layer


def _texts(
    opened: Opened, model: nn.Module, sides: Sides, position: Position, sampling: Sampling, progress: OnStep
) -> tuple[list[ScoredText], list[Row]]:
    """Return the texts to read and their rows; pairs of which one has no token to read are left out."""
    from narrowly.records.likelihood import ScoredText

    if position in OF_PROMPT:
        return [row.text or ScoredText(row.prompt, ()) for row in sides.rows], sides.rows
    open_rows = [row for row in sides.rows if row.text is None]
    if not open_rows:
        return [row.text for row in sides.rows if row.text is not None], sides.rows
    prompts = [row.prompt for row in open_rows]
    answers = written_answers(
        model, opened.tokenizer, prompts, sampling, opened.how.thinking, progress, "answers under instructions"
    )
    texts = [as_text(prompt, answer, position) for prompt, answer in zip(prompts, answers, strict=True)]
    empty = {row.partner for row, text in zip(open_rows, texts, strict=True) if text is None}
    kept = [(text, row) for row, text in zip(open_rows, texts, strict=True) if row.partner not in empty]
    if not kept:
        raise SpecError(
            f"{opened.name} left a side of every pair without a token at {position}, so the contrast is empty; "
            "accepted: another position (last_prompt), or more --max-new-tokens"
        )
    return [text for text, _ in kept if text is not None], [row for _, row in kept]


def _separability(
    contrast: Contrast, made_from: Sequence[str], read: Sequence[int], unit: str
) -> tuple[Separability, ...]:
    """Judge each layer in the groups that took no part, or else in each group along the direction of the others."""
    others = [group for group in contrast.groups if group not in made_from]
    judged = others or (list(contrast.groups) if len(contrast.groups) > 1 else [])
    if not judged:
        reason = f"one {unit} alone, of which no other is left"
        return tuple(
            Separability(
                layer=layer, auc=None, low=None, high=None, groups=0, method=f"AUC over {unit}s", reason=reason
            )
            for layer in read
        )
    values: list[Any] = []
    places: list[int] = []
    for one in contrast.scores(made_from, judged):
        values.append(one.values_B_L.numpy())
        places += one.rows
    scores_N_L = np.concatenate(values)
    truth = [contrast.sides[place].positive for place in places]
    groups = [contrast.sides[place].group for place in places]
    found = [auc_over_groups(scores_N_L[:, at], truth, groups, unit=unit) for at in range(len(read))]
    return tuple(
        Separability(
            layer=layer, auc=one.estimate, low=one.low, high=one.high, groups=one.n, method=one.method,
            reason=one.reason,
        )
        for layer, one in zip(read, found, strict=True)
    )  # fmt: skip


def save_extracted(found: Extracted, file: Path) -> DirectionCard:
    """Write the directions beside their card; return the card.

    Raises:
        SpecError: another ending than .safetensors; RunDirectoryError: a folder that cannot be written.
    """
    from narrowly.directions.store import save

    return save(file, found.vectors, found.card)
