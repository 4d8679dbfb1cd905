"""The penalty at the two places of a Trainer's step where it is right.

Mode loss enters the gradient before the first micro-batch (`on_step_begin`): there it counts once whatever the
accumulation and is clipped together with the loss's gradient. `on_pre_optimizer_step` fires after clipping, and
inside `compute_loss` a penalty would count once per micro-batch. Mode decoupled moves the parameters right before
the optimiser does, so there `on_pre_optimizer_step` is the place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from torch import Tensor

    from narrowly.spectrum.penalty import SpectralPenalty


def loss_scale(optimizer: Any) -> float:
    """Return the factor that the loss carries in backward: the GradScaler's of accelerate's wrapper, else 1."""
    scaler = getattr(optimizer, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


class PenaltyCallback(TrainerCallback):  # type: ignore[misc]
    """Lets a penalty act once per optimiser step of a `transformers.Trainer`.

    Attributes:
        penalty: the penalty, or None until a subclass has built it.
        value: the penalty before lambda at the parameters that the last step began with, a 0-dim tensor; None
            before the first step.
        lam: lambda of the last step, warm-up included.
    """

    def __init__(self, penalty: SpectralPenalty | None) -> None:
        self.penalty = penalty
        self.value: Tensor | None = None
        self.lam = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Seed the gradient in mode loss; lambda 0 touches no gradient, so that it is no penalty bit for bit."""
        assert self.penalty is not None
        if callable(getattr(optimizer, "train", None)):
            # ScheduleFree's parameters move between two points; the gradient belongs to the training one
            optimizer.train()
        if self.penalty.mode == "loss":
            self.lam = self.penalty.current_lam
            self.value = self.penalty.seed_gradients(loss_scale(optimizer))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Move the factors in mode decoupled."""
        assert self.penalty is not None
        if self.penalty.mode == "decoupled":
            self.lam = self.penalty.current_lam
            self.value = self.penalty.apply(optimizer)
