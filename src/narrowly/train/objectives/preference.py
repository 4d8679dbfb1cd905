"""Minimise a preference objective: DPO, or SAIL-RevKL, against the organism that the run began with.

DPO is SAIL without a share of its own (2406.15567), so both are one class. The loss that is recorded is -J plus the
weighted divergence; T2 and T3 enter its gradient alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from narrowly.records.objectives import Dpo, SailRevKl
from narrowly.train.objectives.answers import AnswerReader, Read
from narrowly.train.objectives.made import Made
from narrowly.train.objectives.preference_terms import (
    Answers,
    TermSwitches,
    better_than,
    data_pairs,
    divergence,
    labelled,
    own_label_pairs,
    policy_pairs,
    preference_loss,
    token_difference,
    win_log_sigmoids,
)
from narrowly.train.order import MicroBatches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.data.run_rows import Preference
    from narrowly.train.objectives.protocol import Batch
    from narrowly.train.reference import Reference


class Preferences:
    """Give a run the loss of its preferences, averaged over those of the whole step.

    Args:
        model: what is trained, and what writes answers.
        order: which preferences each micro-batch has, of the steps still to do.
        preferences: of the run.
        spec: of the objective.
        reader: reads answers.
        reference: the organism at the start.
        first_step: optimiser steps that are done.
    """

    def __init__(
        self,
        model: nn.Module,
        order: MicroBatches,
        preferences: Sequence[Preference],
        spec: Dpo | SailRevKl,
        reader: AnswerReader,
        reference: Reference,
        first_step: int,
    ) -> None:
        self._model, self._order, self._preferences = model, order, preferences
        self._spec, self._reader, self._reference, self._first_step = spec, reader, reference, first_step
        self.per_step = len(order.places)
        self.micro_batches = Made(order, self._make)

    def rows_of_step(self, step: int) -> list[int]:
        """Return the indices of the preferences of a step, of all processes."""
        return self._order.rows_of_step(step)

    def tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that policy and reference read in a step, those of sampled answers left out."""
        return 2 * sum(self._reader.tokens(self._preferences[row]) for row in self.rows_of_step(step))

    def items_of_step(self, step: int) -> int:
        """Return the number of preferences of a step, of all processes."""
        return len(self.rows_of_step(step))

    def _make(self, step: int, rows: Sequence[int], begin: int) -> Batch:
        names = [f"{self._first_step + step}/{begin + place}" for place in range(len(rows))]
        return self._reader.batch(self._model, [self._preferences[row] for row in rows], names)

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch as it is."""
        return batch

    def loss(self, model: nn.Module, batch: Batch, items: Tensor | int) -> Tensor:
        """Return the loss of a micro-batch, summed over its preferences and divided by `items`."""
        with self._reference.acting():
            ref = self._reader.read(model, batch)
        policy = self._reader.read(model, batch)
        if isinstance(self._spec, Dpo):
            every, pairs = _answers(policy, ref, self._reader.exact), data_pairs(batch["scores_B_A"])
            return preference_loss(_part(every, 0, pairs), pairs, self._spec.beta, TermSwitches())[0] / items
        return sail_loss(self._spec, self._reader, policy, ref, batch, items)


def sail_loss(
    spec: SailRevKl, reader: AnswerReader, policy: Read, ref: Read, batch: Batch, items: Tensor | int
) -> Tensor:
    """Return SAIL-RevKL's loss of a micro-batch: DPO on the data, its variant, and the divergence.

    The mixture of both is taken in expectation, where the release draws one of them for each pair.
    """
    every = _answers(policy, ref, reader.exact)
    data = data_pairs(batch["scores_B_A"])
    mixture = [(1 - spec.share, 0, data)]
    plain, _ = preference_loss(_part(every, 0, data), data, spec.beta, TermSwitches())
    total = (1 - spec.share) * plain / items
    if spec.share:
        first, pairs, switches = _variant(spec, reader.exact, every, data, batch)
        own, score = preference_loss(_part(every, first, pairs), pairs, spec.beta, switches)
        total = total + spec.share * (own / items + (score if spec.score_unscaled else score / items))
        mixture.append((spec.share, first, pairs))
    if not spec.kl_weight:
        return total
    if spec.kl_as_nll:
        apart = _nll_part(spec, policy, ref, batch, mixture)
    else:
        one = ref if spec.direction == "ref_to_policy" else policy
        apart = divergence(policy.contexts_B_C_V, ref.contexts_B_C_V, reader.reached(batch, one), spec.direction)
    return total + spec.kl_weight * apart / items


def _variant(
    spec: SailRevKl, exact: bool, every: Answers, data: Tensor, batch: Batch
) -> tuple[int, Tensor, TermSwitches]:
    """Return where a variant's answers begin, the probabilities of its pairs and their winners, and its terms."""
    weights = {"score_weight": spec.score_weight, "label_weight": spec.label_weight}
    on_policy = spec.variant != "dp"
    switches = TermSwitches(on_policy, spec.variant != "pr", **weights, score_over_logp=spec.score_over_logp)
    first, pairs = 0, data
    if on_policy and exact:
        pairs = policy_pairs(every.drawn_B_A)
    elif on_policy:  # the two that were sampled
        first = batch["scores_B_A"].shape[1]
        pairs = data.new_tensor([[0.0, 1.0], [0.0, 0.0]]).expand(len(data), 2, 2)
    if spec.variant == "pr":
        return first, labelled(pairs, better_than(batch["scores_B_A"])), switches
    log_sigmoids = win_log_sigmoids(_part(every, first, pairs), spec.beta)
    return first, own_label_pairs(pairs, log_sigmoids), switches


def _nll_part(
    spec: SailRevKl, policy: Read, ref: Read, batch: Batch, mixture: Sequence[tuple[float, int, Tensor]]
) -> Tensor:
    """Return the release's stand-in for the divergence, on the pairs of data and variant (departures 3a and 3b)."""
    policy_B_A_S, ref_B_A_S = (one.late_B_A_S if spec.kl_unshifted else one.tokens_B_A_S for one in (policy, ref))
    total = policy_B_A_S.new_zeros(())
    for share, first, pairs in mixture:
        chosen = slice(first, first + pairs.shape[1])
        said = batch["said_B_A_S"][:, chosen]
        total = total + share * token_difference(policy_B_A_S[:, chosen], ref_B_A_S[:, chosen], said, pairs)
    return total


def _answers(policy: Read, ref: Read, exact: bool) -> Answers:
    logp_B_A, ref_B_A = policy.tokens_B_A_S.sum(2), ref.tokens_B_A_S.sum(2)
    # a policy that answers within the grammar; elsewhere its own probability is what is drawn
    return Answers(logp_B_A, logp_B_A.log_softmax(1) if exact else logp_B_A, ref_B_A)


def _part(every: Answers, first: int, pairs_B_A_A: Tensor) -> Answers:
    """Return the answers that pairs are of."""
    return Answers(*(one[:, first : first + pairs_B_A_A.shape[1]] for one in every))
