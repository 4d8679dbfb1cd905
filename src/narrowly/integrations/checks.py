"""Build the penalty of a host, and refuse arguments and settings under which it would be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from narrowly.records.errors import ResumeError, TrainingError
from narrowly.records.penalties import PenaltySpec
from narrowly.records.spec import validated
from narrowly.spectrum.penalty import SpectralPenalty
from narrowly.spectrum.placement import refuse_foreign

if TYPE_CHECKING:
    from torch import nn


def penalty_arguments(lam: float, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every argument of `SpectralPenalty`, defaults written out, as plain values.

    Raises:
        SpecError: a field that is not accepted.
    """
    penalty: PenaltySpec = validated(PenaltySpec, {"lam": lam, "kind": kind, **options}, "penalty")
    return penalty.model_dump()


def build_penalty(
    model: nn.Module, arguments: Mapping[str, Any], optimizers: Sequence[Any], scaler: Any, processes: int
) -> SpectralPenalty:
    """Build the penalty from the model that a host trains.

    Args:
        model: with the adapters that are penalised.
        arguments: of `penalty_arguments`.
        optimizers: the host's.
        scaler: the host's GradScaler, or None.
        processes: how many train together.

    Raises:
        AdapterError: no adapters, or factors that cannot be penalised.
        TrainingError: optimisers, precision or processes with which the penalty would be wrong.
    """
    penalty = SpectralPenalty(model, **arguments)
    refuse_foreign(penalty.pairs, optimizers)
    refuse_scaler(scaler, penalty)
    refuse_processes(penalty, processes)
    return penalty


def refuse_second(penalties: int) -> None:
    """Refuse more than one penalty in one training: they would add up and share one place in the logs.

    Args:
        penalties: callbacks of ours in the training, the same one twice included.

    Raises:
        TrainingError: more than one.
    """
    if penalties > 1:
        raise TrainingError(
            f"{penalties} spectral penalties in one Trainer would add up, and their values and checkpoints overwrite "
            "each other, accepted: one (SpectralPenalty in a loop of your own takes several, each with its own value)"
        )


def refuse_processes(penalty: SpectralPenalty, processes: int) -> None:
    """Refuse a penalty that would differ from process to process.

    Raises:
        TrainingError: kind functional on more than one process.
    """
    if processes > 1 and penalty.kind == "functional":
        raise TrainingError(
            f"the functional penalty keeps the input covariance of its own process, found {processes} processes, "
            "accepted: one, or another kind"
        )


def refuse_scaler(scaler: Any, penalty: SpectralPenalty) -> None:
    """Refuse the combinations of a GradScaler (fp16) and a penalty in which the penalty would be wrong.

    In mode decoupled the factors would move in steps that the scaler skips; after a skipped step the task gradient,
    to which a cap is relative, is infinite.

    Raises:
        TrainingError: fp16 with mode decoupled or with a cap.
    """
    if scaler is not None and (penalty.mode != "loss" or penalty.max_grad_ratio is not None):
        raise TrainingError(
            f"fp16 with mode {penalty.mode!r} and max_grad_ratio {penalty.max_grad_ratio} is not supported, because a "
            "scaler skips steps; accepted: bf16, or mode 'loss' without max_grad_ratio"
        )


def refuse_difference(saved: Any, asked: Mapping[str, Any]) -> None:
    """Refuse to go on with another penalty than the one that a checkpoint was made with.

    Raises:
        ResumeError: names the fields that differ.
    """
    found = saved if isinstance(saved, Mapping) else {}
    names = [name for name in asked if found.get(name) != asked[name]]
    if names:
        differences = ", ".join(f"{name} {found.get(name)!r} instead of {asked[name]!r}" for name in names)
        raise ResumeError(f"the penalty of the checkpoint has {differences}; accepted: the same penalty")
