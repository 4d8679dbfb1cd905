"""What happens to the factors under a live penalty: moved, cast, tied, frozen, overflowed, copied, left behind."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from narrowly.records.errors import TrainingError
from narrowly.spectrum import LoraPair, SpectralPenalty, flatten_storage
from narrowly.spectrum.penalty import covariance, stacks
from narrowly.spectrum.penalty.precision import float32_products
from penalty_twins import dense_penalty
from spectrum_cases import dense, live, random_pair
from tiny_adapters import tiny_model


def three_pairs(dtype: torch.dtype = torch.float32) -> list[LoraPair]:
    pairs = [random_pair(3, 12, 9, seed=seed, scale=1.0 + seed, dtype=dtype) for seed in range(3)]
    return [pair._replace(A_R_I=torch.nn.Parameter(pair.A_R_I), B_O_R=torch.nn.Parameter(pair.B_O_R)) for pair in pairs]


def factors_of(pairs: list[LoraPair]) -> list[torch.Tensor]:
    return [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]


def clear(pairs: list[LoraPair]) -> None:
    for factor in factors_of(pairs):
        factor.grad = None


def norm_of(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def assert_seeds_equal_the_twin(penalty: SpectralPenalty, pairs: list[LoraPair], tolerance: float) -> None:
    """Compare with the dense twin; a factor of two pairs has to have the sum of both gradients."""
    copies = {id(factor): factor.detach().double().requires_grad_() for factor in factors_of(pairs)}
    exact = [pair._replace(A_R_I=copies[id(pair.A_R_I)], B_O_R=copies[id(pair.B_O_R)]) for pair in pairs]
    clear(pairs)
    value = penalty.seed_gradients()
    expected = dense_penalty(exact)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    expected.backward()
    for factor in factors_of(pairs):
        twin = copies[id(factor)].grad
        assert factor.grad.dtype == factor.dtype
        assert float((factor.grad.double() - twin).norm()) <= tolerance * float(twin.norm())


# ----------------------------------------------------------------------------------- moved, cast, tied


@pytest.mark.parametrize("which", [0, 3, 5])
def test_one_factor_that_leaves_flat_storage_is_noticed(which: int) -> None:
    pairs = three_pairs()
    flatten_storage(pairs)
    penalty = SpectralPenalty(pairs, 1.0)
    penalty.seed_gradients()
    factor = factors_of(pairs)[which]
    factor.data = factor.data * torch.linspace(0.2, 3, factor.shape[1])
    assert_seeds_equal_the_twin(penalty, pairs, 1e-5)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "tolerance"),
    [
        (torch.float32, torch.bfloat16, 1e-2),
        (torch.bfloat16, torch.float32, 1e-5),
        (torch.float32, torch.float64, 1e-9),
        (torch.float64, torch.float32, 1e-5),
    ],
)
def test_factors_may_change_their_dtype_between_two_steps(before, after, tolerance, flat) -> None:
    pairs = three_pairs(before)
    if flat:
        flatten_storage(pairs)
    penalty = SpectralPenalty(pairs, 1.0)
    penalty.seed_gradients()
    clear(pairs)
    for factor in factors_of(pairs):
        factor.data = factor.data.to(after)  # what model.to(after) does
    assert_seeds_equal_the_twin(penalty, pairs, tolerance)


@pytest.mark.parametrize("single", [("cpu",), ()])  # () reads separate factors in chunks, as accelerators do
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_factor_of_two_pairs_gets_both_gradients(dtype, single, monkeypatch) -> None:
    monkeypatch.setattr(stacks, "_SINGLE", single)
    pairs = three_pairs(dtype)
    pairs[1] = pairs[1]._replace(A_R_I=pairs[0].A_R_I)
    assert_seeds_equal_the_twin(SpectralPenalty(pairs, 1.0), pairs, 1e-5 if dtype == torch.float32 else 1e-2)


def test_factors_read_in_chunks_get_the_gradients_of_factors_read_one_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(stacks, "_SINGLE", ())
    pairs = three_pairs()
    assert_seeds_equal_the_twin(SpectralPenalty(pairs, 1.0), pairs, 1e-5)


# ------------------------------------------------------------------------------------------------ frozen


@pytest.mark.parametrize("frozen", ["A_R_I", "B_O_R"])
def test_norm_held_holds_the_norm_by_the_factor_that_is_trained(frozen: str) -> None:
    change = {}
    for step in (1e-2, 1e-3):
        pairs = three_pairs(torch.float64)
        for pair in pairs:
            getattr(pair, frozen).requires_grad_(False)
        start = [float(dense(pair).norm()) for pair in pairs]
        SpectralPenalty(pairs, 100.0, "norm_held").seed_gradients()
        with torch.no_grad():
            for factor in factors_of(pairs):
                if factor.grad is not None:
                    factor -= step * factor.grad
        change[step] = max(abs(float(dense(p).norm()) / n - 1) for p, n in zip(pairs, start, strict=True))
    assert change[1e-2] / change[1e-3] == pytest.approx(100, rel=0.2)  # to second order

    start = [float(dense(pair).norm()) for pair in pairs]
    SpectralPenalty(pairs, 100.0, "norm_held", mode="decoupled").apply(torch.optim.SGD(factors_of(pairs), lr=0.01))
    assert [float(dense(pair).norm()) for pair in pairs] == pytest.approx(start, rel=1e-12)


def test_the_cap_measures_the_gradient_of_trained_factors_alone() -> None:
    pairs = three_pairs()
    for pair in pairs:
        pair.A_R_I.requires_grad_(False)
    penalty = SpectralPenalty(pairs, 1e4, max_grad_ratio=0.5)
    task = torch.tensor(0.0)
    for _ in range(2):
        clear(pairs)
        penalty.seed_gradients()
        seed = norm_of([pair.B_O_R.grad for pair in pairs])
        task = sum(pair.B_O_R.sum() for pair in pairs)
        task.backward()
    assert seed == pytest.approx(0.5 * math.sqrt(3 * 12 * 3), rel=1e-4)


def test_a_penalty_that_could_move_nothing_is_refused_and_lambda_zero_is_not() -> None:
    pairs = three_pairs()
    optimizer = torch.optim.SGD(factors_of(pairs), lr=0.1)
    for pair in pairs:
        pair.B_O_R.requires_grad_(False)
    with pytest.raises(TrainingError, match="penalty project: none of the 3 factors that it moves requires"):
        SpectralPenalty(pairs, 0.5, "project").apply(optimizer)
    SpectralPenalty(pairs, 1.0).seed_gradients()
    for pair in pairs:
        pair.A_R_I.requires_grad_(False)
    with pytest.raises(TrainingError, match="none of the 6 factors that it moves requires a gradient, accepted"):
        SpectralPenalty(pairs, 1.0).seed_gradients()
    assert float(SpectralPenalty(pairs, 0.0).seed_gradients()) > 0


def test_a_penalty_of_an_adapter_that_is_no_longer_active_is_refused() -> None:
    model = tiny_model().train()
    penalty = SpectralPenalty(model, 0.1)
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    with pytest.raises(TrainingError, match="an adapter that is not active"):
        penalty.seed_gradients()


# --------------------------------------------------------------------------------------------- overflows


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_after_a_step_whose_task_gradient_overflows_the_cap_still_holds(bad: float) -> None:
    pairs = three_pairs()
    penalty = SpectralPenalty(pairs, 1e4, max_grad_ratio=0.1)
    seeds = []
    for factor in (1.0, bad, 1.0, 1.0):
        clear(pairs)
        penalty.seed_gradients()
        seeds.append(norm_of([one.grad for one in factors_of(pairs)]))
        sum((one * factor).sum() for one in factors_of(pairs)).backward()
    assert seeds[0] == seeds[2] == 0.0  # without a measure there is no penalty
    assert seeds[1] == pytest.approx(seeds[3], rel=1e-5) and seeds[1] > 0

    before = [factor.detach().clone() for factor in factors_of(pairs)]
    for factor in factors_of(pairs):
        factor.grad = torch.full_like(factor, bad)
    SpectralPenalty(pairs, 1e4, mode="decoupled", max_grad_ratio=0.1).apply(torch.optim.SGD(factors_of(pairs), lr=1.0))
    assert all(torch.equal(one, other) for one, other in zip(factors_of(pairs), before, strict=True))


# ----------------------------------------------------------------------------- devices, graphs, processes


def test_with_one_learning_rate_nothing_is_copied_to_the_device() -> None:
    class Copies(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.found += function.overloadpacket.__name__ == "lift_fresh"  # torch.tensor(...)
            return function(*args, **(kwargs or {}))

    pairs = three_pairs()
    pairs[0].A_R_I.requires_grad_(False)
    penalty = SpectralPenalty(pairs, 0.1, mode="decoupled")
    inputs, outputs = [pair.A_R_I for pair in pairs], [pair.B_O_R for pair in pairs]
    one_rate = torch.optim.SGD([{"params": inputs, "lr": 0.1}, {"params": outputs, "lr": 0.2}])
    two_rates = torch.optim.SGD([{"params": inputs[:2], "lr": 0.1}, {"params": [inputs[2], *outputs], "lr": 0.2}])
    penalty.apply(one_rate)
    for optimizer, copied in ((one_rate, 0), (two_rates, 1)):  # rates that differ within one shape are a tensor
        with Copies() as copies:
            penalty.apply(optimizer)
        assert copies.found == copied


@pytest.mark.parametrize(("name", "value"), [("allow_tf32", True), ("fp32_precision", "tf32")])
def test_products_on_cuda_run_outside_tf32_and_the_setting_is_given_back(name, value) -> None:
    matmul = torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")
    if name == "fp32_precision" and not new:
        pytest.skip(f"torch {torch.__version__} has no {name}")
    before = getattr(matmul, name)
    try:
        setattr(matmul, name, value)
        with pytest.raises(KeyError), float32_products(torch.device("cuda")):
            assert (matmul.fp32_precision == "ieee") if new else (matmul.allow_tf32 is False)
            raise KeyError
        assert getattr(matmul, name) == value
    finally:
        setattr(matmul, name, before)


def test_a_decoupled_functional_penalty_on_several_processes_is_refused(monkeypatch) -> None:
    model = tiny_model().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    penalty = SpectralPenalty(model, 0.1, "functional", mode="decoupled")
    penalty.apply(optimizer)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(TrainingError, match="would move their parameters apart"):
        penalty.apply(optimizer)


# --------------------------------------------------------------------------------------- copied, left behind


def forward(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(12).reshape(2, 6)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().mean()


def test_a_penalty_that_is_left_behind_leaves_no_hooks() -> None:
    model = tiny_model().train()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    penalty = SpectralPenalty(model, 0.1, "functional", max_grad_ratio=0.5)
    penalty.seed_gradients()
    forward(model).backward()
    assert float(penalty._task.norm()) > 0
    watchers = [weakref.ref(penalty._task), weakref.ref(penalty._inputs)]
    del penalty
    gc.collect()
    assert [watcher() for watcher in watchers] == [None, None]
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    factors = [p for name, p in model.named_parameters() if "lora_" in name]
    assert not any(factor._post_accumulate_grad_hooks for factor in factors)
    forward(model).backward()


def test_copies_of_a_model_do_not_feed_its_covariance_and_a_watched_model_can_be_pickled() -> None:
    model = tiny_model().train()
    penalty = SpectralPenalty(model, 0.1, "functional")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        forward(other.train())
        assert all(float(C.abs().max()) == 0.0 for C in penalty.state_dict()["covariance"])
    forward(model)
    assert all(float(C.abs().max()) > 0 for C in penalty.state_dict()["covariance"])


def test_long_batches_are_sampled_evenly_over_the_steps(monkeypatch) -> None:
    monkeypatch.setattr(covariance, "TOKENS", 4)
    model = tiny_model().train()
    every = covariance.InputCovariance(model, decay=1 - 1e-12, kind="full")
    X_T_I = torch.randn(12, 24)
    X_T_I[0] *= 100  # as the first token of a sequence has it
    for step in range(3, 6):
        every.begin_step(step)
        every.see(0, X_T_I)
    torch.testing.assert_close(every.current()[0], X_T_I.T @ X_T_I)


def test_a_functional_penalty_whose_layers_read_nothing_says_so_instead_of_doing_nothing() -> None:
    model = tiny_model().train()
    penalty = SpectralPenalty(model, 0.1, "functional")
    penalty.seed_gradients()
    forward(model.eval())
    with pytest.raises(TrainingError, match="no LoRA layer has read anything in a whole step"):
        penalty.seed_gradients()


def test_norm_held_projects_within_the_gradient_of_the_trained_factor() -> None:
    pair = live(random_pair(3, 8, 7, seed=2, dtype=torch.float64))
    pair.A_R_I.requires_grad_(False)
    SpectralPenalty([pair], 1.0, "norm_held").seed_gradients()
    plain, norm = (dense_penalty([pair], kind) for kind in ("frobenius_nuclear", "norm_only"))
    g, n = (torch.autograd.grad(value, [pair.B_O_R])[0] for value in (plain, norm))
    torch.testing.assert_close(pair.B_O_R.grad, g - n * (g * n).sum() / (n * n).sum(), rtol=1e-6, atol=1e-10)
