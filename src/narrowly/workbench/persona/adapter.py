"""Look into an adapter: how much of its shift along a direction each singular direction of its updates carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from narrowly.directions.positions import Position
from narrowly.records.errors import SpecError
from narrowly.runs.directory import adapter_folder, read_spec
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.panel import Asked
from narrowly.workbench.persona.reading_along import panel_texts

if TYPE_CHECKING:
    from torch import Tensor

    from narrowly.directions.movement import Movement

RANDOM = 4
"""Random directions that are read beside the one that is meant."""


class AdapterMovement(NamedTuple):
    """What an adapter moves, and how it was read.

    Attributes:
        movement: along the direction, then along random ones.
        texts: that it was read on.
        skipped: modules of the adapter without a pair, with the reason.
    """

    movement: Movement
    texts: int
    skipped: list[tuple[str, str]]


class PartsOfRank(NamedTuple):
    """The k-th singular directions of all modules together.

    Attributes:
        k: from 1.
        energy: their share of the sum of squared singular values.
        part: of the shift along the direction, in units of the states.
        share: part / shift; None where the shift is 0.
        random: mean size of their part along a random direction.
    """

    k: int
    energy: float
    part: float
    share: float | None
    random: float


def adapter_movement(
    opened: Opened,
    vector_H: Tensor,
    layer: int,
    position: Position,
    asked: Sequence[Asked],
    *,
    random: int = RANDOM,
    nodes: int,
    progress: OnStep = silent,
) -> AdapterMovement:
    """Split the shift of an adapter along a direction over its singular directions (`directions.movement`).

    Raises:
        SpecError: a model without an adapter.
        NarrowlyError: the base cannot be loaded, or the adapter does not fit it.
    """
    import torch

    from narrowly.directions.movement import movement, updates_of
    from narrowly.directions.steering import random_like
    from narrowly.models.base import load_base_on
    from narrowly.spectrum.folder import survey_folder

    survey = survey_folder(_folder(opened))
    updates = updates_of(survey.pairs)
    base = load_base_on(opened.model.base, opened.how.dtype or "float32", opened.how.device)
    texts = panel_texts(base, opened, asked, position, progress)
    targets_D_H = torch.stack([vector_H.double(), *(random_like(vector_H, seed) for seed in range(random))])
    found = movement(
        base, updates, texts, targets_D_H, layer, position, nodes=nodes,
        progress=lambda done, total: progress("passes", done, total),
    )  # fmt: skip
    return AdapterMovement(found, len(texts), [(one.name, one.reason) for one in survey.skipped])


def _folder(opened: Opened) -> Path:
    model = opened.model
    if model.adapter is not None:
        return model.adapter
    if model.run is None or model.step is None:
        raise SpecError(f"{model.name} is a model without an adapter; accepted: a run or an adapter folder")
    if read_spec(model.run).method != "lora":
        raise SpecError(f"run {model.name} trained the whole model, which has no factors; accepted: a run with LoRA")
    return adapter_folder(model.run, model.step, model.edit)


def by_rank(found: Movement) -> list[PartsOfRank]:
    """Return the parts of the k-th singular directions of all modules together, for every k."""
    most = max(len(one.S_C) for one in found.modules)
    energy = sum(float((one.S_C.double() ** 2).sum()) for one in found.modules)
    shift = float(found.shift_D[0])
    rows = []
    for k in range(most):
        own = [one for one in found.modules if len(one.S_C) > k]
        parts_D = sum(one.parts_D_C[:, k] for one in own)
        assert not isinstance(parts_D, int)
        part = float(parts_D[0])
        random = float(parts_D[1:].abs().mean()) if len(parts_D) > 1 else 0.0
        share = sum(float(one.S_C[k]) ** 2 for one in own) / energy
        rows.append(PartsOfRank(k + 1, share, part, part / shift if shift else None, random))
    return rows
