"""The penalty: value and gradient against dense twins, its edge cases, and what it does to `.grad`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spectrum_cases import dense, live, pair_of_spectrum, random_pair

from spectralign.records.errors import AdapterError, SpecError, TrainingError, UnknownNameError
from spectralign.spectrum import LoraPair, SpectralPenalty, singular_values_g1, spectral_penalty

SHAPES = [(1, 5, 6), (3, 12, 9), (3, 9, 12), (3, 12, 9), (6, 4, 20), (5, 20, 3)]


def pairs_of(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[LoraPair]:
    return [live(random_pair(*shape, seed=seed + i, dtype=dtype)) for i, shape in enumerate(SHAPES)]


def pairs_for(form: str) -> list[LoraPair]:
    pairs = pairs_of(torch.float32)
    return pairs if form == "qr" else [pair for pair in pairs if pair.B_O_R.shape[0] >= pair.rank]


def dense_penalty(pairs: list[LoraPair]) -> torch.Tensor:
    """The definition, by autograd through a dense SVD of B A: the slow, obvious twin."""
    ratios = []
    for pair in pairs:
        values = torch.linalg.svdvals(pair.B_O_R @ pair.A_R_I)[: pair.rank]
        ratios.append(values.norm() / values.sum() - 1 / math.sqrt(min(pair.rank, *dense(pair).shape)))
    return torch.stack(ratios).mean()


def gradients(value: torch.Tensor, pairs: list[LoraPair]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_value_and_gradient_equal_autograd_through_a_dense_svd(seed) -> None:
    pairs = pairs_of(seed=seed)
    expected, found = dense_penalty(pairs), spectral_penalty(pairs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for one, other in zip(gradients(found, pairs), gradients(expected, pairs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("form", ["qr", "cholesky_g1"])
def test_the_gradient_equals_finite_differences_in_float64(form) -> None:
    pairs = [live(random_pair(3, 7, 6, seed=s, dtype=torch.float64)) for s in (1, 2)]
    flat = [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]

    def value(*factors: torch.Tensor) -> torch.Tensor:
        return spectral_penalty(
            [LoraPair("m", factors[2 * i], factors[2 * i + 1], 1.0) for i in range(len(pairs))], form
        )

    assert torch.autograd.gradcheck(value, flat, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_a_flat_update_costs_nothing_and_a_rank_one_update_the_most() -> None:
    assert float(spectral_penalty([pair_of_spectrum([2.0] * 4)])) == pytest.approx(0, abs=1e-6)
    assert float(spectral_penalty([pair_of_spectrum([2.0, 0, 0, 0])])) == pytest.approx(0.5, abs=1e-6)


def test_repeated_singular_values_have_a_finite_gradient_that_vanishes_when_all_are_equal() -> None:
    flat = [live(pair_of_spectrum([1.0] * 4, dtype=torch.float64))]
    twice = [live(pair_of_spectrum([3.0, 1.0, 1.0, 1.0], dtype=torch.float64))]
    for gradient in gradients(spectral_penalty(flat), flat):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)
    for one, other in zip(
        gradients(spectral_penalty(twice), twice), gradients(dense_penalty(twice), twice), strict=True
    ):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", ["qr", "cholesky_g1"])
def test_a_zero_update_contributes_no_value_and_no_gradient_beside_others(form) -> None:
    zero = random_pair(3, 7, 6, seed=3)
    zero = live(zero._replace(B_O_R=torch.zeros_like(zero.B_O_R)))
    other = live(random_pair(3, 7, 6, seed=4))
    alone = SpectralPenalty([other], 0.0, form).value()
    value = spectral_penalty([zero, other], form)
    assert value.item() == pytest.approx(alone / 2)
    grads = gradients(value, [zero, other])
    assert float(grads[0].abs().max()) == float(grads[1].abs().max()) == 0.0
    assert all(bool(gradient.isfinite().all()) for gradient in grads)
    assert float(spectral_penalty([zero], form)) == 0.0


def test_the_gradient_of_an_update_of_deficient_rank_is_finite_and_stays_in_its_span() -> None:
    pairs = [live(pair_of_spectrum([2.0, 1.0, 0.0, 0.0]))]
    grad_A, grad_B = gradients(spectral_penalty(pairs), pairs)
    assert bool(grad_A.isfinite().all() and grad_B.isfinite().all())
    span = torch.linalg.svd(dense(pairs[0])).U[:, :2]
    outside = grad_B.double() - span @ (span.T @ grad_B.double())
    assert float(outside.norm()) < 1e-4 * float(grad_B.norm())


def test_float32_gradients_stay_right_while_singular_values_span_three_decades() -> None:
    spectrum = torch.logspace(0, -3, 8).tolist()
    exact, single = live(pair_of_spectrum(spectrum, dtype=torch.float64)), live(pair_of_spectrum(spectrum))
    for one, other in zip(
        gradients(spectral_penalty([single]), [single]), gradients(dense_penalty([exact]), [exact]), strict=True
    ):
        assert cosine(one, other) > 0.9999


@pytest.mark.parametrize("form", ["qr", "cholesky_g1"])
def test_under_bfloat16_autocast_value_and_gradient_are_those_without(form) -> None:
    outside, inside = pairs_for(form), pairs_for(form)
    plain = spectral_penalty(outside, form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = spectral_penalty(inside, form)
    assert cast.dtype == torch.float32
    assert float(cast) == float(plain)
    for one, other in zip(gradients(cast, inside), gradients(plain, outside), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", ["qr", "cholesky_g1"])
def test_seeding_adds_lambda_times_the_gradient_once_and_returns_the_value(form) -> None:
    pairs = pairs_for(form)
    expected = [g * 0.3 * 2 for g in gradients(spectral_penalty(pairs, form), pairs)]
    factors = [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]
    factors[0].grad = torch.ones_like(factors[0])
    penalty = SpectralPenalty(pairs, lam=0.3, form=form)
    value = penalty.seed_gradients(scale=2.0)
    assert (
        value
        == pytest.approx(penalty.value(), abs=1e-6)
        == pytest.approx(float(spectral_penalty(pairs, form)), abs=1e-6)
    )
    torch.testing.assert_close(factors[0].grad, expected[0] + 1)
    for factor, gradient in zip(factors[1:], expected[1:], strict=True):
        torch.testing.assert_close(factor.grad, gradient, rtol=1e-5, atol=1e-7)


def test_seeding_equals_the_penalty_in_the_loss() -> None:
    inputs = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))

    def loss(pair: LoraPair) -> torch.Tensor:
        return (inputs @ pair.A_R_I.T @ pair.B_O_R.T).square().mean()

    seeded, added = live(random_pair(seed=5)), live(random_pair(seed=5))
    SpectralPenalty([seeded], lam=0.5).seed_gradients()
    loss(seeded).backward()
    (loss(added) + 0.5 * spectral_penalty([added])).backward()
    torch.testing.assert_close(seeded.A_R_I.grad, added.A_R_I.grad)
    torch.testing.assert_close(seeded.B_O_R.grad, added.B_O_R.grad)


def test_lambda_zero_touches_no_gradient_but_still_tells_the_value() -> None:
    pairs = pairs_of(torch.float32)
    kept = torch.randn_like(pairs[0].A_R_I)
    pairs[0].A_R_I.grad = kept.clone()
    assert SpectralPenalty(pairs, lam=0.0).seed_gradients() > 0
    assert torch.equal(pairs[0].A_R_I.grad, kept)
    assert pairs[0].B_O_R.grad is None
    assert pairs[1].A_R_I.grad is None


def test_a_frozen_factor_gets_no_gradient() -> None:
    pair = live(random_pair())
    pair.A_R_I.requires_grad_(False)
    SpectralPenalty([pair], lam=1.0).seed_gradients()
    assert pair.A_R_I.grad is None
    assert pair.B_O_R.grad is not None
    (gradient,) = torch.autograd.grad(spectral_penalty([pair]), [pair.B_O_R])
    torch.testing.assert_close(gradient, pair.B_O_R.grad)


def test_half_precision_factors_get_gradients_of_their_dtype_from_a_float32_computation() -> None:
    pair = random_pair()
    half = live(pair._replace(A_R_I=pair.A_R_I.bfloat16(), B_O_R=pair.B_O_R.bfloat16()))
    SpectralPenalty([half], lam=1.0).seed_gradients()
    exact = live(half._replace(A_R_I=half.A_R_I.detach().double(), B_O_R=half.B_O_R.detach().double()))
    assert half.B_O_R.grad.dtype == torch.bfloat16
    assert cosine(half.B_O_R.grad, gradients(dense_penalty([exact]), [exact])[1]) > 0.9999


def test_gradient_steps_flatten_a_peaked_update() -> None:
    pair = live(pair_of_spectrum([5.0, 1.0, 1.0, 0.5]))
    penalty = SpectralPenalty([pair], lam=1.0)
    before = penalty.value()
    optimizer = torch.optim.SGD([pair.A_R_I, pair.B_O_R], lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        penalty.seed_gradients()
        optimizer.step()
    assert penalty.value() < 0.5 * before


def test_bad_lambda_form_and_pairs_are_refused_in_one_line() -> None:
    pair = random_pair()
    for lam in (-0.1, math.nan, math.inf):
        with pytest.raises(SpecError, match=r"penalty lambda is .*, accepted"):
            SpectralPenalty([pair], lam=lam)
    with pytest.raises(UnknownNameError, match="did you mean 'cholesky_g1'"):
        SpectralPenalty([pair], lam=1.0, form="cholesky_g2")  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        SpectralPenalty([], lam=1.0)


def test_the_papers_form_says_that_a_b_of_deficient_rank_is_beyond_it() -> None:
    pair = live(random_pair(6, 4, 20, seed=4))
    assert SpectralPenalty([pair], lam=1.0, form="qr").seed_gradients() > 0
    with pytest.raises(TrainingError, match=r"accepted: B of full rank .* the form qr has no such limit"):
        SpectralPenalty([pair], lam=1.0, form="cholesky_g1").seed_gradients()
    with pytest.raises(AdapterError, match="q_proj: the paper's Cholesky form failed"):
        singular_values_g1(pair)


@pytest.mark.parametrize("form", ["qr", "cholesky_g1"])
def test_a_factor_that_becomes_nan_in_training_names_its_module(form) -> None:
    pair = live(random_pair())
    penalty = SpectralPenalty([pair], lam=1.0, form=form)
    with torch.no_grad():
        pair.B_O_R[0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"model\.layers\.0\.self_attn\.q_proj: lora_B holds 1 NaN"):
        penalty.seed_gradients()
