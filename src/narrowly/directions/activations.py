"""Compute the states of many texts at chosen layers and one position, a batch at a time.

Nothing is kept of a batch but one vector per text and layer, and nothing of earlier batches, so that memory does not
grow with the number of texts. The language model's head is not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from narrowly.directions.layers import check_layers, find_stack, reading, text_config
from narrowly.directions.positions import Position, ids_needed, weights
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.likelihood import ScoredText

TOKENS = 1024
"""Tokens of a forward pass, padding included; a longer text has one of its own."""


class Batch(NamedTuple):
    """States of some texts.

    Attributes:
        rows: places of the texts among those asked for.
        states_B_L_H: float32 on the CPU, layers in the order asked for.
    """

    rows: list[int]
    states_B_L_H: Tensor


def activations(
    model: nn.Module,
    texts: Sequence[ScoredText],
    layers: Sequence[int],
    position: Position,
    *,
    tokens: int = TOKENS,
    padding: Literal["right", "left"] = "right",
) -> Iterator[Batch]:
    """Yield the states of all texts, those of about equal length together.

    Args:
        model: a causal language model of Transformers, in eval mode, with or without an adapter, on any device.
        texts: in any order; prompt and answer of each.
        layers: `hidden_states` indices, 0 to the number of blocks.
        position: which tokens count.
        tokens: of a forward pass.
        padding: on which side shorter texts are filled up; the states are the same up to rounding.

    Raises:
        SpecError: no such layer, a text without a token at the position, or one that the model cannot take.
        IntegrityError: states that are no numbers; layer and text are named.
    """
    stack = find_stack(model)
    check_layers(layers, stack.top)
    check_texts(model, texts, position)
    for rows in batches(texts, position, tokens):
        chosen = [texts[row] for row in rows]
        inputs = padded(chosen, position, left=padding == "left")
        weights_B_T = weights(chosen, position, inputs["input_ids"].shape[1], left=padding == "left")
        with torch.inference_mode(), pooled(model, layers, weights_B_T, inputs["attention_mask"]) as found:
            device = next(model.parameters()).device
            stack.decoder(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False)
            states_B_L_H = torch.stack([found[layer] for layer in layers], dim=1).cpu()
        check_finite(states_B_L_H, layers, rows)
        yield Batch(rows, states_B_L_H)


def check_texts(model: nn.Module, texts: Sequence[ScoredText], position: Position) -> None:
    """Refuse texts that a model cannot take, before anything is computed.

    Raises:
        SpecError: no texts, a text without a token at the position, longer than the model's positions, or with a token
            that the model does not know; its number is named.
    """
    if not texts:
        raise SpecError("no texts to read, accepted: at least one")
    config = text_config(find_stack(model).decoder)
    longest, known = getattr(config, "max_position_embeddings", None), getattr(config, "vocab_size", None)
    for number, text in enumerate(texts, start=1):
        try:
            ids = ids_needed(text, position)
        except SpecError as error:
            raise SpecError(f"text {number}: {error}") from error
        if longest is not None and len(ids) > longest:
            raise SpecError(f"text {number} has {len(ids)} tokens, accepted: at most the model's {longest}")
        if known is not None and max(ids) >= known:
            raise SpecError(f"text {number} has the token {max(ids)}, accepted: 0 to {known - 1}")


def batches(texts: Sequence[ScoredText], position: Position, tokens: int) -> Iterator[list[int]]:
    """Yield the places of texts that share a forward pass, the longest first."""
    lengths = [len(ids_needed(text, position)) for text in texts]
    left = sorted(range(len(texts)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(left):
        end = start + max(1, tokens // lengths[left[start]])
        yield left[start:end]
        start = end


def padded(texts: Sequence[ScoredText], position: Position, *, left: bool = False) -> dict[str, Tensor]:
    """Return input_ids and attention_mask of texts, filled up with token 0 on one side; position_ids where in front."""
    rows = [ids_needed(text, position) for text in texts]
    width = max(map(len, rows))
    ids_B_T = torch.zeros((len(rows), width), dtype=torch.long)
    mask_B_T = torch.zeros_like(ids_B_T)
    for row, ids in enumerate(rows):
        place = slice(width - len(ids), width) if left else slice(0, len(ids))
        ids_B_T[row, place] = torch.tensor(ids)
        mask_B_T[row, place] = 1
    found = {"input_ids": ids_B_T, "attention_mask": mask_B_T}
    return found | {"position_ids": (mask_B_T.cumsum(dim=1) - 1).clamp(min=0)} if left else found


@contextmanager
def pooled(
    model: nn.Module, layers: Sequence[int], weights_B_T: Tensor, mask_B_T: Tensor
) -> Iterator[dict[int, Tensor]]:
    """Give a mapping that holds, after a forward pass, the weighted sum over tokens of the states of each layer.

    Args:
        model: a causal language model.
        layers: that are read.
        weights_B_T: of the tokens (`positions.weights`).
        mask_B_T: 1 where a token is no padding; what stands there may be no number.

    Returns:
        By layer, float32 of shape (batch, hidden).
    """
    single = bool(((weights_B_T > 0).sum(dim=1) == 1).all())
    place_B = weights_B_T.argmax(dim=1)
    filled = bool((mask_B_T == 1).all())

    def keep(states_B_T_H: Tensor) -> Tensor:
        device = states_B_T_H.device
        if single:
            chosen_B_H: Tensor = states_B_T_H[torch.arange(len(place_B), device=device), place_B.to(device)]
            return chosen_B_H.float()
        states_B_T_H = states_B_T_H.float()
        if not filled:  # 0 times a state that is no number is no number
            states_B_T_H = states_B_T_H.masked_fill(mask_B_T.to(device)[:, :, None] == 0, 0.0)
        return torch.bmm(weights_B_T.to(device)[:, None, :], states_B_T_H)[:, 0]

    with reading(model, layers, keep) as found:
        yield found


def check_finite(states_B_L_H: Tensor, layers: Sequence[int], rows: Sequence[int]) -> None:
    """Refuse states that are no numbers.

    Raises:
        IntegrityError: naming the first layer and text.
    """
    if bool(torch.isfinite(states_B_L_H.sum())):
        return
    bad_B_L = ~torch.isfinite(states_B_L_H).all(dim=-1)
    if bool(bad_B_L.any()):
        row, layer = (int(one) for one in bad_B_L.nonzero()[0])
        raise IntegrityError(
            f"the states of text {rows[row] + 1} at layer {layers[layer]} are NaN or infinite; the model's weights, or "
            "their sums in this dtype, are broken"
        )


def mean_states(batches_: Iterator[Batch]) -> tuple[Any, int]:
    """Return the mean of the states of all batches (layers x hidden, float64) and the number of texts."""
    total: Any = 0.0
    count = 0
    for batch in batches_:
        total = total + batch.states_B_L_H.double().sum(dim=0)
        count += len(batch.rows)
    return total / count, count
