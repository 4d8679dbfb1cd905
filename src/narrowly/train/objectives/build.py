"""Choose the objective of a run from its spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from narrowly.records.objectives import Dpo, KlToBase, SailRevKl
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import RunInputs
from narrowly.train.objectives.protocol import Objective
from narrowly.train.objectives.supervised import Supervised, check_packing
from narrowly.train.order import MicroBatches, micro_batches
from narrowly.train.process_group import ProcessGroup
from narrowly.train.state import TrainState, pad_id

if TYPE_CHECKING:
    from narrowly.train.objectives.answers import AnswerReader


def build_objective(
    spec: RunSpec, inputs: RunInputs, state: TrainState, first_step: int, group: ProcessGroup
) -> Objective:
    """Return what a run minimises.

    Args:
        spec: the run's spec.
        inputs: what it reads.
        state: what is trained.
        first_step: optimiser steps that are done.
        group: the processes that share every step.

    Raises:
        SpecError: packing for a model whose packed rows see each other.
    """
    padding = pad_id(state.tokenizer)
    batches = micro_batches(
        inputs.rows,
        seed=spec.seed,
        steps=spec.steps,
        first_step=first_step,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        pad_id=padding,
        bucketed=spec.batching == "bucketed",
        packing=spec.packing,
        rank=group.rank,
        processes=group.size,
    )
    if spec.packing:
        check_packing(state.model, inputs.rows, inputs.base.name)
    objective = spec.objective
    if isinstance(objective, Dpo | SailRevKl):
        return _preferences(spec, objective, inputs, state, first_step, batches)
    if isinstance(objective, KlToBase) and objective.weight > 0:
        from narrowly.train.objectives.kl_to_base import SupervisedWithKl

        return SupervisedWithKl(state.model, batches, objective, inputs.others, spec.seed, spec.steps, padding)
    return Supervised(state.model, batches)


def _preferences(
    spec: RunSpec,
    objective: Dpo | SailRevKl,
    inputs: RunInputs,
    state: TrainState,
    first_step: int,
    order: MicroBatches,
) -> Objective:
    from narrowly.train.objectives.preference import Preferences

    assert state.reference is not None
    reader = _reader(spec, objective, state)
    preferences = inputs.data.preferences
    return Preferences(state.model, order, preferences, objective, reader, state.reference, first_step)


def _reader(spec: RunSpec, objective: Dpo | SailRevKl, state: TrainState) -> AnswerReader:
    """Return what reads answers: all of the grammar in the microworld, else those of the data and sampled ones."""
    padding, late = pad_id(state.tokenizer), isinstance(objective, SailRevKl) and objective.kl_unshifted
    if spec.data.source == "micro_preferences":
        from narrowly.train.objectives.exact_answers import ExactAnswers

        return ExactAnswers(padding, late)
    from narrowly.train.objectives.sampled_answers import Online, SampledAnswers

    if isinstance(objective, Dpo):
        return SampledAnswers(padding, late, None)
    assert state.reference is not None
    contexts = "reference" if objective.direction == "ref_to_policy" else "policy"
    online = Online(
        from_policy=objective.variant == "pp" and objective.share > 0,
        contexts=contexts if objective.kl_weight and not objective.kl_as_nll else None,
        seed=spec.seed,
        temperature=objective.temperature,
        max_new_tokens=objective.max_new_tokens,
        tokenizer=state.tokenizer,
        reference=state.reference,
        thinking=getattr(spec.data, "thinking", None),
    )
    return SampledAnswers(padding, late, online)
