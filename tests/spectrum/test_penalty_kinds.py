"""The kinds of penalty: value and gradient against autograd through a dense SVD, and where that has none."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.records.errors import AdapterError, UnknownNameError
from narrowly.spectrum import LoraPair, spectral_penalty
from penalty_twins import cosine, dense_penalty, factor_of_condition, gradients
from spectrum_cases import live, pair_of_spectrum, random_pair

KINDS = (
    "frobenius_nuclear",
    "spectral_entropy",
    "condition_number",
    "stable_rank",
    "spectral_norm",
    "nuclear_norm",
    "norm_only",
)
SHAPES = [(1, 5, 6), (3, 12, 9), (3, 9, 12), (3, 12, 9), (6, 4, 20), (5, 20, 3)]
TARGET = 2.5


def pairs_of(dtype: torch.dtype = torch.float64, seed: int = 0, kind: str = "") -> list[LoraPair]:
    shapes = [s for s in SHAPES if kind != "condition_number" or s[0] <= min(s[1:])]
    return [live(random_pair(*shape, seed=seed + i, dtype=dtype, scale=0.5 + i)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_value_and_gradient_equal_autograd_through_a_dense_svd(kind, seed) -> None:
    pairs = pairs_of(seed=seed, kind=kind)
    expected, found = dense_penalty(pairs, kind, TARGET), spectral_penalty(pairs, kind, target=TARGET)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    for one, other in zip(gradients(found, pairs), gradients(expected, pairs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7 * (1 + float(other.abs().max())))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_equals_finite_differences(kind) -> None:
    pairs = [live(random_pair(3, 7, 6, seed=s, dtype=torch.float64)) for s in (1, 2)]
    flat = [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]

    def value(*factors: torch.Tensor) -> torch.Tensor:
        given = [LoraPair("m", factors[2 * i], factors[2 * i + 1], 1.5) for i in range(len(pairs))]
        return spectral_penalty(given, kind, target=TARGET)

    assert torch.autograd.gradcheck(value, flat, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rank", [4, 8, 32, 128])
@pytest.mark.parametrize("condition_A,condition_B", [(1, 1e3), (1e3, 1), (30, 30), (3, 10)])
@pytest.mark.parametrize("sides", [(160, 1500), (4096, 200)])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_float32_and_bfloat16_factors_up_to_condition_1000_meet_the_unsmoothed_float64_twin(
    rank, condition_A, condition_B, sides, stored
) -> None:
    A = (5 * factor_of_condition(rank, sides[1], condition_A, seed=rank).T).to(stored)
    B = (0.01 * factor_of_condition(rank, sides[0], condition_B, seed=rank + 1)).to(stored)
    pair = live(LoraPair("m", A.contiguous(), B, 2.0))
    exact = live(LoraPair("m", A.double(), B.double(), 2.0))
    found = spectral_penalty([pair])
    floor = 1 / math.sqrt(rank)
    for eps, tolerance in ((0.0, 1e-4), (1e-4, 1e-5)):
        expected = dense_penalty([exact], eps=eps)
        assert float(found) + floor == pytest.approx(float(expected) + floor, rel=tolerance)
        for one, other in zip(gradients(spectral_penalty([pair]), [pair]), gradients(expected, [exact]), strict=True):
            # a factor stored in 16 bits gets a gradient of 16 bits
            assert cosine(one, other) > 1 - (tolerance if stored == torch.float32 else 1e-4)


def test_factors_of_condition_1000_each_meet_the_twin_with_the_same_floor() -> None:
    A, B = factor_of_condition(32, 200, 1e3, seed=1).T.contiguous(), factor_of_condition(32, 150, 1e3, seed=2)
    pair, exact = live(LoraPair("m", A, B, 1.0)), live(LoraPair("m", A.double(), B.double(), 1.0))
    found, expected = spectral_penalty([pair]), dense_penalty([exact])
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for one, other in zip(gradients(found, [pair]), gradients(expected, [exact]), strict=True):
        assert cosine(one, other) > 1 - 1e-5


@pytest.mark.parametrize(("rank", "tolerance"), [(2, 1e-6), (8, 1e-6), (32, 5e-5)])
def test_long_factors_that_undo_each_others_condition_of_1000_meet_the_twin(rank, tolerance) -> None:
    V = torch.linalg.qr(torch.randn(rank, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))).Q
    stretch = torch.logspace(0, -3, rank, dtype=torch.float64)
    left, right = (factor_of_condition(rank, 1100, 1, seed=k, dtype=torch.float64) for k in (0, 1))
    spectrum = torch.logspace(0, -0.5, rank, dtype=torch.float64)
    A, B = (left * stretch @ V.T).T.float().contiguous(), (right * (stretch.flip(0) * spectrum) @ V.T).float()
    floor = 1 / math.sqrt(rank)
    found = float(spectral_penalty([LoraPair("m", A, B, 1.0)])) + floor
    expected = float(dense_penalty([LoraPair("m", A.double(), B.double(), 1.0)])) + floor
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spectrum", [[1.0] * 4, [3.0, 1.0, 1.0, 1.0], [2.0, 1.0, 0.0, 0.0], [1e-9, 1e-10, 1e-11, 0.0]])
def test_repeated_tiny_and_zero_singular_values_give_finite_gradients(kind, spectrum) -> None:
    for dtype in (torch.float32, torch.float64):
        pairs = [live(pair_of_spectrum(spectrum, dtype=dtype))]
        value = spectral_penalty(pairs, kind, target=TARGET)
        assert bool(value.isfinite())
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(value, pairs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_update_gives_value_and_gradient_zero_beside_others(kind) -> None:
    zero = random_pair(3, 7, 6, seed=3)
    zero = live(zero._replace(B_O_R=torch.zeros_like(zero.B_O_R)))
    other = live(random_pair(3, 7, 6, seed=4))
    value = spectral_penalty([zero, other], kind, target=TARGET)
    assert value.item() == pytest.approx(spectral_penalty([other], kind, target=TARGET).item() / 2)
    grads = gradients(value, [zero, other])
    assert float(grads[0].abs().max()) == float(grads[1].abs().max()) == 0.0
    assert float(grads[2].abs().max()) > 0
    assert float(spectral_penalty([zero], kind, target=TARGET)) == 0.0


def test_shapes_are_zero_for_a_flat_spectrum_and_largest_for_rank_one() -> None:
    flat, one = [pair_of_spectrum([2.0] * 4)], [pair_of_spectrum([2.0, 0, 0, 0])]
    for kind, largest in (
        ("frobenius_nuclear", 0.5),
        ("spectral_entropy", math.log(4)),
        ("condition_number", math.log(1e4)),
        ("stable_rank", 1 - 1 / 4),
    ):
        target = 4.0 if kind == "stable_rank" else 0.0
        assert float(spectral_penalty(flat, kind, target=target)) == pytest.approx(0, abs=0.008), kind
        assert float(spectral_penalty(one, kind, target=target)) == pytest.approx(largest, rel=0.005), kind


@pytest.mark.parametrize("kind", ["frobenius_nuclear", "spectral_entropy", "condition_number", "stable_rank"])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_shapes_do_not_depend_on_the_scale_and_their_gradient_falls_with_it(kind, seed, factor) -> None:
    pair = live(random_pair(3, 8, 7, seed=seed, dtype=torch.float64))
    scaled = live(pair._replace(B_O_R=(pair.B_O_R * factor).detach(), scale=pair.scale * 3))
    one, other = spectral_penalty([pair], kind, target=3.0), spectral_penalty([scaled], kind, target=3.0)
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradients(one, [pair])[1], gradients(other, [scaled])[1] * factor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_value_depends_on_the_product_alone_whatever_the_gauge(kind, seed) -> None:
    pair = random_pair(3, 8, 7, seed=seed, dtype=torch.float64)
    C = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3 * torch.eye(3)
    other = pair._replace(A_R_I=C @ pair.A_R_I, B_O_R=pair.B_O_R @ torch.linalg.inv(C))
    values = [spectral_penalty([one], kind, target=TARGET) for one in (pair, other)]
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-8)


def test_the_mean_does_not_depend_on_the_order_of_the_pairs() -> None:
    pairs = pairs_of()
    found = gradients(spectral_penalty(pairs), pairs)
    turned = gradients(spectral_penalty(pairs[::-1]), pairs)
    for one, other in zip(found, turned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_under_bfloat16_autocast_value_and_gradient_are_those_without(kind) -> None:
    outside, inside = pairs_of(torch.float32, kind=kind), pairs_of(torch.float32, kind=kind)
    plain = spectral_penalty(outside, kind, target=TARGET)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = spectral_penalty(inside, kind, target=TARGET)
        found = gradients(cast, inside)
    assert cast.dtype == torch.float32
    assert float(cast) == float(plain)
    for one, other in zip(found, gradients(plain, outside), strict=True):
        assert torch.equal(one, other)


def test_norms_are_those_of_the_scaled_update() -> None:
    pair = random_pair(3, 8, 7, seed=1, dtype=torch.float64)._replace(scale=-0.3)
    values = torch.linalg.svdvals(-0.3 * pair.B_O_R @ pair.A_R_I)[:3]
    assert float(spectral_penalty([pair], "norm_only")) == pytest.approx(float(values.norm()))
    assert float(spectral_penalty([pair], "nuclear_norm")) == pytest.approx(float(values.sum()), rel=1e-6)
    assert float(spectral_penalty([pair], "spectral_norm")) == pytest.approx(float(values[0]), rel=5e-3)


def test_what_is_no_function_of_the_factors_or_no_pair_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="norm_only"):
        spectral_penalty([random_pair()], "norm_onli")
    with pytest.raises(UnknownNameError, match="penalty of factors"):
        spectral_penalty([random_pair()], "project")
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        spectral_penalty([])
