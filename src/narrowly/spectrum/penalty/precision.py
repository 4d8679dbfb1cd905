"""Keep float32 products in float32: outside autocast and, on CUDA, outside the TF32 that trainers switch on.

TF32 keeps 10 bits. A gradient `B X` sums terms that cancel the more, the worse B is conditioned: at a condition of
1000 ten bits leave it a cosine of .9987 to the truth, where float32 leaves 1 - 1e-10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from narrowly.spectrum.values import full_precision


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Switch autocast and TF32 off for products on a device, and give the setting back."""
    if device.type != "cuda":
        with full_precision(device):
            yield
        return
    matmul = torch.backends.cuda.matmul
    # torch 2.9 and later refuse to read the old name where a program has set the new one
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    with full_precision(device):
        setattr(matmul, name, exact)
        try:
            yield
        finally:
            setattr(matmul, name, before)
