"""The optimiser steps of a run: micro-batches, the Trainer, and what is recorded of each step."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from narrowly.records.errors import TrainingError
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import RunInputs
from narrowly.train.order import micro_batches
from narrowly.train.parts import Parts, pad_id
from narrowly.train.ranks import ALONE, Ranks
from narrowly.train.recorder import Recorder


@contextmanager
def _old_objects_set_aside() -> Iterator[None]:
    """Keep Python's garbage collector off the imported libraries while a run trains.

    The Trainer forces a full collection when it begins, which walks every object of torch and transformers: a fifth
    of a second, a tenth of a micro run.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def train_steps(
    spec: RunSpec,
    inputs: RunInputs,
    parts: Parts,
    folder: Path,
    recorder: Recorder | None,
    reached: list[int],
    ranks: Ranks = ALONE,
) -> None:
    """Train from step `reached[0]` to the last one, and keep `reached` at the steps that are done.

    Args:
        spec: the run's spec.
        inputs: what it reads.
        parts: the live parts of the run, in the state of step `reached[0]`.
        folder: the run directory.
        recorder: of the first process; None in the others.
        reached: one number, optimiser steps done.
        ranks: the processes that share every step.

    Raises:
        TrainingError: the loss is not finite, memory does not suffice for one row, or processes have come apart.
    """
    from narrowly.integrations.penalty_callback import PenaltyCallback
    from narrowly.train.speed import Speed
    from narrowly.train.trainer import RecordCallback, RunTrainer

    first_step = reached[0]
    batches = micro_batches(
        inputs.rows,
        seed=spec.seed,
        steps=spec.steps,
        first_step=first_step,
        batch_size=spec.batch_size,
        accumulation=spec.accumulation,
        pad_id=pad_id(parts.tokenizer),
        bucketed=spec.batching == "bucketed",
        packing=spec.packing,
        rank=ranks.rank,
        processes=ranks.size,
    )
    if spec.packing:
        from narrowly.train.packing import check_packing

        check_packing(parts.model, inputs.rows, inputs.base.name)
    penalty = None if parts.penalty is None else PenaltyCallback(parts.penalty)
    speed = Speed(spec)
    checkpoint_steps = frozenset(spec.checkpoint_steps())
    trained = [parameter for parameter in parts.model.parameters() if parameter.requires_grad]
    ranks.check_equal(trained, first_step)

    def finish_step(step: int, loss: float, lr: float, grad_norm: float) -> None:
        reached[0] = step
        value = None
        if parts.penalty is not None and penalty is not None and penalty.value is not None:
            value = parts.penalty.checked(penalty.value)
        if step in checkpoint_steps:
            ranks.check_equal(trained, step)
        if recorder is None:
            return
        tokens = sum(len(inputs.rows[row].input_ids) for row in batches.rows_of_step(step - first_step - 1))
        recorder.finish_step(
            step, loss, lr, value, grad_norm, speed.of_step(step, tokens, trainer.smallest_micro_batch)
        )
        speed.begin()  # what is recorded at a checkpoint is no training

    trainer = RunTrainer(
        parts.model,
        spec,
        batches,
        spec.steps - first_step,
        folder,
        (parts.optimizer, parts.scheduler),
        RecordCallback(
            spec.seed if spec.adapter.dropout > 0 else None,
            first_step,
            ranks.rank,
            finish_step,
            lambda step: ", ".join(inputs.name_of_row(row) for row in batches.rows_of_step(step)),
        ),
        penalty,
        ranks,
    )
    speed.begin()
    try:
        with _old_objects_set_aside():
            trainer.train()
    finally:
        if recorder is not None:
            recorder.write_speed()
    if reached[0] != spec.steps:
        raise TrainingError(f"training stopped after step {reached[0]} of {spec.steps} without saying why")
