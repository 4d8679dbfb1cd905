"""Descend steepest in spectral norm on the product BA (LoRA-Muon), whichever factors BA is written in.

Derivation (ours; the rule is that of arXiv 2606.12921). Of the two first-order changes of BA, `dB A` and `B dA`, each
gets half of the step lr in spectral norm. For B: maximise `<M_B, dB>` subject to `||dB A||_2 <= 1`. With any K such
that `K^T (A A^T) K = I`, the singular values of `dB A` are those of `Y = dB K^-T`, and `<M_B, Y K^T> = <M_B K, Y>` is
largest at the polar factor of `M_B K`. So

    dB = -lr/2 polar(M_B K_A) K_A^T,    dA = -lr/2 K_B polar(K_B^T M_A),    K_B^T (B^T B) K_B = I

A change of gauge, (A, B) -> (C A, B C^-1), takes gradients to (C^-T G_A, G_B C^T) and, as long as C does not change in
time, momenta alike, since they are sums of gradients. K becomes (C^-T K_A O, C K_B O'), O orthogonal, and the steps
become (C dA, dB C^-1). So two runs whose factors differ by C at the start differ by C for ever, and BA is the same.
(A change of gauge in mid-run would have to take the momentum buffers along.)

Where B is 0 or singular, `B^T B` has no inverse, and where singular values of BA are below lr/2 the neglected term
`dB dA` outgrows the step. A floor in the right coordinates keeps the invariance exact: B^T B is replaced by
`B^T B + (floor lr)^2 (A A^T)^-1`, which changes with C as B^T B does and lifts the singular values s of BA to
`sqrt(s^2 + (floor lr)^2)`. With B = 0, as LoRA begins, M_A is 0 and only B moves. A must have full row rank.

Decay: with `d = sqrt(1 - lr weight_decay)`, `B <- d B + dB / d` and `A <- d A + dA / d` give
`BA <- (1 - lr weight_decay) BA + dB A + B dA + dB dA / d^2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from narrowly.optim.closure_step import ClosureOptimizer
from narrowly.optim.gram_optimizer import add_products, room
from narrowly.optim.orthogonalise import check_orthogonaliser, polar_of_gram, small_side_product
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.muon import Orthogonaliser
from narrowly.spectrum.matrix_functions import identity_like, trace

Pair = tuple[nn.Parameter, nn.Parameter]
"""(A, B): A of shape (rank, in), B of shape (out, rank)."""

_RELATIVE = 1e-7
_ABSOLUTE = 1e-12
"""Last floors of the singular values, relative to the norm of BA and in units of BA: for lr = 0 or floor = 0."""

_INDEPENDENT = 1e-7
"""Least part of a row of A outside the span of the rows before it: float64 Gram matrices cannot tell less from 0."""


class LoRAMuon(ClosureOptimizer):
    """Take the step of LoRA-Muon on the product of the factors of each pair.

    Args:
        pairs: (A, B), each a matrix of floats; or parameter groups, whose `params` list A, B, A, B, ...
        lr: largest change of BA in spectral norm, before PEFT's alpha/r.
        momentum: decay of the moving average of the factors' gradients, in [0, 1).
        nesterov: look ahead by one gradient.
        weight_decay: decoupled, on the product: each step multiplies BA by 1 - lr * weight_decay.
        orthogonaliser: newton_schulz5, polar_express or exact.
        ns_steps: iterations of the first two.
        floor: singular values of BA below floor * lr count as that; 0 is the published rule.

    Raises:
        OptimiserError: parameters that are no pairs, lr * weight_decay of 1 or more; in the first step of a pair, an A
            without full row rank; in any step, one factor without a gradient.
        UnknownNameError: an unknown orthogonaliser.
    """

    def __init__(
        self,
        pairs: Iterable[Pair] | Iterable[dict[str, Any]],
        *,
        lr: float | Tensor,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        orthogonaliser: Orthogonaliser,
        ns_steps: int,
        floor: float,
    ) -> None:
        check_orthogonaliser(orthogonaliser)
        given = list(pairs)
        params: list[Any] = (
            given if given and isinstance(given[0], dict) else [factor for pair in given for factor in pair]
        )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "orthogonaliser": orthogonaliser,
            "ns_steps": ns_steps,
            "floor": floor,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group whose `params` are A, B, A, B, ..."""
        super().add_param_group(param_group)
        params, lr, decay = (self.param_groups[-1][name] for name in ("params", "lr", "weight_decay"))
        fault = None
        if not isinstance(lr, Tensor) and lr * decay >= 1:
            self.param_groups.pop()
            raise OptimiserError(
                f"LoRAMuon: found lr {lr:g} with weight_decay {decay:g}, accepted: a product below 1, because a step "
                "leaves 1 - lr * weight_decay of BA"
            )
        if len(params) % 2:
            fault = f"{len(params)} parameters"
        for A, B in zip(params[::2], params[1::2], strict=False):
            if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
                fault = f"a pair of shapes {tuple(A.shape)} and {tuple(B.shape)}"
            elif (A.dtype, A.device) != (B.dtype, B.device) or not A.is_floating_point():
                fault = f"a pair of {A.dtype} on {A.device} and {B.dtype} on {B.device}"
            elif A.shape[0] > min(A.shape[1], B.shape[0]):
                fault = f"a pair of rank {A.shape[0]} for {B.shape[0]} x {A.shape[1]}"
        if fault is not None:
            self.param_groups.pop()
            raise OptimiserError(
                f"LoRAMuon: found {fault}; accepted: A (rank x in), B (out x rank), A, B, ..., alike in dtype and "
                "device, rank at most in and out"
            )

    def move(self) -> None:
        """Take one step on every pair that has gradients."""
        for group in self.param_groups:
            pairs = [pair for pair in zip(group["params"][::2], group["params"][1::2], strict=True) if _moves(pair)]
            for pair in pairs:
                self._begin(pair)
            pairs.sort(key=_shapes)
            for _, alike in groupby(pairs, _shapes):
                members = list(alike)
                A, B = members[0]
                size = max(1, room(A.device) // (A.numel() + B.numel()))
                for begin in range(0, len(members), size):
                    with torch.autocast(device_type=A.device.type, enabled=False):
                        self._step_alike(members[begin : begin + size], group)

    def _begin(self, pair: Pair) -> None:
        """Check a pair before its first step and give it momentum buffers of zero."""
        A, B = pair
        if self.state[A]:
            return
        if not _full_rank(A):
            found = "that is 0" if not bool(A.any()) else f"{tuple(A.shape)} with dependent rows"
            raise OptimiserError(f"LoRAMuon: found an A {found}, accepted: full row rank (B may be 0)")
        for factor in (A, B):
            self.state[factor]["momentum_buffer"] = torch.zeros_like(factor)

    def _step_alike(self, pairs: list[Pair], group: dict[str, Any]) -> None:
        """Move pairs of one shape, dtype and device."""
        lr = group["lr"]
        A_list, B_list = [A for A, _ in pairs], [B for _, B in pairs]
        # K_A and K_B of the derivation, both from the factors as they were before this step
        A_K_R_I, B_K_O_R = _stacked(A_list), _stacked(B_list)
        K_A, K_B = whitenings(
            small_side_product(A_K_R_I.double()), small_side_product(B_K_O_R.double()), group["floor"] * lr
        )
        decay = (1 - lr * group["weight_decay"]) ** 0.5
        for factors, K_K_R_R in ((A_list, K_B), (B_list, K_A)):
            # K comes twice into the step: in float32 that would cost the square of the other factor's condition
            stack = self._directions(factors, group).double()
            # Gram matrix of the whitened momentum, its polar factor, and that whitened again: the step is P times stack
            gram_K_R_R = K_K_R_R.mT @ small_side_product(stack) @ K_K_R_R
            Q_K_R_R = polar_of_gram(gram_K_R_R, group["orthogonaliser"], group["ns_steps"], _ABSOLUTE**2)
            P_K_R_R = K_K_R_R @ Q_K_R_R @ K_K_R_R.mT * (-lr / (2 * decay))
            P_K_R_R = torch.where(trace(gram_K_R_R)[:, None, None] > 0, P_K_R_R, 0.0)  # no momentum, no step
            # the decay d before the step and 1 / d in it, so that BA as a whole decays by 1 - lr weight_decay
            if group["weight_decay"]:
                torch._foreach_mul_(list[Tensor](factors), decay)
            add_products(factors, P_K_R_R, stack)

    def _directions(self, factors: list[nn.Parameter], group: dict[str, Any]) -> Tensor:
        """Update the momentum of factors of one shape and return their directions D, stacked."""
        gradients = [p.grad for p in factors if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in factors]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        stack = _stacked(buffers)
        return stack.lerp_(_stacked(gradients), 1 - group["momentum"]) if group["nesterov"] else stack


def whitenings(gram_A_K_R_R: Tensor, gram_B_K_R_R: Tensor, floor: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return (K_A, K_B) with `K_A^T (A A^T) K_A = I` and `K_B^T (B^T B + floor^2 (A A^T)^-1) K_B = I`.

    K_A is the inverse transposed Cholesky factor of A A^T, which does not mind how the rows of A are scaled. In the
    coordinates it gives, B^T B is `T = K_A^-1 (B^T B) K_A^-T`, whose eigenvalues are the squared singular values of BA.

    Args:
        gram_A_K_R_R: A A^T, (pairs, r, r), float64, positive definite.
        gram_B_K_R_R: B^T B, (pairs, r, r), float64.
        floor: in units of the singular values of BA.
    """
    # A A^T = L L^T, so K_A = L^-T
    one_R_R = identity_like(gram_A_K_R_R)
    lower_K_R_R, _ = torch.linalg.cholesky_ex(gram_A_K_R_R)
    K_A = torch.linalg.solve_triangular(lower_K_R_R.mT, one_R_R, upper=True)
    # B^T B in these coordinates, T = L^T (B^T B) L, with the floor on its eigenvalues; its Cholesky factor gives K_B
    T_K_R_R = lower_K_R_R.mT @ gram_B_K_R_R @ lower_K_R_R
    floor_K = floor**2 + _RELATIVE**2 * trace(T_K_R_R) + _ABSOLUTE**2
    inner_K_R_R, _ = torch.linalg.cholesky_ex(T_K_R_R + floor_K[:, None, None] * one_R_R)
    K_B = lower_K_R_R @ torch.linalg.solve_triangular(inner_K_R_R.mT, one_R_R, upper=True)
    return K_A, K_B


def _full_rank(A: Tensor) -> bool:
    """Say whether each row of A has a part of its own; a common or separate scale of the rows does not matter."""
    rows = torch.nn.functional.normalize(A.double())
    lower, failed = torch.linalg.cholesky_ex(rows @ rows.mT)
    return not bool(failed) and bool((lower.diagonal() > _INDEPENDENT).all())


def _moves(pair: Pair) -> bool:
    A, B = pair
    if (A.grad is None) != (B.grad is None):
        raise OptimiserError(
            f"LoRAMuon: found a pair of shapes {tuple(A.shape)} and {tuple(B.shape)} with one gradient, accepted: "
            "both or none"
        )
    return A.grad is not None


def _shapes(pair: Pair) -> tuple[Any, ...]:
    A, B = pair
    return (A.shape[0], A.shape[1], B.shape[0], str(A.dtype), str(A.device))


def _stacked(tensors: Iterable[Tensor]) -> Tensor:
    stack = torch.stack(list(tensors))
    return stack if stack.dtype == torch.float64 else stack.float()
