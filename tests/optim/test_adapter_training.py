"""Every optimiser in a real loop over LoRA factors: it learns, resumes, follows a schedule, touches nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from narrowly.optim import Muon, build_optimizer, check_complete, orthogonalise, route
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.registry import OPTIMISERS, MuonSpec, SGDSpec

RATES = {
    "sgd": 0.1,
    "adam": 0.05,
    "adamw": 0.05,
    "lion": 0.02,
    "ademamix": 0.05,
    "adafactor": 0.3,
    "prodigy": 1.0,
    "schedulefree_adamw": 0.1,
    "soap": 0.05,
    "lora_rite": 0.05,
    "muon": 0.05,
    "muon_B_adam_A": 0.05,
    "lora_muon": 0.05,
    "spectral_power": 0.05,
    "kaon": 0.05,
}
KINDS = sorted(OPTIMISERS)


class Net(nn.Module):
    """Two linear layers, so that PEFT has something to adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def adapted(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(Net(), LoraConfig(r=3, lora_alpha=6, target_modules=["up", "down"], **changes))


def loss(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 4, generator=generator)
    return (model(x) - y).square().mean()


def drive(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_and_the_base_stays_as_it_was(kind) -> None:
    model = adapted()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    factors = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    losses = drive(model, build_optimizer(OPTIMISERS[kind](lr=RATES[kind]), model), 40)
    assert losses[-1] < 0.8 * losses[0]
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
        else:
            assert not torch.equal(parameter, factors[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimiser_resumes_bit_for_bit_from_its_state_dict(kind, tmp_path) -> None:
    spec = OPTIMISERS[kind](lr=RATES[kind])
    model = adapted()
    optimizer = build_optimizer(spec, model)
    drive(model, optimizer, 3)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    drive(model, optimizer, 3)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = adapted()
    resumed.load_state_dict(state["model"])
    again = build_optimizer(spec, resumed)
    again.load_state_dict(state["optimizer"])
    drive(resumed, again, 3)
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_reaches_every_parameter_of_every_optimiser(kind) -> None:
    model = adapted()
    optimizer = build_optimizer(OPTIMISERS[kind](lr=RATES[kind]), model)
    scheduler = LambdaLR(optimizer, lambda step: 1.0 if step < 2 else 0.0)
    for _ in range(2):
        drive(model, optimizer, 1)
        scheduler.step()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # under lr 0 ScheduleFree's average still closes up on its iterates z, which stand still as they should
    what_lr_moves = [optimizer.state[p].get("z", p) for p in trained]
    still = [tensor.detach().clone() for tensor in what_lr_moves]
    drive(model, optimizer, 2)
    assert all(torch.equal(one, other) for one, other in zip(what_lr_moves, still, strict=True))


def test_a_live_adapter_is_routed_whole_and_a_dora_magnitude_is_no_factor() -> None:
    routing = route(adapted().named_parameters())
    assert [len(part) for part in routing] == [2, 2, 0]
    assert all(p.shape[0] == 3 for _, p in routing.lora_A)
    assert all(p.shape[1] == 3 for _, p in routing.lora_B)
    dora = adapted(use_dora=True)
    assert len(route(dora.named_parameters()).other) == 2
    with pytest.raises(OptimiserError, match=r"Muon updates LoRA factors only; .*lora_magnitude_vector"):
        build_optimizer(MuonSpec(lr=0.1), dora)
    check_complete(dora.named_parameters(), build_optimizer(OPTIMISERS["adam"](lr=0.1), dora))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_model_is_refused_by_every_optimiser(kind) -> None:
    model = adapted().requires_grad_(False)
    with pytest.raises(OptimiserError, match="no trainable parameter found"):
        build_optimizer(OPTIMISERS[kind](lr=0.1), model)


# ------------------------------------------------------------------------------------------------- Muon's batching


def muon(params: list[nn.Parameter], **changes: Any) -> Muon:
    return Muon(params, **MuonSpec(lr=0.1, **changes).model_dump(exclude={"kind"}))


@pytest.mark.parametrize("method", ["newton_schulz5", "polar_express", "exact"])
def test_a_matrix_moves_the_same_whatever_shares_its_batch_and_as_its_transpose(method) -> None:
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(3, 8), (8, 3), (3, 8)]]
    grads = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]

    def moved(indices: list[int], transposed: bool = False) -> list[Tensor]:
        params = [nn.Parameter(weights[i].T.clone() if transposed else weights[i].clone()) for i in indices]
        for parameter, i in zip(params, indices, strict=True):
            parameter.grad = (grads[i].T if transposed else grads[i]).clone()
        muon(params, orthogonaliser=method, scale_rule="match_rms_adamw").step()
        return [parameter.detach() for parameter in params]

    together = moved([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(moved([i])[0], together[i], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(moved([i], transposed=True)[0].T, together[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["newton_schulz5", "polar_express", "exact"])
def test_a_rotation_of_the_gradient_rotates_the_step(method) -> None:
    generator = torch.Generator().manual_seed(4)
    G = torch.randn(1, 4, 9, generator=generator, dtype=torch.float64)
    P = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    Q = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    turned = orthogonalise(P @ G @ Q, method, 5, 1e-7)
    torch.testing.assert_close(turned, P @ orthogonalise(G, method, 5, 1e-7) @ Q, rtol=1e-9, atol=1e-11)


def test_a_group_added_later_is_checked_too_and_a_bad_one_is_not_kept() -> None:
    optimizer = muon([nn.Parameter(torch.ones(2, 3))])
    for bad in (torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.complex64)):
        with pytest.raises(OptimiserError, match="accepted: matrices of floats"):
            optimizer.add_param_group({"params": [nn.Parameter(bad)]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4, 2))], "lr": 0.5})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_the_builder_itself_checks_that_no_parameter_was_left_out(monkeypatch) -> None:
    import narrowly.optim.build as build

    lossy = {SGDSpec: lambda _, routing: torch.optim.SGD([routing.lora_A[0][1]], lr=0.1)}
    monkeypatch.setattr(build, "BUILDERS", lossy)
    with pytest.raises(OptimiserError, match="incomplete partition, 3 trainable but in no group"):
        build_optimizer(OPTIMISERS["sgd"](lr=0.1), adapted())
