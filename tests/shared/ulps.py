"""Distances in units in the last place: for two computations that differ in nothing but the order of their sums.

Two runs of the same operations are compared with `torch.equal`. Where shapes, batching or the place of an addition
differ, processors and libraries round differently, and a test states how many units it allows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _in_order(tensor: Tensor) -> np.ndarray:
    """Return integers that rise by 1 from each number of the dtype to the next, with 0 for both zeros."""
    bits_N = tensor.detach().contiguous().view(_BITS[tensor.element_size()]).flatten().numpy()
    lowest = np.iinfo(bits_N.dtype).min
    return np.where(bits_N < 0, lowest - bits_N, bits_N).astype(np.int64)


def _checked(one: Tensor, other: Tensor) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape), "two tensors of one dtype and shape"
    assert one.dtype.is_floating_point and one.numel() > 0, "numbers with a last place"
    assert not bool(one.isnan().any() | other.isnan().any()), "NaN has no distance"


def ulps_apart(one: Tensor, other: Tensor) -> int:
    """Return the largest number of steps from a number to the next that lie between two entries of one place.

    Args:
        one: float32, float64, bfloat16 or float16, on the CPU, without NaN.
        other: of the same dtype and shape.
    """
    _checked(one, other)
    one_N, other_N = _in_order(one), _in_order(other)
    # unsigned, because opposite signs can lie further apart than int64 reaches
    apart_N = np.maximum(one_N, other_N).astype(np.uint64) - np.minimum(one_N, other_N).astype(np.uint64)
    return int(apart_N.max())


def ulps_of_largest(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units in the last place of the largest entry of `expected`.

    An entry near 0 that is a sum of large terms keeps their rounding, so by itself it may be many units off. The
    tensor as a whole is not, and this is the measure for gradients and weights.

    Args:
        found: as in `ulps_apart`.
        expected: of the same dtype and shape; its largest entry gives the unit.
    """
    _checked(found, expected)
    largest = expected.abs().max()
    unit = torch.nextafter(largest, torch.full_like(largest, torch.inf)).double() - largest.double()
    return float((found.double() - expected.double()).abs().max() / unit)
