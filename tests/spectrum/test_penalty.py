"""The penalty in a training loop: what it does to gradients and parameters, its modes, limits and state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from narrowly.records.errors import AdapterError, SpecError, TrainingError, UnknownNameError
from narrowly.spectrum import (
    LoraPair,
    SpectralPenalty,
    flatten_storage,
    pairs_from_model,
    singular_values_g1,
    spectral_penalty,
)
from penalty_twins import cosine, dense_penalty, gradients
from spectrum_cases import dense, dense_values, live, pair_of_spectrum, random_pair
from tiny_adapters import tiny_model
from ulps import ulps_of_largest

SHAPES = [(1, 5, 6), (3, 12, 9), (3, 9, 12), (3, 12, 9), (3, 12, 9), (6, 4, 20), (5, 20, 3)]
LOSS_KINDS = ("frobenius_nuclear", "norm_held", "spectral_entropy", "stable_rank", "spectral_norm", "nuclear_norm")


def pairs_of(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[LoraPair]:
    pairs = [random_pair(*shape, seed=seed + i, dtype=dtype, scale=1.0 + i) for i, shape in enumerate(SHAPES)]
    return [pair._replace(A_R_I=as_parameter(pair.A_R_I), B_O_R=as_parameter(pair.B_O_R)) for pair in pairs]


def as_parameter(factor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(factor.clone())


def factors_of(pairs: list[LoraPair]) -> list[torch.Tensor]:
    return [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]


def tiny_lora():
    """Return a tiny PEFT model and a function that runs it on a batch (with right padding) and returns a loss."""

    def run(model: torch.nn.Module, padding: int = 0) -> torch.Tensor:
        ids = torch.arange(12).reshape(2, 6)
        mask = torch.ones_like(ids)
        if padding:
            ids = torch.cat([ids, torch.full((2, padding), 7)], 1)
            mask = torch.cat([mask, torch.zeros(2, padding, dtype=mask.dtype)], 1)
        return model(input_ids=ids, attention_mask=mask).logits[:, :6].square().mean()

    return tiny_model(), run


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).norm()) <= 1e-4 * float(expected.norm()) + 1e-7


def options(kind: str) -> dict[str, float]:
    return {"target": 2.5} if kind == "stable_rank" else {}


# ---------------------------------------------------------------------------------------------- mode loss


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", [k for k in LOSS_KINDS if k != "norm_held"])
def test_seeding_adds_lambda_times_the_gradient_once_and_returns_the_value(kind, flat) -> None:
    pairs = pairs_of()
    if flat:
        flatten_storage(pairs)
    expected = [g * 0.3 * 2 for g in gradients(spectral_penalty(pairs, kind, **options(kind)), pairs)]
    factors = factors_of(pairs)
    factors[0].grad = torch.ones_like(factors[0])
    penalty = SpectralPenalty(pairs, 0.3, kind, **options(kind))
    value = penalty.seed_gradients(scale=2.0)
    assert float(value) == pytest.approx(float(penalty.value()))
    assert float(value) == pytest.approx(float(spectral_penalty(pairs, kind, **options(kind))), rel=1e-6)
    torch.testing.assert_close(factors[0].grad, expected[0] + 1)
    for factor, gradient in zip(factors[1:], expected[1:], strict=True):
        assert_near(factor.grad, gradient)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_flat_storage_changes_neither_values_nor_gradients_nor_identity_over_several_steps(set_to_none) -> None:
    separate, flat = pairs_of(), pairs_of()
    before = [id(factor) for factor in factors_of(flat)]
    flatten_storage(flat)
    assert [id(factor) for factor in factors_of(flat)] == before
    assert len({factor.untyped_storage().data_ptr() for factor in factors_of(flat)}) < len(factors_of(flat))
    for pairs in (separate, flat):
        optimizer = torch.optim.SGD(factors_of(pairs), lr=0.1, momentum=0.9)
        penalty = SpectralPenalty(pairs, lam=1.0)
        for step in range(4):
            optimizer.zero_grad(set_to_none=set_to_none)
            penalty.seed_gradients()
            sum((factor * (step + 1)).square().sum() for factor in factors_of(pairs)).backward()
            optimizer.step()
    for one, other in zip(factors_of(separate), factors_of(flat), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_flat_storage_that_is_lost_again_is_noticed() -> None:
    pairs = pairs_of()
    flatten_storage(pairs)
    penalty = SpectralPenalty(pairs, lam=1.0)
    penalty.seed_gradients()
    for factor in factors_of(pairs):
        factor.data = factor.data.clone() * 2
        factor.grad = None
    expected = gradients(spectral_penalty(pairs), pairs)
    penalty.seed_gradients()
    for factor, gradient in zip(factors_of(pairs), expected, strict=True):
        assert_near(factor.grad, gradient)


def test_a_factor_of_two_pairs_cannot_be_laid_flat() -> None:
    pair = pairs_of()[1]
    with pytest.raises(AdapterError, match="used by two pairs"):
        flatten_storage([pair, pair._replace(B_O_R=as_parameter(pair.B_O_R))])


SEEDED_ULPS = 2.0
"""Units in the last place of a gradient's largest entry; at most 0.5 in 180 draws under each of four instruction sets.

Seeded, a gradient is a product in a batch of one shape; in the loss it is a product by itself. Libraries and processors
sum the two in their own orders.
"""


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_seeding_is_the_penalty_in_the_loss_but_for_the_last_place(seed, flat) -> None:
    seeded, added, twice = pairs_of(seed=100 * seed), pairs_of(seed=100 * seed), pairs_of(seed=100 * seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(5, pair.A_R_I.shape[1], generator=generator) for pair in seeded]

    def loss(pairs: list[LoraPair]) -> torch.Tensor:
        outputs = [x @ pair.A_R_I.T @ pair.B_O_R.T for x, pair in zip(inputs, pairs, strict=True)]
        return torch.stack([output.square().mean() for output in outputs]).sum()

    if flat:
        flatten_storage(seeded)
    SpectralPenalty(seeded, lam=0.5).seed_gradients()
    loss(seeded).backward()
    (loss(added) + 0.5 * spectral_penalty(added)).backward()
    (loss(twice) + 0.501 * spectral_penalty(twice)).backward()
    apart = [
        max(ulps_of_largest(one.grad, other.grad) for one, other in zip(*map(factors_of, (pairs, added)), strict=True))
        for pairs in (seeded, twice)
    ]
    assert apart[0] <= SEEDED_ULPS < apart[1]  # a lambda that is off by 2e-3 is seen


def test_lambda_zero_touches_no_gradient_but_still_tells_the_value() -> None:
    pairs = pairs_of()
    kept = torch.randn_like(pairs[0].A_R_I)
    pairs[0].A_R_I.grad = kept.clone()
    assert SpectralPenalty(pairs, lam=0.0).seed_gradients() > 0
    assert torch.equal(pairs[0].A_R_I.grad, kept)
    assert pairs[0].B_O_R.grad is None
    assert pairs[1].A_R_I.grad is None


def test_a_frozen_factor_gets_no_gradient_and_is_not_moved() -> None:
    pairs = pairs_of()
    pairs[1].A_R_I.requires_grad_(False)
    pairs[2].B_O_R.requires_grad_(False)
    SpectralPenalty(pairs, lam=1.0).seed_gradients()
    assert pairs[1].A_R_I.grad is None and pairs[2].B_O_R.grad is None
    free = [factor for factor in factors_of(pairs) if factor.requires_grad]
    expected = torch.autograd.grad(spectral_penalty(pairs), free)
    for factor, gradient in zip(free, expected, strict=True):
        assert_near(factor.grad, gradient)
    frozen = pairs[1].A_R_I.detach().clone(), pairs[2].B_O_R.detach().clone()
    optimizer = torch.optim.SGD(free, lr=1.0)
    SpectralPenalty(pairs, 1.0, mode="decoupled").apply(optimizer)
    SpectralPenalty(pairs, 1.0, "project").apply(optimizer)
    assert torch.equal(frozen[0], pairs[1].A_R_I) and torch.equal(frozen[1], pairs[2].B_O_R)


def test_half_precision_factors_get_gradients_of_their_dtype_from_a_float32_computation() -> None:
    pair = random_pair()
    half = live(pair._replace(A_R_I=pair.A_R_I.bfloat16(), B_O_R=pair.B_O_R))
    SpectralPenalty([half], lam=1.0).seed_gradients()
    SpectralPenalty([half], lam=1.0).seed_gradients()
    exact = live(half._replace(A_R_I=half.A_R_I.detach().double(), B_O_R=half.B_O_R.detach().double()))
    expected = gradients(dense_penalty([exact]), [exact])
    assert half.A_R_I.grad.dtype == torch.bfloat16 and half.B_O_R.grad.dtype == torch.float32
    assert cosine(half.A_R_I.grad, expected[0]) > 0.9999
    torch.testing.assert_close(half.B_O_R.grad.double(), 2 * expected[1], rtol=1e-4, atol=1e-6)


def test_under_bfloat16_autocast_gradients_are_those_without() -> None:
    outside, inside = pairs_of(), pairs_of()
    SpectralPenalty(outside, lam=1.0).seed_gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        SpectralPenalty(inside, lam=1.0).seed_gradients()
    assert all(
        torch.equal(one.grad, other.grad) for one, other in zip(*map(factors_of, (outside, inside)), strict=True)
    )


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


class Recorded(TorchDispatchMode):
    """Collects the names of all operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


WAITS_OR_SOLVES = (
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "equal",
    "item",
    "linalg",
    "eig",
    "svd",
    "_qr",
    "cholesky",
)


@pytest.mark.parametrize("kind", [*LOSS_KINDS, "condition_number", "norm_only", "project"])
@pytest.mark.parametrize("mode", ["loss", "decoupled"])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_no_step_waits_for_the_device_or_calls_a_solver(kind, mode, limit) -> None:
    if kind == "project" and (mode == "loss" or limit):
        return
    pairs = pairs_of()[1:5]
    penalty = SpectralPenalty(pairs, 0.1, kind, mode=mode, max_grad_ratio=limit, **options(kind))
    optimizer = torch.optim.SGD(factors_of(pairs), lr=0.1)
    with Recorded() as recorded:
        for _ in range(2):
            penalty.seed_gradients() if mode == "loss" else penalty.apply(optimizer)
            sum(factor.square().sum() for factor in factors_of(pairs)).backward()
    assert "bmm" in recorded.names
    found = {name for name in recorded.names if any(word in name for word in WAITS_OR_SOLVES)}
    assert found <= {"linalg_vector_norm"}
    with Recorded() as recorded:
        float(penalty.value())
    assert "_local_scalar_dense" in recorded.names  # so that the test can fail


# ------------------------------------------------------------------------------------ warm-up and the cap


def test_lambda_rises_linearly_over_the_warm_up() -> None:
    pairs = pairs_of()
    penalty = SpectralPenalty(pairs, 0.8, warmup_steps=4)
    full = gradients(spectral_penalty(pairs), pairs)[3] * 0.8
    for factor in (0.0, 0.25, 0.5, 0.75, 1.0, 1.0):
        pairs[1].B_O_R.grad = None
        assert penalty.current_lam == pytest.approx(0.8 * factor)
        penalty.seed_gradients()
        torch.testing.assert_close(pairs[1].B_O_R.grad, full * factor, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_cap_follows_the_unclipped_task_gradient_of_the_step_before(accumulation, scale) -> None:
    pairs = pairs_of()
    factors = factors_of(pairs)
    optimizer = torch.optim.SGD(factors, lr=1e-3)
    penalty = SpectralPenalty(pairs, 1e4, max_grad_ratio=0.1)
    task = 0.0
    for step in range(4):
        optimizer.zero_grad()
        penalty.seed_gradients(scale)
        seeds = [torch.zeros_like(f) if f.grad is None else f.grad.clone() for f in factors]
        norm = math.sqrt(sum(float(seed.square().sum()) for seed in seeds)) / scale
        assert norm == pytest.approx(0.1 * task, rel=1e-4, abs=1e-9)
        for _ in range(accumulation):
            loss = sum((f + step).square().sum() for f in factors) / accumulation
            (scale * loss).backward()
        added = [(f.grad - seed) / scale for f, seed in zip(factors, seeds, strict=True)]
        task = math.sqrt(sum(float(one.square().sum()) for one in added))
        torch.nn.utils.clip_grad_norm_(factors, 0.01)
        optimizer.step()


def test_the_cap_leaves_a_small_penalty_alone() -> None:
    capped, free = pairs_of(), pairs_of()
    for pairs, limit in ((capped, 10.0), (free, None)):
        penalty = SpectralPenalty(pairs, 1e-3, max_grad_ratio=limit)
        for _ in range(2):
            for factor in factors_of(pairs):
                factor.grad = None
            penalty.seed_gradients()
            seeds = [None if factor.grad is None else factor.grad.clone() for factor in factors_of(pairs)]
            sum(factor.square().sum() for factor in factors_of(pairs)).backward()
        pairs.append(seeds)  # type: ignore[arg-type]
    for one, other in zip(capped[-1], free[-1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------------------- mode decoupled


@pytest.mark.parametrize("flat", [False, True])
def test_decoupled_moves_every_factor_by_its_own_lr_times_the_gradient(flat) -> None:
    pairs = pairs_of()
    if flat:
        flatten_storage(pairs)
    expected = gradients(spectral_penalty(pairs), pairs)
    before = [factor.detach().clone() for factor in factors_of(pairs)]
    groups = [{"params": [p.A_R_I for p in pairs], "lr": 0.1}, {"params": [p.B_O_R for p in pairs], "lr": 0.7}]
    SpectralPenalty(pairs, 0.5, mode="decoupled").apply(torch.optim.SGD(groups, lr=1.0))
    for index, (factor, start, gradient) in enumerate(zip(factors_of(pairs), before, expected, strict=True)):
        lr = 0.1 if index % 2 == 0 else 0.7
        torch.testing.assert_close(factor.detach(), start - lr * 0.5 * gradient, rtol=1e-5, atol=1e-6)
        assert factor.grad is None


def test_decoupled_reads_rates_from_tensors_and_is_capped_by_the_gradients_about_to_be_applied() -> None:
    pairs = pairs_of()
    before = [factor.detach().clone() for factor in factors_of(pairs)]
    for factor in factors_of(pairs):
        factor.grad = torch.full_like(factor, 1e-3)
    task = math.sqrt(sum(float(factor.grad.square().sum()) for factor in factors_of(pairs)))
    optimizer = torch.optim.SGD(factors_of(pairs), lr=torch.tensor(0.5), foreach=False)
    SpectralPenalty(pairs, 1e4, mode="decoupled", max_grad_ratio=0.2).apply(optimizer)
    moved = math.sqrt(sum(float((f - b).square().sum()) for f, b in zip(factors_of(pairs), before, strict=True)))
    assert moved == pytest.approx(0.5 * 0.2 * task, rel=1e-3)


def test_norm_held_changes_no_norm_to_first_order_as_loss_and_at_all_when_decoupled() -> None:
    def norms(pairs: list[LoraPair]) -> torch.Tensor:
        return torch.stack([dense(pair).norm() for pair in pairs])

    change = {}
    for kind in ("norm_held", "frobenius_nuclear"):
        for step in (1e-2, 1e-3):
            pairs = pairs_of(torch.float64)[1:5]
            start = norms(pairs)
            SpectralPenalty(pairs, 1.0, kind).seed_gradients()
            with torch.no_grad():
                for factor in factors_of(pairs):
                    factor -= step * factor.grad
            change[kind, step] = float(((norms(pairs) - start) / start).abs().max())
    assert change["norm_held", 1e-2] / change["norm_held", 1e-3] == pytest.approx(100, rel=0.2)
    assert change["frobenius_nuclear", 1e-2] / change["frobenius_nuclear", 1e-3] == pytest.approx(10, rel=0.2)

    pairs = pairs_of(torch.float64)[1:5]
    start, ratio = norms(pairs), spectral_penalty(pairs)
    SpectralPenalty(pairs, 1.0, "norm_held", mode="decoupled").apply(torch.optim.SGD(factors_of(pairs), lr=0.3))
    torch.testing.assert_close(norms(pairs), start, rtol=1e-12, atol=0)
    assert spectral_penalty(pairs) < ratio


def test_norm_held_is_the_papers_gradient_without_its_part_along_the_norms() -> None:
    pair = live(random_pair(3, 8, 7, seed=2, dtype=torch.float64))
    plain = torch.cat([g.flatten() for g in gradients(spectral_penalty([pair]), [pair])])
    norm = torch.cat([g.flatten() for g in gradients(spectral_penalty([pair], "norm_only"), [pair])])
    SpectralPenalty([pair], 1.0, "norm_held").seed_gradients()
    held = torch.cat([pair.A_R_I.grad.flatten(), pair.B_O_R.grad.flatten()])
    torch.testing.assert_close(held, plain - norm * (plain @ norm) / (norm @ norm))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_projection_flattens_by_its_strength_at_the_same_norm_and_singular_vectors(strength) -> None:
    pairs = [live(pair_of_spectrum([5.0, 1.0, 1.0, 0.5], dtype=torch.float64)), *pairs_of(torch.float64)]
    before = [(dense(pair), dense_values(pair)) for pair in pairs]
    penalty = SpectralPenalty(pairs, strength, "project", every=3)
    optimizer = torch.optim.SGD(factors_of(pairs), lr=0.1)
    for _ in range(2):
        penalty.apply(optimizer)
    assert torch.equal(dense(pairs[0]), before[0][0])
    penalty.apply(optimizer)
    for pair, (M, S) in zip(pairs, before, strict=True):
        expected = (1 - strength) * S + strength * S.norm() / math.sqrt(len(S))
        expected = expected * S.norm() / expected.norm()
        torch.testing.assert_close(dense_values(pair), expected, rtol=1e-6, atol=1e-8)
        if strength < 1:
            U, _, Vh = torch.linalg.svd(M, full_matrices=False)
            inside = U[:, : len(S)].T @ dense(pair) @ Vh[: len(S)].T
            torch.testing.assert_close(inside.diagonal(), expected, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------------ functional


def test_functional_weights_the_spectrum_by_the_inputs_covariance_as_the_dense_twin_does() -> None:
    model, run = tiny_lora()
    penalty = SpectralPenalty(model, 0.7, "functional", decay=0.5)
    seen: dict[str, list[torch.Tensor]] = {pair.name: [] for pair in penalty.pairs}
    for name, module in model.named_modules():
        for pair in penalty.pairs:
            if name.endswith(f"{pair.name}.lora_A.default"):
                module.register_forward_pre_hook(lambda _, args, key=pair.name: seen[key].append(args[0].detach()))
    model.train()
    assert float(penalty.seed_gradients()) == 0.0  # nothing has been read yet
    run(model)
    model.eval()
    run(model)  # an evaluation is not training
    model.train()
    for factor in factors_of(penalty.pairs):
        factor.grad = None
    value = penalty.seed_gradients()
    weighted = []
    for pair in penalty.pairs:
        X = seen[pair.name][0].flatten(0, -2).double()
        root = torch.linalg.cholesky(X.T @ X + 1e-12 * torch.eye(X.shape[1], dtype=torch.float64))
        A = pair.A_R_I.detach().double().requires_grad_()
        B = pair.B_O_R.detach().double().requires_grad_()
        weighted.append((pair, A, B, LoraPair(pair.name, A @ root, B, pair.scale)))
    expected = dense_penalty([one[3] for one in weighted])
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    expected.backward()
    for pair, A, B, _ in weighted:
        assert cosine(pair.A_R_I.grad, A.grad) > 0.9999
        assert cosine(pair.B_O_R.grad, B.grad) > 0.9999
        assert float(pair.B_O_R.grad.norm()) == pytest.approx(0.7 * float(B.grad.norm()), rel=1e-3)


def test_functional_leaves_padding_out_and_forgets_by_its_decay() -> None:
    model, run = tiny_lora()
    model.train()
    first = SpectralPenalty(model, 0.1, "functional", decay=0.25)
    run(model, padding=3)
    padded = [moment.clone() for moment in first.state_dict()["covariance"]]
    first.seed_gradients()
    for faded, before in zip(first.state_dict()["covariance"], padded, strict=True):
        torch.testing.assert_close(faded, 0.25 * before)
    other, run = tiny_lora()
    other.train()
    plain = SpectralPenalty(other, 0.1, "functional", decay=0.25)
    run(other)
    for one, moment in zip(plain.state_dict()["covariance"], padded, strict=True):
        torch.testing.assert_close(one, moment, rtol=1e-4, atol=1e-4)


def test_functional_with_a_diagonal_covariance_is_that_of_scaled_inputs() -> None:
    model, run = tiny_lora()
    model.train()
    full, diagonal = (SpectralPenalty(model, 0.1, "functional", covariance=c) for c in ("full", "diagonal"))
    run(model)
    for matrix, line in zip(full.state_dict()["covariance"], diagonal.state_dict()["covariance"], strict=True):
        torch.testing.assert_close(matrix.diagonal(), line)
    pairs = diagonal.pairs
    roots = [line.sqrt() for line in diagonal.state_dict()["covariance"]]
    scaled = [pair._replace(A_R_I=pair.A_R_I * root) for pair, root in zip(pairs, roots, strict=True)]
    assert float(diagonal.value()) == pytest.approx(float(spectral_penalty(scaled)), rel=1e-5)


# ----------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("arguments", [{"warmup_steps": 5}, {"max_grad_ratio": 0.1}, {"kind": "functional"}])
def test_a_restored_penalty_goes_on_as_if_nothing_had_happened(arguments) -> None:
    model, run = tiny_lora()
    model.train()
    penalty = SpectralPenalty(model, 5.0, **arguments)
    for _ in range(2):
        model.zero_grad()
        penalty.seed_gradients()
        run(model).backward()
    state = copy.deepcopy(penalty.state_dict())
    restored = SpectralPenalty(model, 5.0, **arguments)
    restored.load_state_dict(state)
    found = []
    for one in (penalty, restored):
        model.zero_grad()
        one.seed_gradients()
        found.append([factor.grad.clone() for factor in factors_of(one.pairs)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert float(found[0][0].norm()) > 0


def test_the_state_of_another_penalty_is_refused() -> None:
    pairs = pairs_of()
    state = SpectralPenalty(pairs, 1.0, "nuclear_norm").state_dict()
    with pytest.raises(SpecError, match="found kind 'nuclear_norm'"):
        SpectralPenalty(pairs, 1.0).load_state_dict(state)
    with pytest.raises(SpecError, match="task_gradient_norm"):
        SpectralPenalty(pairs, 1.0, max_grad_ratio=1.0).load_state_dict(SpectralPenalty(pairs, 1.0).state_dict())


# ---------------------------------------------------------------------------------------------- the paper's form


def test_the_papers_form_has_the_same_gradient_where_its_jitter_is_small() -> None:
    shapes = [pair for pair in pairs_of() if pair.B_O_R.shape[0] >= pair.rank]
    found = [torch.autograd.grad(spectral_penalty(shapes), factors_of(shapes))]
    value = SpectralPenalty(shapes, 1.0, form="cholesky_g1").seed_gradients()
    assert float(value) == pytest.approx(float(spectral_penalty(shapes)), rel=1e-5)
    for factor, gradient in zip(factors_of(shapes), found[0], strict=True):
        torch.testing.assert_close(factor.grad, gradient, rtol=1e-3, atol=1e-5)


def test_the_papers_form_says_that_a_b_of_deficient_rank_is_beyond_it() -> None:
    # 28 pivots are rounding alone: 300 of 300 draws fail under each of four instruction sets, at rank 6 not all do
    pair = live(random_pair(32, 4, 20, seed=4))
    assert SpectralPenalty([pair], lam=1.0).seed_gradients() > 0
    with pytest.raises(TrainingError, match=r"accepted: B of full rank .* the form gram has none"):
        SpectralPenalty([pair], lam=1.0, form="cholesky_g1").seed_gradients()
    with pytest.raises(AdapterError, match="q_proj: the paper's Cholesky form failed"):
        singular_values_g1(pair)


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lam": -0.1}, SpecError, r"penalty lambda is -0.1, accepted: a finite number of at least 0 \(0 switches"),
        ({"lam": math.nan}, SpecError, "penalty lambda is nan"),
        ({"lam": True}, SpecError, "penalty lambda is True"),
        ({"lam": 1.5, "kind": "project"}, SpecError, "a number from 0 to 1"),
        ({"kind": "frobenius_nuklear"}, UnknownNameError, "did you mean 'frobenius_nuclear'"),
        ({"form": "cholesky_g2"}, UnknownNameError, "did you mean 'cholesky_g1'"),
        ({"mode": "decouple"}, UnknownNameError, "did you mean 'decoupled'"),
        ({"warmup_steps": -1}, SpecError, "penalty warmup_steps is -1"),
        ({"warmup_steps": 2.5}, SpecError, "penalty warmup_steps is 2.5, accepted: a whole number"),
        ({"every": 1.5, "kind": "project"}, SpecError, "penalty every is 1.5, accepted: a whole number"),
        ({"max_grad_ratio": -1}, SpecError, "penalty max_grad_ratio is -1"),
        ({"kind": "stable_rank"}, SpecError, "target is missing"),
        ({"kind": "stable_rank", "target": 0.5}, SpecError, "penalty target is 0.5"),
        ({"target": 3}, SpecError, "target is set, accepted: only for stable_rank"),
        ({"every": 3}, SpecError, "every is set, accepted: only for project"),
        ({"decay": 0.5}, SpecError, "accepted: only for functional"),
        ({"kind": "project", "mode": "loss"}, SpecError, "accepted: 'decoupled'"),
        ({"kind": "project", "max_grad_ratio": 1}, SpecError, "max_grad_ratio is set, accepted: none"),
        ({"kind": "norm_only", "form": "cholesky_g1"}, SpecError, "found kind norm_only"),
        ({"kind": "functional"}, AdapterError, "accepted: a PEFT model"),
        ({"kind": "condition_number"}, AdapterError, "rank 6 exceeds a side of 4 x 20"),
    ],
)
def test_what_a_penalty_cannot_be_is_refused_in_one_line(arguments, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        SpectralPenalty(pairs_of(), **({"lam": 0.1} | arguments))
    assert "\n" not in str(caught.value)


def test_no_pairs_mismatched_ranks_and_models_without_adapters_are_refused() -> None:
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        SpectralPenalty([], lam=1.0)
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        SpectralPenalty(torch.nn.Linear(3, 3), lam=1.0)
    with pytest.raises(AdapterError, match="rank mismatch"):
        SpectralPenalty([LoraPair("m", torch.ones(3, 4), torch.ones(5, 2), 1.0)], lam=1.0)


def test_covariances_that_would_fill_the_memory_are_refused_before_they_are_made(monkeypatch) -> None:
    from narrowly.spectrum.penalty import covariance

    model, _ = tiny_lora()
    monkeypatch.setattr(covariance, "LARGEST", 100)
    with pytest.raises(SpecError, match=r"full covariances of \d+ modules take .*covariance: diagonal"):
        SpectralPenalty(model, 0.1, "functional")
    SpectralPenalty(model, 0.1, "functional", covariance="diagonal")
    with pytest.raises(UnknownNameError, match="diagonal"):
        SpectralPenalty(model, 0.1, "functional", covariance="diagonl")  # type: ignore[arg-type]


def test_each_mode_refuses_the_call_of_the_other() -> None:
    pairs = pairs_of()
    with pytest.raises(SpecError, match="call apply"):
        SpectralPenalty(pairs, 0.1, mode="decoupled").seed_gradients()
    with pytest.raises(SpecError, match="call seed_gradients"):
        SpectralPenalty(pairs, 0.1).apply(torch.optim.SGD(factors_of(pairs), lr=0.1))


def test_a_decoupled_penalty_of_another_model_is_refused_before_anything_moves() -> None:
    pairs, others = pairs_of(), pairs_of()
    before = [factor.detach().clone() for factor in factors_of(pairs)]
    with pytest.raises(TrainingError, match="are in no group of the optimiser"):
        SpectralPenalty(pairs, 0.1, mode="decoupled").apply(torch.optim.SGD(factors_of(others), lr=0.1))
    assert all(torch.equal(one, other) for one, other in zip(factors_of(pairs), before, strict=True))


def test_factors_that_this_process_holds_a_part_of_are_refused() -> None:
    class DTensor(torch.nn.Parameter):
        """Stands for torch.distributed.tensor.DTensor, which needs a process group."""

    pair = pairs_of()[1]
    with pytest.raises(AdapterError, match="is a DTensor"):
        SpectralPenalty([pair._replace(B_O_R=DTensor(pair.B_O_R.detach()))], 0.1)
    pair.A_R_I.ds_id = 3
    with pytest.raises(AdapterError, match="ZeRO-3"):
        SpectralPenalty([pair], 0.1)


def test_a_factor_that_becomes_nan_in_training_shows_in_the_value() -> None:
    pair = live(random_pair())
    penalty = SpectralPenalty([pair], lam=1.0)
    with torch.no_grad():
        pair.B_O_R[0, 0] = math.nan
    assert math.isnan(float(penalty.seed_gradients()))


def test_pairs_of_a_model_and_the_model_itself_give_the_same_penalty() -> None:
    model, _ = tiny_lora()
    assert float(SpectralPenalty(model, 1.0).value()) == float(SpectralPenalty(pairs_from_model(model), 1.0).value())
