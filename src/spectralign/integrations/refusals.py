"""What more than one host must refuse."""

from __future__ import annotations

from typing import Any

from spectralign.records.errors import TrainingError


def refuse_scaler(scaler: Any, mode: str, max_grad_ratio: float | None) -> None:
    """Refuse the combinations of a GradScaler (fp16) and a penalty in which the penalty would be wrong.

    In mode decoupled the parameters would move in steps that the scaler skips; a cap relative to the task's gradient
    would compare with a scaled one.

    Raises:
        TrainingError: fp16 with mode decoupled or with a cap.
    """
    if scaler is not None and (mode != "loss" or max_grad_ratio is not None):
        raise TrainingError(
            f"fp16 with mode {mode!r} and max_grad_ratio {max_grad_ratio} is not supported, because a scaler skips "
            "steps and scales gradients; accepted: bf16, or mode 'loss' without max_grad_ratio"
        )
