"""Train the optimiser steps of a run with the Trainer, and record each of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.records.errors import TrainingError
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import RunInputs
from narrowly.train.objectives.build import build_objective
from narrowly.train.process_group import SINGLE, ProcessGroup
from narrowly.train.recorder import FinishedStep, Recorder
from narrowly.train.resume import Progress
from narrowly.train.state import TrainState

if TYPE_CHECKING:
    from narrowly.train.trainer import Around


def train_steps(
    spec: RunSpec,
    inputs: RunInputs,
    state: TrainState,
    folder: Path,
    progress: Progress,
    recorder: Recorder | None,
    group: ProcessGroup = SINGLE,
) -> None:
    """Train from the step of `progress` to the last one, and count each step there once it is done.

    Args:
        spec: the run's spec.
        inputs: what it reads.
        state: what is trained, as it is after the step of `progress`.
        folder: the run directory.
        progress: steps that are done.
        recorder: of the first process; None in the others.
        group: the processes that share every step.

    Raises:
        TrainingError: the loss is not finite, memory does not suffice for one row, or processes differ.
        Stopped: a signal asked for it; the first process has saved the state.
    """
    from narrowly.integrations.penalty_callback import PenaltyCallback
    from narrowly.train.trainer import RecordCallback, RunTrainer

    first_step = progress.step
    objective = build_objective(spec, inputs, state, first_step, group)
    penalty = None if state.penalty is None else PenaltyCallback(state.penalty)
    checkpoint_steps = frozenset(spec.checkpoint_steps())
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    group.check_equal(trained, first_step)

    def finish_step(finished: FinishedStep) -> None:
        progress.step, progress.micro_batches = finished.step, finished.micro_batches
        value = None
        if state.penalty is not None and penalty is not None and penalty.value is not None:
            value = state.penalty.checked(penalty.value)
        if finished.step in checkpoint_steps:
            group.check_equal(trained, finished.step)
        if recorder is not None:
            recorder.finish_step(finished, value, objective.tokens_of_step(finished.step - first_step - 1))

    record = RecordCallback(
        spec.seed if spec.adapter.dropout > 0 else None,
        first_step,
        group.rank,
        finish_step,
        lambda step: ", ".join(inputs.data.name_of_row(row) for row in objective.rows_of_step(step)),
    )
    optimizers = state.optimizer, state.scheduler
    steps = spec.steps - first_step
    trainer = RunTrainer(
        state.model,
        spec,
        objective,
        steps,
        folder,
        optimizers,
        record,
        penalty,
        group,
        progress.micro_batches,
        _steering(spec, inputs),
    )
    if recorder is not None:
        recorder.check_stop(progress.step)
        recorder.start_clock()
    try:
        trainer.train()
    finally:
        if recorder is not None:
            recorder.write_speed()
    if progress.step != spec.steps:
        raise TrainingError(f"training stopped after step {progress.step} of {spec.steps} without saying why")


def _steering(spec: RunSpec, inputs: RunInputs) -> Around | None:
    """Return what is entered around the passes of a micro-batch: preventative steering, or None."""
    if spec.steering is None or inputs.steering is None:
        return None
    from narrowly.directions.steering import added

    directions, strength = inputs.steering, spec.steering.strength
    return lambda model: added(model, directions, strength)
