"""The penalty in Lightning: `Trainer(callbacks=[SpectralPenaltyCallback(lam=0.1)])`, automatic optimisation.

Lightning sets gradients to None after the first forward of an optimiser step, so nothing can be seeded before it. The
first `on_before_backward` after `on_before_zero_grad` is the place of mode loss: once per step, before DDP's averaging,
a GradScaler's unscaling and clipping. `on_before_optimizer_step` fires before clipping too (read in lightning 2.6.6,
`loops/optimization/automatic.py`, `plugins/precision/`); there mode decoupled moves the factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from narrowly.integrations.checks import build_penalty, penalty_arguments, refuse_difference
from narrowly.records.errors import MissingExtraError, ResumeError, TrainingError
from narrowly.spectrum.penalty import SpectralPenalty
from narrowly.spectrum.placement import refuse_sharded

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingExtraError("Lightning is not installed; run pip install lightning") from error

if TYPE_CHECKING:
    from torch import Tensor

STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")
"""Strategies under which every process holds whole factors."""


class SpectralPenaltyCallback(Callback):  # type: ignore[misc]
    """The spectral penalty for a Lightning Trainer.

    It builds the penalty from the module when training begins, logs `penalty` (before lambda) and `penalty_lambda`,
    and keeps its state in the checkpoint.

    Args:
        lam: the weight lambda, at least 0.
        kind: a kind of `SpectralPenalty`.
        options: the other arguments of `SpectralPenalty`.

    Raises:
        SpecError: an argument that is not accepted.
    """

    def __init__(self, lam: float, kind: str = "frobenius_nuclear", **options: Any) -> None:
        self.arguments = penalty_arguments(lam, kind, options)
        self.penalty: SpectralPenalty | None = None
        self._saved: dict[str, Any] | None = None
        self._step_begins = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Build the penalty; on a resume, bring back its state.

        Raises:
            TrainingError: a strategy, precision or manual optimisation in which the penalty would be wrong, or a model
                that is not trained.
            AdapterError: no adapters, or factors that cannot be penalised.
            ResumeError: a resumed run whose checkpoint holds no state of the penalty, or one of another penalty.
        """
        strategy = type(trainer.strategy).__name__
        if strategy not in STRATEGIES:
            raise TrainingError(
                f"the spectral penalty cannot work under {strategy}, accepted: {', '.join(STRATEGIES)} (one device or "
                "DDP)"
            )
        if not pl_module.automatic_optimization:
            raise TrainingError(
                "the module optimises by hand, where no hook stands between backward and clipping; accepted: automatic "
                "optimisation, or SpectralPenalty called in training_step"
            )
        refuse_sharded(pl_module)
        # the module that carries PEFT's config says how the base was changed
        adapted = next((part for part in pl_module.modules() if hasattr(part, "peft_config")), pl_module)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        penalty = build_penalty(adapted, self.arguments, trainer.optimizers, scaler, trainer.world_size)
        if trainer.global_step > 0:
            self._restore(penalty, trainer.global_step)
        self.penalty = penalty

    def _restore(self, penalty: SpectralPenalty, step: int) -> None:
        if self._saved is None:
            raise ResumeError(
                f"the run resumes at step {step}, but its checkpoint holds no state of the penalty; accepted: a "
                "checkpoint of a run that had the penalty from its start"
            )
        refuse_difference(self._saved["arguments"], self.arguments)
        penalty.load_state_dict(self._saved["penalty"])

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Note that an optimiser step begins."""
        self._step_begins = True

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Seed the gradient before the first backward of a step, in mode loss."""
        assert self.penalty is not None
        if self._step_begins and self.penalty.mode == "loss":
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            lam = self.penalty.current_lam
            self._log(pl_module, lam, self.penalty.seed_gradients(1.0 if scaler is None else scaler.get_scale()))
        self._step_begins = False

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Move the factors in mode decoupled."""
        assert self.penalty is not None
        if self.penalty.mode == "decoupled":
            lam = self.penalty.current_lam
            self._log(pl_module, lam, self.penalty.apply(optimizer))

    @staticmethod
    def _log(pl_module: Any, lam: float, value: Tensor) -> None:
        pl_module.log_dict({"penalty": value, "penalty_lambda": lam})

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning keeps in the checkpoint."""
        return {} if self.penalty is None else {"arguments": self.arguments, "penalty": self.penalty.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the model is in place."""
        self._saved = state_dict or None
