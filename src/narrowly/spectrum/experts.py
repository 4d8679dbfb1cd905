"""See the factors of one expert in tensors that hold those of all experts of a layer.

PEFT's `target_parameters` puts them into two matrices: A is expert-major (experts * rank x inputs), B rank-major
(outputs x rank * experts, the expert counting fastest): PEFT 0.21.2, lora/layer.py, ParamWrapper.get_delta_weight.
mlx-lm and Tinker stack matrices instead (experts x rank x inputs, experts x outputs x rank).
"""

from __future__ import annotations

from torch import Tensor

MOST_EXPERTS = 10_000
"""Experts of one layer in a foreign file; models have up to some hundreds, and each of them becomes an object here."""


def expert_name(module: str, expert: int) -> str:
    """Return the name of one expert's matrix: `mlp.experts.up_proj` -> `mlp.experts.3.up_proj`."""
    owner, _, own = module.rpartition(".")
    return f"{owner}.{expert}.{own}"


def rows_of_expert(A_N_I: Tensor, expert: int, rank: int) -> Tensor:
    """View A of one expert in PEFT's A of all: consecutive rows."""
    return A_N_I[expert * rank : (expert + 1) * rank]


def columns_of_expert(B_O_N: Tensor, expert: int, rank: int) -> Tensor:
    """View B of one expert in PEFT's B of all: every n-th column, n experts."""
    return B_O_N.view(B_O_N.shape[0], rank, -1)[:, :, expert]


def matrix_of_expert(stack: Tensor, expert: int) -> Tensor:
    """View one matrix of a stack; a stack of one is shared by all experts."""
    return stack[expert if stack.shape[0] > 1 else 0]
