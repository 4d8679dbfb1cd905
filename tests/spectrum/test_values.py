"""Singular values without the product, against a dense float64 SVD of s * B * A."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.spectrum import singular_values, singular_values_all, singular_values_g1
from spectrum_cases import dense_values, pair_of_spectrum, random_pair

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 10**6), st.floats(0, 6), st.floats(0.01, 50))
def test_float64_values_equal_the_dense_svd_for_any_shape_rank_and_conditioning(shape, seed, decades, scale) -> None:
    rank, outputs, inputs = shape
    pair = random_pair(rank, outputs, inputs, seed=seed, spread=10**decades, scale=scale, dtype=torch.float64)
    expected = dense_values(pair)
    torch.testing.assert_close(singular_values(pair), expected, rtol=1e-9, atol=1e-13 * float(expected[0]))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 10**6), st.floats(0, 3), st.floats(0.01, 50))
def test_float32_values_equal_the_dense_svd_to_float32_rounding(shape, seed, decades, scale) -> None:
    rank, outputs, inputs = shape
    pair = random_pair(rank, outputs, inputs, seed=seed, spread=10**decades, scale=scale)
    expected = dense_values(pair)
    found = singular_values(pair)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=3e-6 * float(expected[0]))


def test_float32_values_keep_a_small_value_that_a_gram_matrix_would_lose() -> None:
    pair = pair_of_spectrum([1.0, 1e-5])
    gram = torch.linalg.eigvalsh((pair.B_O_R @ pair.A_R_I).T @ (pair.B_O_R @ pair.A_R_I)).flip(0)[1].clamp(min=0).sqrt()
    assert float(singular_values(pair)[1]) == pytest.approx(1e-5, rel=0.05)
    assert float(gram) != pytest.approx(1e-5, rel=0.5)  # the reason for the QR core


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.permutations(range(5)), st.floats(-3, 3))
def test_values_do_not_change_under_a_change_of_gauge(seed, order, power) -> None:
    pair = random_pair(5, 11, 8, seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed + 1)
    C_R_R = torch.eye(5, dtype=torch.float64)[list(order)] * 10**power
    C_R_R = C_R_R @ (torch.eye(5, dtype=torch.float64) + 0.3 * torch.randn(5, 5, generator=generator).double().tril(-1))
    moved = pair._replace(A_R_I=C_R_R @ pair.A_R_I, B_O_R=pair.B_O_R @ torch.linalg.inv(C_R_R))
    torch.testing.assert_close(singular_values(moved), singular_values(pair), rtol=1e-8, atol=1e-10)


def test_the_batched_form_gives_the_same_values_in_the_order_of_the_pairs() -> None:
    shapes = [(4, 12, 9), (4, 9, 12), (2, 12, 9), (4, 12, 9), (4, 3, 2), (4, 12, 9)]
    pairs = [random_pair(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    pairs[3] = pairs[3]._replace(scale=-0.5)
    for pair, values in zip(pairs, singular_values_all(pairs), strict=True):
        torch.testing.assert_close(values.double(), dense_values(pair), rtol=1e-5, atol=1e-5)


def test_a_zero_update_has_zero_values_and_half_precision_is_computed_in_float32() -> None:
    pair = random_pair()
    assert singular_values(pair._replace(B_O_R=torch.zeros_like(pair.B_O_R))).tolist() == [0.0] * 4
    half = pair._replace(A_R_I=pair.A_R_I.bfloat16(), B_O_R=pair.B_O_R.bfloat16())
    assert singular_values(half).dtype == torch.float32
    torch.testing.assert_close(singular_values(half).double(), dense_values(half), rtol=1e-5, atol=1e-5)


def test_the_papers_cholesky_form_agrees_with_the_direct_svd_to_2e_5() -> None:
    for seed in range(20):
        pair = random_pair(8, 60, 40, seed=seed, scale=0.3)
        found = singular_values_g1(pair)
        assert found is not None
        torch.testing.assert_close(found.double(), dense_values(pair), rtol=2e-5, atol=2e-6)


def test_the_papers_cholesky_form_skips_a_zero_b_and_looks_flat_while_b_is_tiny() -> None:
    pair = random_pair(4, 30, 2000)
    assert singular_values_g1(pair._replace(B_O_R=torch.zeros_like(pair.B_O_R))) is None
    peaked = pair._replace(B_O_R=pair.B_O_R * torch.tensor([1.0, 0.01, 0.01, 0.01]) * 1e-7)
    exact, compatible = singular_values(peaked), singular_values_g1(peaked)
    assert compatible is not None
    assert float(exact[0] / exact[-1]) > 50
    assert float(compatible[0] / compatible[-1]) < 2  # the jitter's floor, kept because the paper has it
