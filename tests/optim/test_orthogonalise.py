"""Orthogonalisers: their range of singular values, their distance from the polar factor, zeros and batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowly.optim import orthogonalise

METHODS = ("newton_schulz5", "polar_express", "exact")


def conditioned(condition: float, rank: int = 8, inputs: int = 50, count: int = 6, seed: int = 0) -> Tensor:
    """Return a float64 stack of wide matrices with singular values from 1 to 1/condition, log-spaced."""
    generator = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(count, rank, rank, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(count, inputs, rank, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), rank, dtype=torch.float64)
    return (U * values) @ V.mT


def polar(stack: Tensor) -> Tensor:
    """The polar factor matrix by matrix, in float64: the slow twin."""
    factors = []
    for matrix in stack.double():
        U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
        factors.append(U @ Vh)
    return torch.stack(factors)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


@pytest.mark.parametrize(
    ("method", "steps", "least", "most"),
    [("newton_schulz5", 5, 0.68, 1.21), ("polar_express", 5, 0.84, 1.13), ("polar_express", 6, 0.99, 1.01)],
)
def test_singular_values_land_in_the_range_that_the_documentation_states(method, steps, least, most) -> None:
    for condition in (1.0, 10.0, 50.0):
        values = torch.linalg.svdvals(orthogonalise(conditioned(condition).float(), method, steps, 1e-7))
        assert float(values.min()) > least
        assert float(values.max()) < most


def test_newton_schulz_does_not_lift_small_directions_of_badly_conditioned_matrices() -> None:
    values = torch.linalg.svdvals(orthogonalise(conditioned(1000).float(), "newton_schulz5", 5, 1e-7))
    assert 0.1 < float(values.min()) < 0.6


@pytest.mark.parametrize("condition", [2.0, 10.0, 100.0])
def test_polar_express_is_closer_to_the_polar_factor_than_newton_schulz(condition) -> None:
    stack = conditioned(condition)
    errors = {m: float((orthogonalise(stack.float(), m, 5, 1e-7) - polar(stack)).norm()) for m in METHODS}
    assert errors["exact"] < errors["polar_express"] < 0.7 * errors["newton_schulz5"]


def test_more_polar_express_steps_converge_and_more_newton_schulz_steps_do_not() -> None:
    stack = conditioned(100)
    far = {m: float((orthogonalise(stack, m, 10, 1e-7) - polar(stack)).norm()) for m in METHODS}
    assert far["polar_express"] < 1e-6
    assert far["newton_schulz5"] > 0.5


@pytest.mark.parametrize(("method", "least"), [("newton_schulz5", 0.97), ("polar_express", 0.995), ("exact", 0.999999)])
def test_every_method_points_where_the_polar_factor_points(method, least) -> None:
    stack = conditioned(30)
    assert cosine(orthogonalise(stack.float(), method, 5, 1e-7), polar(stack)) > least


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_gives_what_each_matrix_gives_alone_and_keeps_float64(method) -> None:
    stack = conditioned(20)
    together = orthogonalise(stack, method, 5, 1e-7)
    assert together.dtype == torch.float64
    for matrix, result in zip(stack, together, strict=True):
        torch.testing.assert_close(orthogonalise(matrix[None], method, 5, 1e-7)[0], result, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter_and_zero_stays_zero_beside_others(method) -> None:
    stack = conditioned(20).float()
    stack[1] = 0
    result = orthogonalise(stack, method, 5, 1e-7)
    assert float(result[1].abs().max()) == 0.0
    assert bool(result.isfinite().all())
    torch.testing.assert_close(orthogonalise(stack * 1e4, method, 5, 1e-7), result, rtol=1e-3, atol=1e-4)


def test_exact_leaves_out_directions_that_are_not_there() -> None:
    U, _, Vh = torch.linalg.svd(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    stack = (U[:, :2] * torch.tensor([3.0, 0.5]) @ Vh[:2])[None]
    torch.testing.assert_close(orthogonalise(stack, "exact", 5, 1e-7)[0], U[:, :2] @ Vh[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_input_and_autocast_are_computed_in_float32(method) -> None:
    stack = conditioned(20).bfloat16()
    plain = orthogonalise(stack.float(), method, 5, 1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(orthogonalise(stack, method, 5, 1e-7), plain)


@pytest.mark.parametrize("method", ["newton_schulz5", "polar_express"])
@pytest.mark.parametrize("rank", [4, 8, 12, 16, 32])
def test_long_sums_in_float32_are_taken_only_where_they_are_as_good_as_float64(method, rank) -> None:
    """A Gram matrix summed in float32 over 12288 rows cost 3e-4 of a step at rank 4."""
    generator = torch.Generator().manual_seed(3)
    U = torch.linalg.qr(torch.randn(12288, rank, generator=generator)).Q.double()
    V = torch.linalg.qr(torch.randn(rank, rank, generator=generator)).Q.double()
    for strong in (1.0, 3.0, 10.0):
        for weak in (1.0, 0.3, 0.1, 0.05):
            values = torch.ones(rank, dtype=torch.float64)
            values[0], values[-1] = strong, weak
            X = ((U * values) @ V).float()[None]
            expected = orthogonalise(X.double(), method, 5, 1e-7)
            assert float((orthogonalise(X, method, 5, 1e-7) - expected).norm() / expected.norm()) < 1e-5
