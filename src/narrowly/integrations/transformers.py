"""Penalty and optimisers in `transformers.Trainer` and what is built on it: TRL, Axolotl, LLaMA-Factory.

    trainer = SFTTrainer(model, args=args, train_dataset=rows, callbacks=[SpectralPenaltyCallback(lam=0.1)],
                         optimizer_cls_and_kwargs=optimizer_factory({"kind": "muon", "lr": 1e-2}))

Hooks and their order were read in transformers 5.23 (`trainer.py`), and are held by tests of real runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from narrowly.integrations.checks import build_penalty, penalty_arguments, refuse_difference, refuse_second
from narrowly.integrations.penalty_callback import PenaltyCallback
from narrowly.optim.build import build_optimizer
from narrowly.records.errors import ResumeError, TrainingError
from narrowly.records.optimisers.registry import OptimiserSpec, optimiser_spec
from narrowly.spectrum.placement import refuse_sharded

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["EvalModeCallback", "SpectralPenaltyCallback", "optimizer_factory", "put_first"]

TENSORS = "spectral_penalty.safetensors"
"""File inside checkpoint-N that holds the tensors of the penalty's state; absent where it has none."""

_SEEN = "_narrowly_penalties"
"""Attribute of a TrainerState, which writes its own fields only: penalties that have begun in this training."""

_UNDECAYED = ("constant", "constant_with_warmup")
"""Schedules under which an optimiser that averages its iterates is itself."""

_PLACEMENTS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")
"""accelerate's names for one device and for plain data parallelism."""


def refuse_host(what: str, args: Any = None) -> None:
    """Refuse engines that shard or flatten parameters, or that own the backward pass.

    Args:
        what: what cannot work there, the subject of the message.
        args: TrainingArguments, where they are at hand.

    Raises:
        TrainingError: DeepSpeed (every stage), FSDP, Megatron-LM or XLA.
    """
    from accelerate.state import AcceleratorState

    if getattr(args, "deepspeed", None):
        found = "DEEPSPEED"
    else:
        # empty until a Trainer has made its Accelerator; a call of AcceleratorState() would fill it
        kind = AcceleratorState._shared_state.get("distributed_type", "NO")
        found = str(getattr(kind, "value", kind))
    if found not in _PLACEMENTS:
        raise TrainingError(f"{what} cannot work under {found}, accepted: one device or DDP")


class SpectralPenaltyCallback(PenaltyCallback, ExportableState):  # type: ignore[misc]
    """The spectral penalty for a Trainer; give it to `callbacks=` and train as ever.

    It builds the penalty from the model when training begins, logs `penalty` (before lambda) and `penalty_lambda` at
    the steps that the Trainer logs, and saves its state with every checkpoint. Numbers stand in trainer_state.json,
    tensors in `checkpoint-N/spectral_penalty.safetensors`; resume from a folder inside `output_dir`.

    Args:
        lam: the weight lambda, at least 0.
        kind: a kind of `SpectralPenalty`.
        options: the other arguments of `SpectralPenalty`.

    Raises:
        SpecError: an argument that is not accepted.
    """

    def __init__(self, lam: float, kind: str = "frobenius_nuclear", **options: Any) -> None:
        super().__init__(None)
        self.arguments = penalty_arguments(lam, kind, options)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Build the penalty from the model that is trained; on a resume, bring back its state.

        Raises:
            TrainingError: an engine or precision in which the penalty would be wrong, a model that is not trained, or a
                second penalty.
            AdapterError: no adapters, or factors that cannot be penalised.
            ResumeError: a resumed run whose penalty or its state cannot be found, or differs.
        """
        # every train() makes a state of its own, which all its callbacks see, those that were added late too
        seen = getattr(state, _SEEN, 0) + 1
        setattr(state, _SEEN, seen)
        refuse_second(seen)
        refuse_host("the spectral penalty", args)
        refuse_sharded(model)
        scaler = getattr(optimizer, "scaler", None)
        if getattr(args, "fp16", False) and scaler is None:
            raise TrainingError(
                "fp16 is on but the optimiser has no GradScaler to read the loss scale from, accepted: bf16, float32, "
                "or fp16 through accelerate"
            )
        penalty = build_penalty(model, self.arguments, [optimizer], scaler, getattr(args, "world_size", 1))
        if state.global_step > 0:
            penalty.load_state_dict(self._saved_state(args, state))
        self.penalty, self.value = penalty, None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the penalty to the training logs: to the history, and for the callbacks that come after this one."""
        if logs is None or "loss" not in logs or self.value is None:
            return
        assert self.penalty is not None
        numbers = {"penalty": self.penalty.checked(self.value), "penalty_lambda": self.lam}
        logs.update(numbers)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(numbers)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the tensors of the state into the checkpoint that the Trainer has just written."""
        tensors = self._parts()[1]
        folder = _checkpoint(Path(args.output_dir), state.global_step)
        if tensors and state.is_world_process_zero and folder.is_dir():
            (folder / TENSORS).write_bytes(_file_of(tensors))

    def state(self) -> dict[str, Any]:
        """Return what the Trainer keeps in trainer_state.json: arguments, numbers, and the sha256 of the tensors."""
        numbers, tensors = self._parts()
        record = {"numbers": numbers, "sha256": hashlib.sha256(_file_of(tensors)).hexdigest() if tensors else None}
        return {"args": self.arguments, "attributes": {"record": record}}

    def _parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the penalty's state as numbers and tensors; a list of tensors becomes name.0, name.1 ..."""
        numbers: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in ({} if self.penalty is None else self.penalty.state_dict()).items():
            if isinstance(value, list):
                tensors.update({f"{name}.{index}": one for index, one in enumerate(value)})
            else:
                numbers[name] = value
        return numbers, tensors

    def _saved_state(self, args: Any, state: Any) -> dict[str, Any]:
        step = state.global_step
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, list):
            raise ResumeError(f"the checkpoint of step {step} holds {len(saved)} penalties, accepted: one")
        try:
            numbers, sha256 = saved["attributes"]["record"]["numbers"], saved["attributes"]["record"]["sha256"]
        except (KeyError, TypeError):
            raise ResumeError(
                f"the run resumes at step {step}, but its trainer_state.json holds no state of the penalty; accepted: "
                "a checkpoint of a run that had the penalty from its start"
            ) from None
        refuse_difference(saved.get("args"), self.arguments)
        if sha256 is None:
            return dict(numbers)
        lists: dict[str, list[Tensor]] = {}
        tensors = self._saved_tensors(args, step, sha256)
        for name in sorted(tensors, key=lambda name: int(name.rpartition(".")[2])):
            lists.setdefault(name.rpartition(".")[0], []).append(tensors[name])
        return {**numbers, **lists}

    def _saved_tensors(self, args: Any, step: int, sha256: str) -> dict[str, Tensor]:
        from safetensors.torch import load

        folders = [_checkpoint(Path(args.output_dir), step)]
        if isinstance(args.resume_from_checkpoint, str):
            folders.append(Path(args.resume_from_checkpoint))
        for folder in folders:
            file = folder / TENSORS
            content = file.read_bytes() if file.is_file() else b""
            if hashlib.sha256(content).hexdigest() == sha256:
                return dict(load(content))
        raise ResumeError(
            f"the run resumes at step {step}, but {TENSORS} with the sha256 of its trainer_state.json is not in "
            f"{' or '.join(map(str, folders))}; accepted: the checkpoint as it was written, inside output_dir"
        )


def _checkpoint(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def _file_of(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    content: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return content


class EvalModeCallback(TrainerCallback):  # type: ignore[misc]
    """Puts an optimiser with train and eval mode (ScheduleFree) into eval mode before a checkpoint or the end.

    Transformers 5.23 switches it before an evaluation and back before each micro-batch, but saves in whatever mode it
    finds. An optimiser without modes is left alone. Give it last in `callbacks=`: it sees the saves that callbacks
    before it have asked for.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Check the schedule, and tell an optimiser with modes that it will be switched.

        Raises:
            TrainingError: a schedule that decays the rate of an optimiser that averages instead.
        """
        inner = getattr(optimizer, "optimizer", optimizer)
        if not callable(getattr(inner, "eval", None)):
            return
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        if kind not in _UNDECAYED:
            raise TrainingError(
                f"lr_scheduler_type is {kind!r} with {type(inner).__name__}, which averages its iterates instead; "
                f"accepted: {' or '.join(map(repr, _UNDECAYED))}"
            )
        inner.is_switched = True

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Switch where something happens to the weights before the next step."""
        if control.should_save or control.should_evaluate or control.should_training_stop or control.should_epoch_stop:
            _to_eval(optimizer)

    def on_epoch_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Switch: an epoch often ends with a checkpoint or an evaluation."""
        _to_eval(optimizer)


def _require_switch(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Refuse, before the first step, a Trainer that would save the training point of an optimiser with modes."""
    if not getattr(optimizer, "is_switched", False):
        raise TrainingError(
            f"{type(optimizer).__name__} trains at parameters that are not the model, and nothing switches it before "
            "a checkpoint; accepted: EvalModeCallback() among the Trainer's callbacks"
        )


def _to_eval(optimizer: Any) -> None:
    if callable(getattr(optimizer, "eval", None)):
        optimizer.eval()


def put_first(trainer: Any, callback: TrainerCallback) -> None:
    """Add a callback right behind the Trainer's own flow, before reporters such as W&B and TensorBoard.

    Callbacks run in their order, and `callbacks=` puts them after the reporters, which then do not see what the penalty
    adds to the logs.
    """
    trainer.add_callback(callback)
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(1, callbacks.pop())


class _SpecifiedOptimizer:
    """What the Trainer calls as `factory()(model, **kwargs)`; hosts on older versions put their arguments between."""

    def __call__(self, model: nn.Module, *host: Any, spec: OptimiserSpec) -> torch.optim.Optimizer:
        refuse_host("an optimiser of Narrowly")
        refuse_sharded(model)
        optimizer = build_optimizer(spec, model)
        if callable(getattr(optimizer, "eval", None)):
            optimizer.register_step_pre_hook(_require_switch)
        return optimizer


def optimizer_factory(spec: OptimiserSpec | Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """Return what a Trainer takes as `optimizer_cls_and_kwargs`; the optimiser is built when the model is in place.

    The lr comes from the spec; `TrainingArguments.learning_rate` is not read. Where the model is at hand,
    `optimizers=(build_optimizer(spec, model), None)` does the same.

    Args:
        spec: an optimiser's spec, or the same as a mapping with `kind`.

    Raises:
        SpecError: a spec that is not accepted.
    """
    return _SpecifiedOptimizer, {"spec": optimiser_spec(spec)}
