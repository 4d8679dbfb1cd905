"""The spectral penalty, the mean over adapters of ||BA||_F / ||BA||_* - 1/sqrt(r), and its gradient.

Source of the penalty: the paper's main regulariser (docs/sources.md); mean over adapters is second-hand, lambda
is unknown, so every lambda is the caller's choice. It is 0 for a flat spectrum and 1 - 1/sqrt(r) for rank
one, whatever the scale.

With `B A = Q_B C Q_A^T`, `C = U S V^T`, F and N the Frobenius and nuclear norms, the gradient by the core is
`W = C / (F N) - (F / N^2) U V^T`, and by the factors `Q_B W R_A` and `R_B^T W Q_A^T`. U V^T is the polar
factor, which is smooth where singular values repeat, so no difference of singular values is ever divided by.
Directions whose singular value float arithmetic cannot tell from zero are left out of U V^T (the smallest
subgradient of the nuclear norm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spectralign.records.errors import AdapterError, SpecError, TrainingError, unknown_name
from spectralign.spectrum.pairs import LoraPair, check_pairs, pairs_from_model
from spectralign.spectrum.values import (
    G1_LIMIT,
    ZERO_UPDATE,
    factor,
    full_precision,
    g1_values,
    shape_groups,
    stack_pairs,
    working_dtype,
)

PenaltyForm = Literal["qr", "cholesky_g1"]
FORMS: tuple[PenaltyForm, ...] = ("qr", "cholesky_g1")
"""qr: exact, from the QR core. cholesky_g1: the paper's Appendix G.1 with its 1e-8 jitter, which bounds the
gradient while B is tiny and reads nearly zero as long as B's singular values are below 1e-4."""


class _Group(NamedTuple):
    """Ratios and gradients of the stacked pairs at `positions`; None where only values were asked for."""

    positions: list[int]
    ratio_K: Tensor  # noqa: N815
    grad_A_K_R_I: Tensor | None  # noqa: N815
    grad_B_K_O_R: Tensor | None  # noqa: N815


def spectral_penalty(pairs: Sequence[LoraPair], form: PenaltyForm = "qr") -> Tensor:
    """Return the penalty of live pairs as a scalar that can be added to a loss and differentiated once.

    Computed in float32 outside autocast (float64 where every factor is float64). A pair whose update is zero
    (||BA||_F <= 1e-12, or ||B||_F < 1e-12 in the form cholesky_g1) contributes value 0 and gradient 0. Do not
    add it to a micro-batch loss under gradient accumulation: use `SpectralPenalty.seed_gradients` once per
    optimiser step.

    Args:
        pairs: at least one pair; gradients reach those factors that require them.
        form: "qr" or "cholesky_g1".

    Returns:
        A scalar in [0, 1 - 1/sqrt(r)], up to rounding.

    Raises:
        UnknownNameError: for another form.
        AdapterError: no pairs, or a factor that is NaN or infinite; the message names the module.
    """
    _check_form(form)
    flat = [tensor for pair in check_pairs(pairs) for tensor in (pair.A_R_I, pair.B_O_R)]
    penalty: Tensor = _Penalty.apply(form, *flat)  # type: ignore[no-untyped-call]
    return penalty


class SpectralPenalty:
    """The penalty as a part of a training loop of your own; it enters once per optimiser step.

    Three lines of plain PyTorch:

        penalty = SpectralPenalty(model, lam=0.1)        # once, when the adapter is in place
        optimizer.zero_grad(); penalty.seed_gradients()  # at the start of a step, before the first backward
        loss.backward(); optimizer.step()                # as ever, with as many micro-batches as you like

    Args:
        model_or_pairs: a PEFT model (its active adapter) or pairs that hold live parameters.
        lam: the weight lambda, at least 0; 0 leaves every `.grad` untouched.
        form: "qr" or "cholesky_g1".

    Raises:
        AdapterError: no usable pairs.
        SpecError: lambda is negative or not finite.
        UnknownNameError: an unknown form.
    """

    def __init__(self, model_or_pairs: nn.Module | Sequence[LoraPair], lam: float, form: PenaltyForm = "qr") -> None:
        _check_form(form)
        if isinstance(lam, bool) or not isinstance(lam, int | float) or not (math.isfinite(lam) and lam >= 0):
            raise SpecError(f"penalty lambda is {lam!r}, accepted: a finite number of at least 0 (0 switches it off)")
        self.pairs = (
            pairs_from_model(model_or_pairs) if isinstance(model_or_pairs, nn.Module) else check_pairs(model_or_pairs)
        )
        self.lam = float(lam)
        self.form: PenaltyForm = form

    @torch.no_grad()
    def value(self) -> float:
        """Return the penalty without lambda, in [0, 1 - 1/sqrt(r)]."""
        return _mean(_evaluate(self.pairs, self.form, gradients=False))

    @torch.no_grad()
    def seed_gradients(self, scale: float = 1.0) -> float:
        """Add `scale * lambda * gradient` to the `.grad` of factors that require it, and return `value()`.

        Call it once per optimiser step, before the first micro-batch, so that clipping sees the whole
        gradient. With lambda 0 no `.grad` is touched or created: the run is the same, bit for bit, as one
        without a penalty.

        Args:
            scale: the loss scale of a GradScaler (`scaler.get_scale()`); 1 without one.
        """
        weight = self.lam * scale / len(self.pairs)
        groups = _evaluate(self.pairs, self.form, gradients=weight != 0.0)
        if weight != 0.0:
            for group in groups:
                assert group.grad_A_K_R_I is not None and group.grad_B_K_O_R is not None
                for index, position in enumerate(group.positions):
                    _add(self.pairs[position].A_R_I, group.grad_A_K_R_I[index], weight)
                    _add(self.pairs[position].B_O_R, group.grad_B_K_O_R[index], weight)
        return _mean(groups)


def _check_form(form: str) -> None:
    if form not in FORMS:
        raise unknown_name("form of the penalty", str(form), FORMS)


def _add(parameter: Tensor, gradient: Tensor, weight: float) -> None:
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = (gradient * weight).to(parameter.dtype)
    else:
        parameter.grad.add_(gradient.to(parameter.grad.dtype), alpha=weight)


def _mean(groups: Sequence[_Group]) -> float:
    ratios = [ratio for group in groups for ratio in group.ratio_K.tolist()]
    return math.fsum(ratios) / len(ratios)


class _Penalty(torch.autograd.Function):
    """Autograd around the closed form; the gradients are computed with the value and kept for backward."""

    @staticmethod
    def forward(ctx: Any, form: PenaltyForm, *flat: Tensor) -> Tensor:
        pairs = [LoraPair(f"pair {i}", flat[2 * i], flat[2 * i + 1], 1.0) for i in range(len(flat) // 2)]
        groups = _evaluate(pairs, form, gradients=any(ctx.needs_input_grad))
        gradients: list[Tensor | None] = [None] * len(flat)
        for group in groups:
            if group.grad_A_K_R_I is None or group.grad_B_K_O_R is None:
                continue
            for index, position in enumerate(group.positions):
                gradients[2 * position] = group.grad_A_K_R_I[index].to(flat[2 * position].dtype) / len(pairs)
                gradients[2 * position + 1] = group.grad_B_K_O_R[index].to(flat[2 * position + 1].dtype) / len(pairs)
        ctx.gradients = gradients
        ratios = [ratio.to(flat[0].device, working_dtype(*flat)) for group in groups for ratio in group.ratio_K]
        return torch.stack(ratios).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(
            None if gradient is None else gradient * grad_output.to(gradient.device, gradient.dtype)
            for gradient in ctx.gradients
        )


def _evaluate(pairs: Sequence[LoraPair], form: PenaltyForm, *, gradients: bool) -> list[_Group]:
    """Return ratio - 1/sqrt(c) of every pair, c its number of singular values, and gradients if asked for."""
    try:
        compute = _evaluate_qr if form == "qr" else _evaluate_g1
        groups = compute(pairs, gradients)
        if not all(bool(group.ratio_K.isfinite().all()) for group in groups):  # not every device's SVD raises
            raise torch.linalg.LinAlgError("a ratio is NaN")  # type: ignore[attr-defined]
        return groups
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        try:
            check_pairs(pairs)
        except AdapterError as cause:  # names the module
            raise TrainingError(f"the spectral penalty has no value: {cause}") from cause
        reason = f"{G1_LIMIT}; the form qr has no such limit" if form == "cholesky_g1" else str(error)
        raise TrainingError(f"the spectral penalty has no value: {reason}") from error


def _evaluate_qr(pairs: Sequence[LoraPair], gradients: bool) -> list[_Group]:
    groups = []
    for positions in shape_groups(pairs):
        group = [pairs[position] for position in positions]
        dtype = working_dtype(group[0].A_R_I, group[0].B_O_R)
        with full_precision(group[0].A_R_I.device):
            parts = factor(*stack_pairs(group, dtype))
            groups.append((positions, parts))
    results = []
    # The cores of modules of different size have the same shape, so one SVD serves them all.
    for alike in _by_core(groups):
        core_K_C_C = torch.cat([parts.core_K_C_C for _, parts in alike])
        with full_precision(core_K_C_C.device):
            ratio_K, W_K_C_C = _ratio_of_core(core_K_C_C, gradients)
            sizes = [len(positions) for positions, _ in alike]
            cut = (torch.split(ratio_K, sizes), torch.split(W_K_C_C, sizes))
            for (positions, parts), ratio, W in zip(alike, *cut, strict=True):
                if gradients:
                    grad_A = parts.RB_K_C_R.mT @ W @ parts.QA_K_I_C.mT
                    grad_B = parts.QB_K_O_C @ (W @ parts.RA_K_C_R)
                    results.append(_Group(positions, ratio, grad_A, grad_B))
                else:
                    results.append(_Group(positions, ratio, None, None))
    return results


def _by_core(groups: list[tuple[list[int], Any]]) -> list[list[tuple[list[int], Any]]]:
    alike: dict[tuple[object, ...], list[tuple[list[int], Any]]] = {}
    for entry in groups:
        core = entry[1].core_K_C_C
        alike.setdefault((core.shape[1:], core.dtype, core.device), []).append(entry)
    return list(alike.values())


def _ratio_of_core(core_K_C_C: Tensor, gradients: bool) -> tuple[Tensor, Tensor]:
    """Return F/N - 1/sqrt(c) and its gradient W by the core (the unused core itself without gradients)."""
    count = min(core_K_C_C.shape[-2:])
    if gradients:
        U_K_C_C, S_K_C, Vh_K_C_C = torch.linalg.svd(core_K_C_C, full_matrices=False)
    else:
        S_K_C = torch.linalg.svdvals(core_K_C_C)
    F_K = torch.linalg.vector_norm(S_K_C, dim=-1)
    active_K = ~(F_K <= ZERO_UPDATE)  # NaN counts as active, so that it is not hidden
    one_K = torch.ones_like(F_K)
    F_K, N_K = torch.where(active_K, F_K, one_K), torch.where(active_K, S_K_C.sum(-1), one_K)
    ratio_K = torch.where(active_K, F_K / N_K - 1 / math.sqrt(count), torch.zeros_like(F_K))
    if not gradients:
        return ratio_K, core_K_C_C
    resolved_K_C = S_K_C.gt(S_K_C[:, :1] * (torch.finfo(S_K_C.dtype).eps * count))
    # In the basis of the singular vectors W is diagonal: s_i / (F N) - F / N^2.
    diagonal_K_C = S_K_C / (F_K * N_K)[:, None] - resolved_K_C * (F_K / N_K**2)[:, None]
    diagonal_K_C = torch.where(active_K[:, None], diagonal_K_C, torch.zeros_like(diagonal_K_C))
    return ratio_K, (U_K_C_C * diagonal_K_C[:, None, :]) @ Vh_K_C_C


def _evaluate_g1(pairs: Sequence[LoraPair], gradients: bool) -> list[_Group]:
    results = []
    for positions in shape_groups(pairs):
        group = [pairs[position] for position in positions]
        A_K_R_I, B_K_O_R = stack_pairs(group, working_dtype(group[0].A_R_I, group[0].B_O_R))
        norms_K = torch.minimum(torch.linalg.matrix_norm(A_K_R_I), torch.linalg.matrix_norm(B_K_O_R))
        active = (~(norms_K < ZERO_UPDATE)).nonzero()[:, 0]  # NaN counts as active, so that it is not hidden
        ratio_K = A_K_R_I.new_zeros(len(group))
        grad_A, grad_B = torch.zeros_like(A_K_R_I), torch.zeros_like(B_K_O_R)
        if len(active):
            with full_precision(A_K_R_I.device), torch.enable_grad():
                A, B = A_K_R_I[active].requires_grad_(gradients), B_K_O_R[active].requires_grad_(gradients)
                S_K_C = g1_values(A, B)
                ratio = torch.linalg.vector_norm(S_K_C, dim=-1) / S_K_C.sum(-1) - 1 / math.sqrt(S_K_C.shape[-1])
                if gradients:
                    # Pairs do not share factors, so the gradient of the sum holds each pair's own.
                    grad_A[active], grad_B[active] = torch.autograd.grad(ratio.sum(), (A, B))
            ratio_K[active] = ratio.detach()
        results.append(
            _Group(positions, ratio_K, grad_A, grad_B) if gradients else _Group(positions, ratio_K, None, None)
        )
    return results
