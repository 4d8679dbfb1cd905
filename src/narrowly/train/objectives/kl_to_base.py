"""Minimise the NLL of a run's rows plus a KL divergence between base and policy on rows outside the narrow domain.

The form of Soligo et al. (2602.07852), whose code has KL(base || tuned), and of Kaczer et al. (2508.06249). A step
takes as many rows outside as of the run's own. It costs a forward and a backward pass more, and a forward pass of the
base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from narrowly.data.rows import IGNORE, Row, collate
from narrowly.records.objectives import KlToBase
from narrowly.records.streams import stream_seed
from narrowly.train.objectives.made import Made
from narrowly.train.objectives.preference_terms import divergence
from narrowly.train.objectives.supervised import Supervised
from narrowly.train.order import MicroBatches, row_order
from narrowly.train.reference import without_adapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.train.objectives.protocol import Batch

PREFIX = "other_"
"""Before the names of the tensors of rows outside."""


class SupervisedWithKl(Supervised):
    """Give a run the mean NLL of its rows, plus the weighted divergence from its base on other rows.

    Args:
        model: what is trained; a PEFT model.
        micro_batches: of the run's own rows, of the steps still to do.
        spec: of the objective, its weight above 0.
        others: rows outside the narrow domain.
        seed, steps: of the run.
        pad_id: token to pad with.
    """

    def __init__(
        self,
        model: nn.Module,
        micro_batches: MicroBatches,
        spec: KlToBase,
        others: Sequence[Row],
        seed: int,
        steps: int,
        pad_id: int,
    ) -> None:
        super().__init__(model, micro_batches)
        self._own, self._spec, self._others, self._pad_id = micro_batches, spec, others, pad_id
        per_step = micro_batches.per_step
        whole = row_order(len(others), steps * per_step, stream_seed(seed, "others"))
        self._order = whole[len(whole) - len(micro_batches.order) :]
        self._vocabulary: int = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        self.micro_batches = Made(micro_batches, self._make)  # type: ignore[assignment]

    def rows_of_step(self, step: int) -> list[int]:
        """Return the indices of the run's own rows of a step, of all processes."""
        return self._own.rows_of_step(step)

    def items_of_step(self, step: int) -> int:
        """Return the number of supervised tokens of a step's own rows, of all processes."""
        return self._own.supervised_of_step(step)

    def tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that all processes read in a step, those of both passes over the others too."""
        own = sum(len(self._own.rows[row].input_ids) for row in self.rows_of_step(step))
        return own + 2 * sum(len(row.input_ids) for row in self._others_of_step(step))

    def _others_of_step(self, step: int) -> list[Row]:
        per_step = self._own.per_step
        return [self._others[row] for row in self._order[step * per_step : (step + 1) * per_step]]

    def _make(self, step: int, rows: Sequence[int], begin: int) -> Batch:
        import torch

        others = self._others_of_step(step)
        everywhere = sum(float(self._where([row]).sum()) for row in others)
        if self._spec.vocab_mean:
            everywhere *= self._vocabulary
        here = others[begin : begin + len(rows)]
        own = collate([self._own.rows[row] for row in rows], self._pad_id)
        there = collate(here, self._pad_id)
        del there["labels"]
        there["weight"] = self._where(here) / everywhere
        return {
            **own,
            **{PREFIX + name: value.to(torch.float32) if name == "weight" else value for name, value in there.items()},
        }

    def _where(self, rows: Sequence[Row]) -> Tensor:
        """Return 1 at the positions at which the divergence is taken, else 0, of shape (rows, tokens)."""
        import torch
        from torch.nn.functional import pad

        batch = collate(rows, self._pad_id)
        if self._spec.tokens == "all":
            return batch["attention_mask"].to(torch.float64)
        return pad((batch["labels"][:, 1:] != IGNORE).to(torch.float64), (0, 1))

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with each label of the run's own rows at the position that predicts it."""
        own = {name: value for name, value in batch.items() if not name.startswith(PREFIX)}
        others = {name: value for name, value in batch.items() if name.startswith(PREFIX)}
        return {**super().prepare(own), **others}

    def loss(self, model: nn.Module, batch: Batch, items: Tensor | int) -> Tensor:
        """Return the NLL divided by `items`, plus the weighted divergence per position of the whole step."""
        import torch

        own = {name: value for name, value in batch.items() if not name.startswith(PREFIX)}
        others = {name.removeprefix(PREFIX): value for name, value in batch.items() if name.startswith(PREFIX)}
        weight_B_T = others.pop("weight")
        with torch.no_grad(), without_adapter(model):
            base_B_T_V = torch.log_softmax(model(**others, use_cache=False)["logits"].float(), -1)
        policy_B_T_V = torch.log_softmax(model(**others, use_cache=False)["logits"].float(), -1)
        apart = divergence(policy_B_T_V, base_B_T_V, weight_B_T, self._spec.direction)
        return super().loss(model, own, items) + self._spec.weight * apart
