"""Put the spectral penalty into training: by default the paper's, the mean over modules of |BA|_F / |BA|_*.

Its value is given above 1/sqrt(r), so that it is 0 for a flat spectrum and 1 - 1/sqrt(r) for rank one, whatever the
scale. Source: the paper's main regulariser (docs/sources.md); the mean over adapters is second-hand and lambda is
unknown, so every lambda is the caller's choice. The other kinds are controls and alternatives for studies; none has
been validated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from narrowly.records.errors import AdapterError, SpecError, TrainingError
from narrowly.records.penalty_names import CovarianceKind, PenaltyForm, PenaltyMode
from narrowly.spectrum.pairs import LoraPair, check_pairs
from narrowly.spectrum.penalty.appendix_g1 import ratios_and_gradients, seed_gradients
from narrowly.spectrum.penalty.covariance import InputCovariance
from narrowly.spectrum.penalty.decoupled import (
    LearningRates,
    learning_rates,
    move,
    norm_of_gradients,
    project,
    restore_norms,
    squared_norms,
)
from narrowly.spectrum.penalty.kinds import Grams, Penalised, penalise, squared_gradient_norm
from narrowly.spectrum.penalty.options import (
    check_names,
    check_together,
    live_pairs,
    number,
    option,
    whole,
)
from narrowly.spectrum.penalty.precision import float32_products
from narrowly.spectrum.penalty.stacks import Side, Stacks, stacks_of
from narrowly.spectrum.penalty.task_gradient import TaskGradient


class SpectralPenalty:
    """The penalty as a part of a training loop of your own; it enters once per optimiser step.

    Three lines of plain PyTorch:

        penalty = SpectralPenalty(model, lam=0.1)        # once, when the adapter is in place
        optimizer.zero_grad(); penalty.seed_gradients()  # at the start of a step, before the first backward
        loss.backward(); optimizer.step()                # as ever, with as many micro-batches as you like

    In the mode "loss" (the paper's) the gradient of `lambda * penalty` is put into `.grad` before the first
    micro-batch: it counts once whatever the accumulation, and is clipped together with the loss's. In the mode
    "decoupled", call `apply(optimizer)` right before `optimizer.step()` instead: each factor moves by
    `-lr * lambda * gradient`, lr its own in the optimiser, as under decoupled weight decay.

    Value and gradient are exact up to a floor of 1e-4 of the Frobenius norm under the singular values (see `kinds`).
    Several penalties of one model add up; each has its own value, and a cap takes the others for the task.

    Nothing waits for the device, so that all of it can be captured in a CUDA graph (with lambda, and learning
    rates that are numbers, as in the capture).

    Args:
        model_or_pairs: a PEFT model (its active adapter) or pairs that hold live parameters.
        lam: the weight lambda, at least 0; 0 leaves every `.grad` untouched. For "project": the strength in [0, 1].
        kind: a name of `KINDS`.
        form: "gram", or "cholesky_g1": the paper's Appendix G.1 with its 1e-8 jitter (frobenius_nuclear in mode loss
            only), which bounds the gradient while B is tiny and reads about 0 while B's singular values are below 1e-4.
        mode: "loss" or "decoupled"; "project" is decoupled by nature.
        warmup_steps: lambda rises linearly from 0 over so many optimiser steps.
        max_grad_ratio: upper end of the norm of lambda times the penalty's gradient, in units of the task gradient's
            norm (over all factors); None for none. A shape's gradient grows as 1 / |sBA| and is huge right after B has
            left 0. Mode loss: relative to the task gradient of the step before, unclipped and of this process (the
            first step has no penalty). Mode decoupled: relative to the gradients about to be applied.
        target: of stable_rank, at least 1.
        every: of project, steps between two projections; 1.
        decay: of functional, share of the old covariance kept per optimiser step, in [0, 1); 0.99.
        covariance: of functional, "full" (I x I floats per module) or "diagonal".

    Raises:
        AdapterError: no usable pairs, sharded factors, or a kind that needs what the pairs lack.
        SpecError: a number outside its range, or options that contradict each other.
        UnknownNameError: an unknown kind, form or mode.
    """

    def __init__(
        self,
        model_or_pairs: nn.Module | Sequence[LoraPair],
        lam: float,
        kind: str = "frobenius_nuclear",
        *,
        form: PenaltyForm = "gram",
        mode: PenaltyMode | None = None,
        warmup_steps: int = 0,
        max_grad_ratio: float | None = None,
        target: float | None = None,
        every: int | None = None,
        decay: float | None = None,
        covariance: CovarianceKind | None = None,
    ) -> None:
        check_names(kind, form, mode)
        self.lam, self.kind, self.form = number("lambda", lam, 0.0, 1.0 if kind == "project" else math.inf), kind, form
        self.mode: PenaltyMode = mode or ("decoupled" if kind == "project" else "loss")
        self.warmup_steps = whole("warmup_steps", number("warmup_steps", warmup_steps, 0))
        ratio = max_grad_ratio
        self.max_grad_ratio = None if ratio is None else number("max_grad_ratio", ratio, 0.0)
        self.target = option(kind, "target", target, {"stable_rank": None}, 1.0)
        self.every = whole("every", option(kind, "every", every, {"project": 1.0}, 1.0))
        check_together(kind, form, self.mode, max_grad_ratio)
        self.pairs = live_pairs(model_or_pairs, kind)
        self.stacks = stacks_of(self.pairs)
        self._factors = [factor for pair in self.pairs for factor in (pair.A_R_I, pair.B_O_R)]
        self._addresses, self._storage = self._placed()
        self.steps = 0
        self._task = TaskGradient(self.pairs) if self.max_grad_ratio is not None and self.mode == "loss" else None
        self._inputs: InputCovariance | None = None
        if kind == "functional":
            if not isinstance(model_or_pairs, nn.Module):
                raise AdapterError("functional penalty: found pairs, accepted: a PEFT model, whose inputs it watches")
            self._inputs = InputCovariance(
                model_or_pairs, option(kind, "decay", decay, {"functional": 0.99}, 0.0, 1.0), covariance or "full"
            )
        elif decay is not None or covariance is not None:
            raise SpecError(f"penalty {kind}: decay and covariance are set, accepted: only for functional")

    @property
    def current_lam(self) -> float:
        """Return lambda at the coming step, warm-up included."""
        return self.lam * min(1.0, self.steps / self.warmup_steps) if self.warmup_steps else self.lam

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return the mean penalty before lambda, a scalar; of project, the ratio that it lowers."""
        if self.form == "cholesky_g1":
            return ratios_and_gradients(self.pairs)[0].mean()
        return self._mean([penalised.value_K for _, _, penalised in self._evaluate()])

    @torch.no_grad()
    def seed_gradients(self, scale: float = 1.0) -> Tensor:
        """Add `scale * lambda * gradient` to the `.grad` of factors that require it, and return `value()`.

        Call it once per optimiser step, before the first micro-batch. With lambda 0 no `.grad` is touched or created:
        the run is the same, bit for bit, as one without a penalty. Gradients that it creates (where `.grad` was None)
        live in a buffer of the penalty and are overwritten in the next step. NaN factors give a NaN value and no
        error, as an error would have to wait for the device; `checked(value)` raises it where you log the value.

        Args:
            scale: the loss scale of a GradScaler (`scaler.get_scale()`); 1 without one.

        Raises:
            SpecError: the penalty is decoupled.
            TrainingError: no factor requires a gradient.
        """
        if self.mode != "loss":
            raise SpecError("seed_gradients: mode is 'decoupled', accepted: 'loss' (call apply(optimizer) instead)")
        self._check_trained()
        share = self.current_lam / len(self.pairs)
        self._begin_step()
        if self.form == "cholesky_g1":
            return seed_gradients(self.pairs, share * scale)
        evaluated = self._evaluate()
        weight = share if self._task is None else share * self._cap(evaluated, share, self._task.norm())
        if self.lam != 0.0:
            for stacks, _, penalised in evaluated:
                self._write(stacks, penalised, weight * scale)
        if self._task is not None:
            self._task.watch(scale)
        return self._mean([penalised.value_K for _, _, penalised in evaluated])

    @torch.no_grad()
    def measure_task_gradient(self) -> None:
        """Measure the task gradient anew; for loops that change `.grad` after the last backward (sum it over ranks)."""
        if self._task is not None:
            self._task.measure()

    @torch.no_grad()
    def apply(self, optimizer: Optimizer) -> Tensor:
        """Move every factor by `-lr * lambda * gradient`, or project; return `value()` of before.

        Call it once per optimiser step, right before `optimizer.step()` (after clipping).

        Args:
            optimizer: whose learning rates are used; it must hold every factor that is trained.

        Raises:
            SpecError: the mode is "loss".
            TrainingError: a factor that requires a gradient is in no group of the optimiser, or none that the penalty
                moves requires one.
        """
        if self.mode != "decoupled":
            raise SpecError("apply: mode is 'loss', accepted: 'decoupled' (call seed_gradients() instead)")
        self._check_trained()
        if self._inputs is not None and _processes() > 1:
            raise TrainingError(
                "functional penalty: mode is 'decoupled' on several processes, whose inputs differ and would move "
                "their parameters apart, accepted: 'loss' (gradients are averaged) or one process"
            )
        lam, step = self.current_lam, self.steps
        self._begin_step()
        evaluated = self._evaluate()
        if lam != 0.0 and self.kind != "project":
            share = lam / len(self.pairs)
            capped = self.max_grad_ratio is not None
            weight = share * self._cap(evaluated, share, norm_of_gradients(self.pairs)) if capped else share
            lrs = learning_rates(optimizer)
            for stacks, grams, penalised in evaluated:
                self._move(stacks, grams, penalised, weight, lrs)
        elif lam != 0.0 and (step + 1) % self.every == 0:
            for stacks, grams, _ in evaluated:
                with float32_products(stacks.device):
                    project(stacks, grams, lam)
        return self._mean([penalised.value_K for _, _, penalised in evaluated])

    def checked(self, value: Tensor) -> float:
        """Return a value of this penalty as a number; this is what waits for the device.

        Raises:
            TrainingError: it is not finite; names the module whose factors are not, where there is one.
        """
        number = float(value)
        if not math.isfinite(number):
            try:
                check_pairs(self.pairs)
            except AdapterError as cause:
                raise TrainingError(f"the spectral penalty is {number}: {cause}") from cause
            raise TrainingError(
                f"the spectral penalty is {number}, accepted: finite values (a lower learning rate may help)"
            )
        return number

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: the step count, the last task-gradient norm, the running covariances."""
        state: dict[str, Any] = {"kind": self.kind, "steps": self.steps}
        if self._task is not None:
            state["task_gradient_norm"] = float(self._task.norm())
        if self._inputs is not None:
            state["covariance"] = self._inputs.state()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            SpecError: a state of another kind of penalty, or one that lacks something.
        """
        expected = set(self.state_dict())
        if set(state) != expected or state["kind"] != self.kind:
            raise SpecError(
                f"state of a penalty: found kind {state.get('kind')!r} with {', '.join(sorted(state))}; accepted: "
                f"{self.kind!r} with {', '.join(sorted(expected))}"
            )
        self.steps = int(state["steps"])
        if self._task is not None:
            self._task.load(float(state["task_gradient_norm"]))
        if self._inputs is not None:
            self._inputs.load(state["covariance"])

    # -------------------------------------------------------------------------------------------------- inside

    def _begin_step(self) -> None:
        self.steps += 1
        if self._inputs is not None:
            self._inputs.begin_step(self.steps)

    def _placed(self) -> tuple[list[int], list[tuple[torch.dtype, torch.device]]]:
        return [one.data_ptr() for one in self._factors], [(one.dtype, one.device) for one in self._factors]

    def _follow(self) -> None:
        """Stack the pairs anew where `model.to(...)` has changed dtype or device; addresses are quick to ask for."""
        if [one.data_ptr() for one in self._factors] != self._addresses:
            before = self._storage
            self._addresses, self._storage = self._placed()
            if self._storage != before:
                self.stacks = stacks_of(self.pairs)

    def _check_trained(self) -> None:
        moved = [pair.B_O_R for pair in self.pairs]
        moved += [pair.A_R_I for pair in self.pairs if self.kind != "project"]
        if self.lam != 0.0 and not any(factor.requires_grad for factor in moved):
            raise TrainingError(
                f"penalty {self.kind}: none of the {len(moved)} factors that it moves requires a gradient, accepted: "
                "at least one (an adapter that is not active, or was loaded for inference, is frozen)"
            )

    def _evaluate(self) -> list[tuple[Stacks, Grams, Penalised]]:
        evaluated = []
        if self._inputs is not None and self.steps > 1 and not self._inputs.has_read:
            raise TrainingError(
                "functional penalty: no LoRA layer has read anything in a whole step, accepted: layers in training "
                "mode that run as modules (no kernels that bypass lora_A; compiled after the penalty was built)"
            )
        self._follow()
        kind = "frobenius_nuclear" if self.kind == "project" else self.kind
        for stacks in self.stacks:
            with float32_products(stacks.device):
                grams = stacks.grams(self._covariances(stacks))
                evaluated.append((stacks, grams, penalise(kind, grams, self.target)))
        return evaluated

    def _covariances(self, stacks: Stacks) -> list[Tensor] | None:
        if self._inputs is None:
            return None
        current = self._inputs.current()
        return [current[position].to(stacks.device) for position in stacks.positions]

    def _mean(self, values: Sequence[Tensor]) -> Tensor:
        device = self.pairs[0].A_R_I.device
        return torch.stack([value_K.sum().to(device) for value_K in values]).sum() / len(self.pairs)

    def _cap(self, evaluated: list[tuple[Stacks, Grams, Penalised]], weight: float, task_norm: Tensor) -> Tensor:
        """Return the factor, at most 1, that keeps `weight * gradient` within `max_grad_ratio * task_norm`."""
        assert self.max_grad_ratio is not None
        squares = [
            squared_gradient_norm(penalised, grams).sum().to(task_norm.device) for _, grams, penalised in evaluated
        ]
        norm = torch.stack(squares).sum().sqrt() * weight
        # no measure, no penalty: a step whose task gradient has overflowed (and which a GradScaler skips)
        room = torch.where(task_norm.isfinite(), self.max_grad_ratio * task_norm, 0.0)
        return torch.where(norm > room, room / torch.where(norm > 0, norm, 1.0), 1.0)

    def _move(
        self, stacks: Stacks, grams: Grams, penalised: Penalised, weight: float | Tensor, lrs: LearningRates
    ) -> None:
        with float32_products(stacks.device):
            before_K = squared_norms(grams)
            weight = -weight.to(stacks.device) if isinstance(weight, Tensor) else -weight
            move(stacks, penalised, weight, lrs, self._covariances(stacks))
            if self.kind == "norm_held":
                restore_norms(stacks, before_K)

    def _write(self, stacks: Stacks, penalised: Penalised, weight: float | Tensor) -> None:
        covariance_K = self._covariances(stacks)
        weight = weight.to(stacks.device) if isinstance(weight, Tensor) else weight

        def add(side: Side, part: slice) -> None:
            matrices = penalised.Y_K_R_R if side.is_A else penalised.X_K_R_R
            inputs = covariance_K[part] if covariance_K is not None and side.is_A else None
            side.add_to_gradients(matrices[part] * weight, inputs)

        with float32_products(stacks.device):
            stacks.each(add)


def _processes() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1
