"""Minimise the mean NLL of supervised tokens, with logits asked for only where one of them is predicted.

Logits are what a fine-tune's memory goes into: 2048 positions of a vocabulary of 151936 take 1.2 GB in float32, and as
much again for their gradient. Prompts and padding need none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from narrowly.data.rows import IGNORE, Row, collate, collate_packed
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from narrowly.train.objectives.protocol import Batch
    from narrowly.train.order import MicroBatches

LONGEST_CHECKED = 64
"""Tokens of each row that are compared."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest difference of two logits that rounding explains, relative to the largest logit; a leak changes far more."""


class Supervised:
    """Give a run the NLL of its rows' supervised tokens in nats, averaged over those of the whole step.

    Args:
        model: what is trained; it decides whether logits can be asked for at some positions only.
        micro_batches: of this process, of the steps still to do.
    """

    def __init__(self, model: nn.Module, micro_batches: MicroBatches) -> None:
        self.micro_batches = micro_batches
        self.per_step = len(micro_batches.places)
        self._keeps_logits = keeps_logits(model)

    def rows_of_step(self, step: int) -> list[int]:
        """Return the indices of the rows of a step, of all processes."""
        return self.micro_batches.rows_of_step(step)

    def tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that all processes read in a step, padding left out."""
        return sum(len(self.micro_batches.rows[row].input_ids) for row in self.rows_of_step(step))

    def items_of_step(self, step: int) -> int:
        """Return the number of supervised tokens of a step, of all processes."""
        return self.micro_batches.supervised_of_step(step)

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with each label at the position that predicts it."""
        return at_supervised(batch, self._keeps_logits)

    def loss(self, model: nn.Module, batch: Batch, items: Tensor | int) -> Tensor:
        """Return the NLL of a prepared micro-batch, summed over its tokens and divided by `items`."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return token_mean_loss(model(**inputs), batch["labels"], items)


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


def token_mean_loss(outputs: Any, labels_B_K: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
    """Return the NLL in nats, summed over this micro-batch and divided by the supervised tokens of the whole step.

    Summed over the micro-batches of a step this is the mean over supervised tokens, so that accumulation
    changes nothing; a mean per micro-batch would give tokens in short-answered micro-batches more weight.

    Args:
        outputs: what the model returned, with logits_B_K_V.
        labels_B_K: of `at_supervised`, `IGNORE` where no loss is taken.
        num_items_in_batch: supervised tokens in all micro-batches of the optimiser step.
    """
    return nll_sum(outputs["logits"], labels_B_K) / num_items_in_batch


def check_packing(model: nn.Module, rows: Sequence[Row], base_name: str) -> None:
    """Check that packed rows do not see each other: ask the model for a row behind another one, and alone.

    Raises:
        SpecError: the second row sees the first one.
    """
    import torch

    first, second = (Row(row.input_ids[:LONGEST_CHECKED], row.labels[:LONGEST_CHECKED]) for row in (rows[0], rows[-1]))
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = {key: _on(value, device) for key, value in collate_packed([first, second]).items()}
            alone = {key: _on(value, device) for key, value in collate([second], 0).items()}
            del packed["labels"], alone["labels"]
            together_T_V = model(**packed)["logits"][0, len(first.input_ids) :].float()
            apart_T_V = model(**alone, use_cache=False)["logits"][0].float()
    finally:
        model.train(training)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    difference = float((together_T_V - apart_T_V).abs().max() / apart_T_V.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"]):
        raise SpecError(
            f"packing is true, but in base {base_name} packed rows see each other (logits differ by {difference:.2g} "
            "of the largest); accepted: packing false"
        )


def _on(value: object, device: torch.device) -> object:
    import torch

    return value.to(device) if isinstance(value, torch.Tensor) else value
