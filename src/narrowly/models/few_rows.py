"""Multiply few rows by a matrix of weights in the order that costs least on a CPU: the weights first.

The next tokens of a few answers are products of 2 to 8 rows with every matrix of the model. There the BLAS of torch
2.13 (MKL 2024.2) takes longer for rows times weights than for weights times rows: over the matrices of SmolLM2-135M in
float32, on one thread, 86, 106 and 70 ms for 2, 3 and 4 rows against 31, 48 and 51 ms (LOG.md). Both sum the same
products, and only rounding differs. One row is as fast either way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROWS = 4
"""Rows up to which the weights come first, whatever their shape."""

MOST_ROWS_OF_A_TALL_MATRIX, TALL = 8, 16_384
"""The same for a matrix with at least `TALL` outputs, such as that of the vocabulary."""


class FewRows(TorchFunctionMode):
    """Compute linear layers of few rows with the weights first, inside `with FewRows():`; for inference alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what the function does, linear layers of few rows apart."""
        if func is torch.nn.functional.linear and not kwargs and _is_faster(args[0], args[1]):
            return weights_first(*args)
        return func(*args, **(kwargs or {}))


def _is_faster(states_X_I: Tensor, weight_O_I: Tensor) -> bool:
    if weight_O_I.device.type != "cpu" or weight_O_I.dtype != torch.float32 or states_X_I.dtype != torch.float32:
        return False
    rows = states_X_I.numel() // states_X_I.shape[-1]
    return 2 <= rows <= (MOST_ROWS_OF_A_TALL_MATRIX if weight_O_I.shape[0] >= TALL else MOST_ROWS)


def weights_first(states_X_I: Tensor, weight_O_I: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return what `torch.nn.functional.linear` returns, up to rounding."""
    out_N_O = torch.mm(weight_O_I, states_X_I.reshape(-1, states_X_I.shape[-1]).t()).t().contiguous()
    if bias_O is not None:
        out_N_O = out_N_O + bias_O
    return out_N_O.view(*states_X_I.shape[:-1], -1)
