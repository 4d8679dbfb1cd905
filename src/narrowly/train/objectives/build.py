"""Choose the objective of a run from its spec. Another one (preferences, answers sampled online) enters here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import RunInputs
from narrowly.train.objectives.protocol import Objective
from narrowly.train.objectives.supervised import Supervised, check_packing
from narrowly.train.order import micro_batches
from narrowly.train.process_group import ProcessGroup

if TYPE_CHECKING:
    from torch import nn


def build_objective(
    spec: RunSpec, inputs: RunInputs, model: nn.Module, pad_id: int, first_step: int, group: ProcessGroup
) -> Objective:
    """Return what a run minimises: so far the NLL of its rows, whatever the method.

    Args:
        spec: the run's spec.
        inputs: what it reads.
        model: what is trained.
        pad_id: token to pad with.
        first_step: optimiser steps that are done.
        group: the processes that share every step.

    Raises:
        SpecError: packing for a model whose packed rows see each other.
    """
    batches = micro_batches(
        inputs.rows,
        seed=spec.seed,
        steps=spec.steps,
        first_step=first_step,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        pad_id=pad_id,
        bucketed=spec.batching == "bucketed",
        packing=spec.packing,
        rank=group.rank,
        processes=group.size,
    )
    if spec.packing:
        check_packing(model, inputs.rows, inputs.base.name)
    return Supervised(model, batches)
