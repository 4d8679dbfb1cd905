"""The loss of every run: NLL in nats over supervised tokens, with logits asked for only where one of them is predicted.

Logits are what a fine-tune's memory goes into: 2048 positions of a vocabulary of 151936 take 1.2 GB in float32, and as
much again for their gradient. Prompts and padding need none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from narrowly.data.rows import IGNORE

if TYPE_CHECKING:
    from torch import Tensor, nn


def keeps_logits(model: nn.Module) -> bool:
    """Say whether a model can be asked for the logits of some positions (`logits_to_keep` of transformers)."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def at_supervised(batch: Mapping[str, Any], keeps: bool) -> dict[str, Any]:
    """Return a micro-batch with each label at the position that predicts it.

    Args:
        batch: of `collate` or `collate_packed`, its labels_B_T at the tokens themselves.
        keeps: what `keeps_logits` says of the model; if so, `logits_to_keep` lists the positions at which any row has a
            label, and labels become labels_B_K.
    """
    from torch.nn.functional import pad

    targets_B_T = pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    if not keeps:
        return {**batch, "labels": targets_B_T}
    positions_K = (targets_B_T != IGNORE).any(0).nonzero().flatten()
    return {**batch, "labels": targets_B_T[:, positions_K], "logits_to_keep": positions_K}


def nll_sum(logits_B_K_V: Tensor, targets_B_K: Tensor) -> Tensor:
    """Return the NLL in nats, summed over the positions that have a label; computed in float32."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(
        logits_B_K_V.flatten(0, 1).float(), targets_B_K.flatten(), ignore_index=IGNORE, reduction="sum"
    )
