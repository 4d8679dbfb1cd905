"""LoRA+ groups, the switch between training and model parameters, and optimisers that are refused with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from narrowly.optim import build_optimizer, describe, evaluation_mode, return_to_training
from narrowly.records.errors import OptimiserError, SpecError, UnknownNameError
from narrowly.records.optimisers.registry import (
    OPTIMISERS,
    REFUSED,
    AdamWSpec,
    AdEMAMixSpec,
    LoRARITESpec,
    OptimiserSpec,
    ScheduleFreeAdamWSpec,
)
from narrowly.records.run_spec import RunSpec

WITH_RATIO = sorted(kind for kind, spec in OPTIMISERS.items() if "lora_plus_ratio" in spec.model_fields)


def parameters() -> dict[str, nn.Parameter]:
    """Return a LoRA pair and a parameter that is neither A nor B."""
    shapes = {"q.lora_A.default.weight": (3, 6), "q.lora_B.default.weight": (8, 3), "norm.weight": (6,)}
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def stepped(spec: Any, named: dict[str, nn.Parameter], steps: int = 4) -> torch.optim.Optimizer:
    optimizer = build_optimizer(spec, named.items())
    step_on(optimizer, named, steps)
    return optimizer


def step_on(optimizer: Any, named: dict[str, nn.Parameter], steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


# ------------------------------------------------------------------------------------------------------------- LoRA+


@pytest.mark.parametrize("kind", WITH_RATIO)
def test_a_ratio_multiplies_the_lr_of_b_only_and_leaves_every_other_option_alike(kind: str) -> None:
    named = parameters()
    decay = {"weight_decay": 0.2} if "weight_decay" in OPTIMISERS[kind].model_fields else {}
    optimizer = build_optimizer(OPTIMISERS[kind](lr=0.01, lora_plus_ratio=16, **decay), named.items())
    first, second = optimizer.param_groups
    assert [id(p) for p in first["params"]] == [id(named["q.lora_A.default.weight"]), id(named["norm.weight"])]
    assert [id(p) for p in second["params"]] == [id(named["q.lora_B.default.weight"])]
    assert (first["lr"], second["lr"]) == (0.01, pytest.approx(0.16))
    unlike = {key for key in first if key != "params" and first[key] != second[key]}
    assert unlike == {"lr"}
    assert not decay or first["weight_decay"] == second["weight_decay"] == 0.2


@pytest.mark.parametrize("kind", WITH_RATIO)
def test_with_a_ratio_a_moves_as_without_and_b_as_under_its_own_lr(kind: str) -> None:
    plain, fast, plus = parameters(), parameters(), parameters()
    stepped(OPTIMISERS[kind](lr=0.01), plain)
    stepped(OPTIMISERS[kind](lr=0.04), fast)
    stepped(OPTIMISERS[kind](lr=0.01, lora_plus_ratio=4), plus)
    for name, parameter in plus.items():
        expected = fast if "lora_B" in name else plain
        assert torch.equal(parameter, expected[name]), name
    assert not torch.equal(plain["q.lora_B.default.weight"], fast["q.lora_B.default.weight"])


def test_a_schedule_scales_both_groups() -> None:
    optimizer = build_optimizer(AdamWSpec(lr=0.01, lora_plus_ratio=8), parameters().items())
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, pytest.approx(0.04)]


def test_a_ratio_of_1_is_no_ratio_and_leaves_the_run_ids_of_before_the_field() -> None:
    assert AdamWSpec(lr=0.01, lora_plus_ratio=1) == AdamWSpec(lr=0.01)
    assert set(AdamWSpec(lr=0.01).model_dump()) == {"kind", "lr", "beta1", "beta2", "eps", "weight_decay"}
    assert AdamWSpec(lr=0.01, lora_plus_ratio=2).model_dump()["lora_plus_ratio"] == 2
    spec = RunSpec.model_validate({"optimiser": {"kind": "adamw", "lr": 0.01}})
    assert "lora_plus_ratio" not in spec.model_dump(mode="json")["optimiser"]
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("left_out", ["q.lora_A.default.weight", "q.lora_B.default.weight"])
def test_a_ratio_without_both_factors_is_refused(left_out: str) -> None:
    named = parameters()
    named[left_out].requires_grad_(False)
    with pytest.raises(OptimiserError, match=r"lora_plus_ratio is 4; found \d trainable LoRA A and \d LoRA B"):
        build_optimizer(AdamWSpec(lr=0.1, lora_plus_ratio=4), named.items())


# -------------------------------------------------------------------------------------------------- train and eval mode


class Averaged(torch.optim.SGD):
    """The least that counts as an optimiser with modes: outside training its parameters are halved."""

    def eval(self) -> None:
        self.scale(0.5)

    def train(self) -> None:
        self.scale(3.0)  # a poor way back, to see that nobody relies on it

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(factor)


def values(named: dict[str, nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in named.values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def accelerated() -> Iterator[Callable[[Any], Any]]:
    """Wrap an optimiser as every Trainer does."""
    yield lambda optimizer: Accelerator(cpu=True).prepare_optimizer(optimizer)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_evaluation_mode_shows_the_average_and_gives_the_training_parameters_back_bit_for_bit(
    wrapped: bool, accelerated: Callable[[Any], Any]
) -> None:
    named = parameters()
    inner = stepped(ScheduleFreeAdamWSpec(lr=0.1, lora_plus_ratio=3), named)
    optimizer = accelerated(inner) if wrapped else inner
    y = values(named)
    with evaluation_mode(optimizer) as point:
        assert point is not None
        x = values(named)
        for parameter, now, before in zip(named.values(), x, y, strict=True):
            z = inner.state[parameter]["z"]
            torch.testing.assert_close(0.1 * z + 0.9 * now, before, rtol=0, atol=1e-6)
        assert not same(x, y)
        with evaluation_mode(optimizer) as again:
            assert again is None
        assert same(values(named), x)
    assert same(values(named), y)
    assert all(group["train_mode"] for group in inner.param_groups)


def test_evaluation_mode_gives_back_after_an_error_too() -> None:
    named = parameters()
    optimizer = stepped(ScheduleFreeAdamWSpec(lr=0.1), named)
    y = values(named)
    with pytest.raises(ZeroDivisionError), evaluation_mode(optimizer):
        raise ZeroDivisionError
    assert same(values(named), y)


def test_any_optimiser_with_two_modes_is_switched_and_one_without_is_not_touched(
    accelerated: Callable[[Any], Any],
) -> None:
    named = parameters()
    before = values(named)
    with evaluation_mode(Averaged(named.values(), lr=0.1)) as point:
        assert point is not None
        assert same(values(named), [0.5 * value for value in before])
    assert same(values(named), before)
    for plain in (torch.optim.SGD(named.values(), lr=0.1), accelerated(torch.optim.SGD(named.values(), lr=0.1))):
        with evaluation_mode(plain) as point:
            assert point is None
            assert same(values(named), before)


def test_a_state_saved_in_evaluation_mode_goes_on_from_the_training_point() -> None:
    named, other = parameters(), parameters()
    spec = ScheduleFreeAdamWSpec(lr=0.1)
    optimizer = stepped(spec, named)
    with evaluation_mode(optimizer) as point:
        kept, x = copy.deepcopy(optimizer.state_dict()), values(named)
    again = build_optimizer(spec, other.items())
    with torch.no_grad():
        for parameter, value in zip(other.values(), x, strict=True):
            parameter.copy_(value)
    again.load_state_dict(kept)
    assert not again.param_groups[0]["train_mode"]
    return_to_training(again, point)
    assert same(values(other), values(named))
    step_on(optimizer, named, 3)
    step_on(again, other, 3)
    assert same(values(other), values(named))


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "reason"),
    [("sophia", "Hessian"), ("SophiaG", "Hessian"), ("lbfgs", "compute loss and gradient again"), ("L-BFGS", "again")],
)
def test_what_cannot_work_is_refused_with_its_reason_in_a_spec_and_in_a_description(name: str, reason: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"'{name}' is refused: .*{reason}"):
        describe(name)
    with pytest.raises(ValidationError, match=rf"'{name}' is refused: .*{reason}"):
        TypeAdapter(OptimiserSpec).validate_python({"kind": name, "lr": 0.1})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("prodigy", "estimates"), ("adafactor", "relative to the size"), ("schedulefree_adamw", "interpolated anew")],
)
def test_a_decoupled_penalty_is_refused_where_lr_is_no_step_length_of_a_factor(kind: str, reason: str) -> None:
    fields = {"optimiser": {"kind": kind, "lr": 0.1}, "penalty": {"lam": 0.1, "mode": "decoupled"}}
    with pytest.raises(ValidationError, match=rf"decoupled with optimiser {kind}, accepted: loss \(.*{reason}"):
        RunSpec.model_validate(fields)
    RunSpec.model_validate({**fields, "optimiser": {"kind": "soap", "lr": 0.1}})
    RunSpec.model_validate({**fields, "penalty": {"lam": 0.1}})


def test_no_refused_name_is_on_offer_and_what_is_named_instead_is() -> None:
    assert not set(REFUSED) & set(OPTIMISERS)
    for reason in REFUSED.values():
        instead = reason.partition("nearest that works: ")[2].replace(" (clipped momentum)", "").split(" or ")
        assert instead and set(instead) <= set(OPTIMISERS)


def test_lora_rite_refuses_what_it_would_pair_wrongly() -> None:
    named = parameters()
    with pytest.raises(OptimiserError, match=r"found 1 A, 1 B and 1 other trainable parameters: norm\.weight"):
        build_optimizer(LoRARITESpec(lr=0.1), named.items())
    del named["norm.weight"]
    build_optimizer(LoRARITESpec(lr=0.1), named.items())
    half = {name: nn.Parameter(p.detach().bfloat16()) for name, p in named.items()}
    with pytest.raises(OptimiserError, match="not in float32 or float64"):
        build_optimizer(LoRARITESpec(lr=0.1), half.items())
    named["q.lora_A.default.weight"].requires_grad_(False)
    with pytest.raises(OptimiserError, match="found 0 A, 1 B"):
        build_optimizer(LoRARITESpec(lr=0.1), named.items())


def test_lora_rite_pairs_by_name_whatever_the_order_of_the_parameters() -> None:
    drawn = torch.Generator().manual_seed(0)
    named = {
        f"{layer}.lora_{side}.default.weight": nn.Parameter(
            torch.randn((2, 5) if side == "A" else (4, 2), generator=drawn)
        )
        for layer in ("k", "q")
        for side in "AB"
    }
    shuffled = {name: named[name] for name in sorted(named, key=lambda name: (name[0] == "k", "lora_A" in name))}
    assert list(shuffled) != list(named)
    (group,) = build_optimizer(LoRARITESpec(lr=0.1), shuffled.items()).param_groups
    names = {id(parameter): name for name, parameter in named.items()}
    assert [names[id(p)][:8] for p in group["params"]] == ["q.lora_A", "q.lora_B", "k.lora_A", "k.lora_B"]


def test_ademamix_needs_a_fast_momentum_to_warm_up_from() -> None:
    with pytest.raises(SpecError, match="warmup_steps is set with beta1 0"):
        build_optimizer(AdEMAMixSpec(lr=0.1, beta1=0, warmup_steps=3), parameters().items())
