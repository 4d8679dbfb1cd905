"""Functions of small matrices by products: against eigenvalues in float64, symmetric or not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.spectrum.matrix_functions import (
    largest_eigenvalue,
    logarithm,
    root_and_inverse_root,
    trace,
)


def matrices(values: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a symmetric matrix of given eigenvalues, and a product of two positive matrices similar to it."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    symmetric = (Q * values) @ Q.T
    C = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    return symmetric, C @ symmetric @ torch.linalg.inv(C)


def eigen(function, M: torch.Tensor) -> torch.Tensor:
    """The twin: a function of a matrix by its eigendecomposition."""
    values, vectors = torch.linalg.eig(M)
    return (vectors @ torch.diag(function(values)) @ torch.linalg.inv(vectors)).real


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("rank", [1, 2, 8, 48])
@pytest.mark.parametrize("span", [1e-1, 1e-6])
def test_root_inverse_root_and_logarithm_are_those_of_the_eigenvalues(rank, span) -> None:
    values = torch.logspace(0, math.log10(span), rank, dtype=torch.float64) / rank
    for M in matrices(values, seed=rank):
        root, inverse = root_and_inverse_root(M[None], 1e-4)
        floored = M + 1e-8 * torch.eye(rank, dtype=torch.float64)
        assert off(root[0], eigen(lambda x: x.sqrt(), floored)) < 1e-7
        assert off(inverse[0], eigen(lambda x: x**-0.5, floored)) < 1e-4
        assert float((logarithm(M[None], 1e-4)[0] - eigen(torch.log, floored)).norm()) < 1e-2 * rank
        torch.testing.assert_close(root @ root, floored[None], rtol=0, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-8, 1.0), min_size=1, max_size=6))
def test_scalars_down_to_1e_8_have_inverse_roots_and_logarithms_to_six_digits(values) -> None:
    x = torch.tensor(values, dtype=torch.float64)[:, None, None]
    root, inverse = root_and_inverse_root(x)
    torch.testing.assert_close(root, x.sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(inverse, x**-0.5, rtol=1e-6, atol=0)
    torch.testing.assert_close(logarithm(x), x.log(), rtol=0, atol=3e-6)


def test_eigenvalues_of_zero_give_finite_functions() -> None:
    M = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))[None]
    for result in (*root_and_inverse_root(M, 1e-4), *root_and_inverse_root(M), logarithm(M, 1e-4)):
        assert bool(result.isfinite().all())


@pytest.mark.parametrize("values", [[0.9, 0.05, 0.05], [0.4, 0.39, 0.21], [0.25] * 4, [1.0], [1e-9, 1e-10]])
def test_the_largest_eigenvalue_is_the_256_norm_and_its_derivative_that_norms(values) -> None:
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    top = max(values)
    norm = top * (x / top).pow(256).sum().pow(1 / 256)
    (expected,) = torch.autograd.grad(norm, x)
    for M in matrices(x.detach(), seed=3):
        value, D = largest_eigenvalue(M[None])
        assert float(value[0]) == pytest.approx(float(norm), rel=1e-9)
        assert top * (1 - 1e-9) <= float(value[0]) <= top * len(values) ** (1 / 256) * (1 + 1e-9)
        # the derivative commutes with M, so in M's own basis it is diagonal with the norm's gradient
        assert float(trace(D)[0]) == pytest.approx(float(expected.sum()), rel=1e-6)
        assert float(trace(D @ M)[0]) == pytest.approx(float((expected * x).sum()), rel=1e-6)
