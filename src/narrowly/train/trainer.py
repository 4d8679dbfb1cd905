"""Run `transformers.Trainer` on the micro-batches and the loss of an objective, with penalty and record as callbacks.

The Trainer keeps what others maintain (loop, accumulation, clipping, devices); everything that decides a
number is given to it: objective, optimiser, schedule, penalty. Its own logging, saving and progress are off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from narrowly.records.errors import TrainingError
from narrowly.records.run_spec import RunSpec
from narrowly.records.streams import stream_seed
from narrowly.train.objectives.protocol import Batch, Objective
from narrowly.train.process_group import SINGLE, ProcessGroup
from narrowly.train.recorder import FinishedStep

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.integrations.penalty_callback import PenaltyCallback


Around = Callable[["nn.Module"], AbstractContextManager[None]]
"""Makes a context of a model."""


class RecordCallback(TrainerCallback):  # type: ignore[misc]
    """Reseed every step, check that its loss is finite, and give the finished step to a function.

    Args:
        dropout_seed: run seed where the adapter has dropout; None where no random number is drawn in a step.
        first_step: optimiser steps done before this Trainer began (0, or the step that is resumed).
        rank: of this process; each draws its own dropout, so that rows of two processes do not share a mask.
        finish_step: called after each optimiser step.
        names_of_step: names the rows of a step, counted from 0 where this Trainer began, for the message of a failure.
    """

    def __init__(
        self,
        dropout_seed: int | None,
        first_step: int,
        rank: int,
        finish_step: Callable[[FinishedStep], None],
        names_of_step: Callable[[int], str],
    ) -> None:
        self.dropout_seed, self.first_step, self.rank, self.finish_step = dropout_seed, first_step, rank, finish_step
        self.names_of_step = names_of_step
        self.trainer: RunTrainer | None = None
        self.loss = self.lr = math.nan

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give dropout a stream of its own for this step, so that neither a resume nor an observer shifts it."""
        if self.dropout_seed is not None:
            stream = f"dropout/{self.first_step + state.global_step}" + (f"/{self.rank}" if self.rank else "")
            torch.manual_seed(stream_seed(self.dropout_seed, stream))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read loss and lr of this step, before the parameters are touched.

        Raises:
            TrainingError: the loss is not finite.
        """
        assert self.trainer is not None
        self.loss, self.lr = self.trainer.take_step_loss(), kwargs["optimizer"].param_groups[0]["lr"]
        if not math.isfinite(self.loss):
            step = self.first_step + state.global_step + 1
            raise TrainingError(
                f"the loss is {self.loss} in step {step} (lr {self.lr:g}); the parameters of step {step - 1} "
                f"were kept. Its batch: {self.names_of_step(state.global_step)}. A lower learning rate or "
                "max_grad_norm may help"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Give the step on, with the gradient's norm before clipping.

        Raises:
            TrainingError: the gradient's norm is not finite.
        """
        if not logs or "loss" not in logs:  # the Trainer's closing summary is no step
            return
        assert self.trainer is not None
        step, grad_norm = self.first_step + state.global_step, float(logs["grad_norm"])
        if not math.isfinite(grad_norm):
            raise TrainingError(
                f"the gradient's norm is {grad_norm} in step {step} (loss {self.loss:g}, lr {self.lr:g}; batch: "
                f"{self.names_of_step(state.global_step - 1)}); a lower learning rate may help"
            )
        self.finish_step(FinishedStep(step, self.loss, self.lr, grad_norm, self.trainer.micro_batches))


class RunTrainer(Trainer):  # type: ignore[misc]
    """Train on the micro-batches and the loss of an objective, with an optimiser and a schedule of ours.

    Args:
        model: the PEFT model.
        spec: the run's spec.
        objective: what is minimised in the steps still to do.
        steps: optimiser steps still to do.
        folder: where the Trainer may write (it does not).
        optimizers: optimiser and scheduler.
        record: the callback that sees every step.
        penalty: the penalty's callback, or None.
        group: the processes that share every step.
        micro_batches: of a run that is resumed, by rank; empty for one that begins.
        around: entered with the model around forward and backward pass of every micro-batch, and nothing else; or
            None.

    Attributes:
        micro_batch: rows of the next forward pass.
        micro_batches: of all processes, in the last step.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: RunSpec,
        objective: Objective,
        steps: int,
        folder: Path,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler],
        record: RecordCallback,
        penalty: PenaltyCallback | None,
        group: ProcessGroup = SINGLE,
        micro_batches: tuple[int, ...] = (),
        around: Around | None = None,
    ) -> None:
        self._objective, self._penalty, self._group, self._around = objective, penalty, group, around
        self._step_loss: Tensor | None = None
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # what did not fit before the stop does not fit after it
        known = micro_batches[group.rank] if len(micro_batches) == group.size else min(micro_batches, default=None)
        self.micro_batch = spec.batch_size if known is None else known
        self.micro_batches: tuple[int, ...] = (self.micro_batch,)
        record.trainer = self
        super().__init__(
            model=model,
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=steps,
                per_device_train_batch_size=spec.batch_size,
                gradient_accumulation_steps=objective.per_step,
                max_grad_norm=spec.max_grad_norm or 0.0,  # 0 is the Trainer's word for off
                seed=spec.seed % 2**32,
                logging_strategy="steps",
                logging_steps=1,
                logging_nan_inf_filter=False,
                save_strategy="no",
                eval_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=spec.device == "cpu",
                dataloader_pin_memory=False,
                average_tokens_across_devices=False,
                bf16=False,
                fp16=False,
            ),
            train_dataset=objective.micro_batches,
            compute_loss_func=objective.loss,  # never called: it says that the loss is of the whole step already
            optimizers=optimizers,
            callbacks=[callback for callback in (record, penalty) if callback is not None],
        )
        self.remove_callback(PrinterCallback)
        # an environment variable of accelerate would turn it on without any field of the spec saying so
        if self.accelerator.mixed_precision != "no":
            raise TrainingError(
                f"mixed precision {self.accelerator.mixed_precision} is set in the environment, accepted: none (unset "
                "ACCELERATE_MIXED_PRECISION); runs are float32"
            )
        if self.args.world_size > 1 or self.args.n_gpu > 1:
            raise TrainingError(
                f"{max(self.args.world_size, self.args.n_gpu)} devices found, accepted: one per process (several "
                "processes for this run, or CUDA_VISIBLE_DEVICES; runs are independent of each other)"
            )

    def get_train_dataloader(self) -> Any:
        """Return the prepared micro-batches: a loader would draw random numbers and would not know where to resume."""
        return self._objective.micro_batches

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, without a walk through all modules for what is known: the mode, and which parameters have gradients.

        The Trainer asks for training mode in every micro-batch and for empty gradients after every step. In a model of
        four layers the two walks take a quarter of the CPU time of a run.
        """
        model = self.model
        model.train()
        walk = model.train
        model.train = lambda mode=True: model if model.training == mode else walk(mode)
        model.zero_grad = self._drop_gradients
        try:
            return super().train(*args, **kwargs)
        finally:
            del model.train, model.zero_grad

    def _drop_gradients(self, set_to_none: bool = True) -> None:
        for parameter in self._trainable:
            parameter.grad = None

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradients of what is trained; the rest of the model has none."""
        return self.accelerator.clip_grad_norm_(self._trainable, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the gradient's norm before clipping, of what is trained."""
        return self.accelerator.clip_grad_norm_(self._trainable, math.inf) if grad_norm is None else grad_norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: counting walks over all parameters in every step, and nobody reads it."""
        return 0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the objective's loss of a prepared micro-batch; the Trainer asks for no outputs in training."""
        return self._objective.loss(model, inputs, num_items_in_batch)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Do forward and backward of one micro-batch, and keep its share of the step's loss for the record.

        After the last one of a step, losses and gradients are summed over the processes.

        Where memory does not suffice, the micro-batch is halved, from there on to the end of the run: the effective
        batch, and so the run up to rounding, stays what it was.

        Raises:
            TrainingError: a single row is too much.
        """
        # the Trainer has counted the labels of this process, if there are any
        if self._group.size > 1 or num_items_in_batch is None:
            num_items_in_batch = self._objective.items_of_step(self.state.global_step)
        if self._group.size > 1 and self._step_loss is None and not self._group.is_first:
            for parameter in self._trainable:
                parameter.grad = None  # every process has seeded the penalty, the sum needs it once
        before = [None if parameter.grad is None else parameter.grad.clone() for parameter in self._trainable]
        while True:
            try:
                loss = self._in_parts(model, inputs, num_items_in_batch)
                break
            except torch.OutOfMemoryError as error:
                self._halve(inputs, error)
            for parameter, gradient in zip(self._trainable, before, strict=True):
                parameter.grad = None if gradient is None else gradient.clone()
            if self.args.device.type == "cuda":
                torch.cuda.empty_cache()
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        self.micro_batches = (self.micro_batch,)
        if self._group.size > 1 and self.accelerator.sync_gradients:
            self._sum_over_processes(float(self._step_loss))
        return loss

    def _sum_over_processes(self, loss: float) -> None:
        total, self.micro_batches = self._group.sum_step(self._trainable, loss, self.micro_batch)
        self._step_loss = torch.tensor(total, dtype=torch.float64)
        if self._penalty is not None and self._penalty.penalty is not None:
            self._penalty.penalty.measure_task_gradient()

    def _in_parts(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        rows, _ = _shape(inputs)
        parts = [inputs]
        if rows > self.micro_batch:
            parts = [
                {key: value[start : start + self.micro_batch] for key, value in inputs.items()}
                for start in range(0, rows, self.micro_batch)
            ]
        with nullcontext() if self._around is None else self._around(model):
            losses = [
                super(RunTrainer, self).training_step(model, self._objective.prepare(part), num_items_in_batch)
                for part in parts
            ]
        return torch.stack(losses).sum()

    def _halve(self, inputs: dict[str, Any], error: torch.OutOfMemoryError) -> None:
        rows, tokens = _shape(inputs)
        if rows == 1 or self.micro_batch == 1:
            raise TrainingError(
                f"out of memory on a micro-batch of one sequence of {tokens} tokens; accepted: gradient_checkpointing, "
                "base_dtype bfloat16 or nf4, shorter rows, or a smaller batch_size where packing puts rows into one "
                "sequence"
            ) from error
        self.micro_batch = (min(rows, self.micro_batch) + 1) // 2

    def take_step_loss(self) -> float:
        """Return the loss of the step, the sum over its micro-batches, and begin the next one."""
        assert self._step_loss is not None
        loss, self._step_loss = float(self._step_loss), None
        return loss


def _shape(batch: Batch) -> tuple[int, int]:
    """Return rows and tokens of a micro-batch: the shape of its first tensor."""
    shape = next(value.shape for value in batch.values() if isinstance(value, torch.Tensor))
    return int(shape[0]), int(shape[-1])
