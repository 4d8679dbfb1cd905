"""From spec to optimiser: every field arrives, nothing is left out, and each rule is the published one."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowly.optim import build_optimizer, describe
from narrowly.records.errors import MissingExtraError, OptimiserError, SpecError, UnknownNameError
from narrowly.records.install import install_hint
from narrowly.records.optimisers.registry import OPTIMISERS, AdamSpec, AdamWSpec, LionSpec, MuonSpec, SGDSpec

BASES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "momentum": 0.9},
    "adam": {"lr": 0.01},
    "adamw": {"lr": 0.01},
    "lion": {"lr": 0.01},
    "ademamix": {"lr": 0.01, "warmup_steps": 9},
    "adafactor": {"lr": 0.01},
    "prodigy": {"lr": 0.5, "d0": 1e-3, "growth_rate": 1.3},
    "schedulefree_adamw": {"lr": 0.01, "weight_step_power": 0.5, "warmup_steps": 3},
    "soap": {"lr": 0.01, "precondition_frequency": 2},
    "lora_rite": {"lr": 0.01, "eps": 0.1},
    "muon": {"lr": 0.01},
    "muon_B_adam_A": {"lr": 0.01},
    "lora_muon": {"lr": 0.01},
    "spectral_power": {"lr": 0.01},
    "kaon": {"lr": 0.01},
}
CHANGES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "lora_plus_ratio": 4},
    "adam": {"lr": 0.02, "beta1": 0.5, "beta2": 0.9, "eps": 0.1, "weight_decay": 0.1, "lora_plus_ratio": 4},
    "adamw": {"lr": 0.02, "beta1": 0.5, "beta2": 0.9, "eps": 0.1, "weight_decay": 0.5, "lora_plus_ratio": 4},
    "lion": {"lr": 0.02, "beta1": 0.2, "beta2": 0.5, "weight_decay": 0.1, "lora_plus_ratio": 4},
    "ademamix": {
        "lr": 0.02,
        "beta1": 0.5,
        "beta2": 0.9,
        "beta3": 0.95,
        "alpha": 2.0,
        "warmup_steps": None,
        "eps": 0.1,
        "weight_decay": 0.1,
        "lora_plus_ratio": 4,
    },
    "adafactor": {"lr": 0.1, "beta2_decay": -0.5, "eps1": 0.5, "eps2": 3.0, "clip": 1.2, "weight_decay": 0.1},
    "prodigy": {
        "lr": 1.0,
        "beta1": 0.5,
        "beta2": 0.9,
        "beta3": 0.5,
        "d0": 1e-2,
        "d_coef": 2.0,
        "growth_rate": 1.0001,
        "weight_decay": 0.5,
        "bias_correction": True,
        "safeguard_warmup": True,
        "eps": 10.0,
    },
    "schedulefree_adamw": {
        "lr": 0.02,
        "beta1": 0.5,
        "beta2": 0.9,
        "eps": 0.1,
        "weight_decay": 0.1,
        "weight_step_power": 2.0,
        "weight_lr_power": 0.0,
        "warmup_steps": 0,
        "lora_plus_ratio": 4,
    },
    "soap": {
        "lr": 0.02,
        "beta1": 0.5,
        "beta2": 0.5,
        "shampoo_beta": 0.5,
        "eps": 0.1,
        "weight_decay": 0.5,
        "precondition_frequency": 1,
        "max_precondition_dim": 4,
        "lora_plus_ratio": 4,
    },
    "lora_rite": {
        "lr": 0.02,
        "beta1": 0.5,
        "beta2": 0.5,
        "eps": 0.2,
        "relative_epsilon": True,
        "clip_unmagnified_grad": 0.1,
        "update_capping": 0.01,
        "update_skipping": 0.01,
        "weight_decay": 0.5,
        "apply_escape": True,
        "balance_param": True,
    },
    "muon": {
        "lr": 0.02,
        "momentum": 0.3,
        "nesterov": False,
        "weight_decay": 0.1,
        "orthogonaliser": "exact",
        "ns_steps": 2,
        "scale_rule": "spectral_norm",
        "eps": 5.0,
        "other": {"kind": "adamw", "lr": 0.1},
    },
    "muon_B_adam_A": {
        "lr": 0.02,
        "lr_A": 0.02,
        "momentum": 0.3,
        "nesterov": False,
        "orthogonaliser": "exact",
        "ns_steps": 2,
        "scale_rule": "match_rms_adamw",
        "eps": 5.0,
        "beta1": 0.5,
        "beta2": 0.9,
        "eps_A": 0.1,
        "weight_decay": 0.1,
    },
    "lora_muon": {
        "lr": 0.02,
        "momentum": 0.3,
        "nesterov": False,
        "weight_decay": 0.1,
        "orthogonaliser": "exact",
        "ns_steps": 2,
        "floor": 50.0,
    },
    "kaon": {
        "lr": 0.02,
        "rounds": 3,
        "momentum": 0.5,
        "nesterov": False,
        "weight_decay": 0.1,
        "scale_rule": "spectral_norm",
    },
    "spectral_power": {
        "lr": 0.02,
        "power": -0.5,
        "floor": 0.1,
        "momentum": 0.3,
        "nesterov": False,
        "weight_decay": 0.1,
        "scale_rule": "spectral_norm",
    },
}
ELSEWHERE = [("muon", "other")]
"""Fields that do nothing to LoRA factors; tests/optim/test_composite_of_muon.py tries them."""
CASES = [(kind, field) for kind, changes in CHANGES.items() for field in changes if (kind, field) not in ELSEWHERE]


def lora_module(seed: int = 0) -> nn.ModuleDict:
    """Return two LoRA pairs under PEFT's names."""
    generator = torch.Generator().manual_seed(seed)
    module = nn.ModuleDict()
    for name in ("q_proj", "up_proj"):
        A, B = nn.Linear(6, 3, bias=False), nn.Linear(3, 8, bias=False)
        for linear in (A, B):
            with torch.no_grad():
                linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator))
        module[name] = nn.ModuleDict({"lora_A": nn.ModuleDict({"default": A}), "lora_B": nn.ModuleDict({"default": B})})
    return module


def gradient(step: int, parameter: Tensor) -> Tensor:
    """Return noise around a constant, so that an estimate of the distance to go (Prodigy) grows."""
    return torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 0.3 + 0.3


def trajectory(spec: Any, steps: int = 4) -> list[Tensor]:
    module = lora_module()
    optimizer = build_optimizer(spec, module)
    for step in range(steps):
        for parameter in module.parameters():
            parameter.grad = gradient(step, parameter)
        optimizer.step()
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_every_field_of_every_spec_is_tried_below() -> None:
    for kind, spec in OPTIMISERS.items():
        assert set(CHANGES[kind]) == set(spec.model_fields) - {"kind"}


@pytest.mark.parametrize(("kind", "field"), CASES)
def test_changing_a_field_of_a_spec_changes_the_trajectory(kind, field) -> None:
    base = OPTIMISERS[kind](**BASES[kind])
    changed = OPTIMISERS[kind](**(BASES[kind] | {field: CHANGES[kind][field]}))
    assert any(
        not torch.equal(one, other) for one, other in zip(trajectory(base, 6), trajectory(changed, 6), strict=True)
    )


@pytest.mark.parametrize("kind", sorted(OPTIMISERS))
def test_every_optimiser_is_one_object_over_all_trainable_parameters_and_repeats_exactly(kind) -> None:
    spec = OPTIMISERS[kind](**BASES[kind])
    module = lora_module()
    next(module.parameters()).requires_grad_(True)
    optimizer = build_optimizer(spec, module)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters())
    assert all(torch.equal(one, other) for one, other in zip(trajectory(spec), trajectory(spec), strict=True))
    assert all(bool(weight.isfinite().all()) for weight in trajectory(spec))


def test_named_parameters_do_as_well_as_a_module() -> None:
    module = lora_module()
    optimizer = build_optimizer(AdamSpec(lr=0.1), module.named_parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@pytest.mark.parametrize(
    "kind", ["sgd", "adam", "adamw", "lion", "ademamix", "adafactor", "prodigy", "schedulefree_adamw"]
)
def test_options_that_no_spec_names_are_set_to_the_plain_algorithm(kind) -> None:
    optimizer = build_optimizer(OPTIMISERS[kind](**BASES[kind]), lora_module())
    group = optimizer.param_groups[0]
    assert group["foreach"] is True
    assert getattr(optimizer, "maximize", False) is False
    accepted = {
        "maximize": False, "amsgrad": False, "fused": False, "capturable": False, "differentiable": False,
        "dampening": 0.0, "weight_decouple": True, "fixed_decay": False,
        "decoupled_weight_decay": kind == "adamw", "decoupling_c": 0, "ams_bound": False, "use_palm": False,
    }  # fmt: skip
    for option, value in accepted.items():
        assert group.get(option, value) == value, option


def test_sgd_adam_and_adamw_follow_their_papers_formulas() -> None:
    weights = [parameter.detach().double() for parameter in lora_module().parameters()]
    for index, weight in enumerate(weights):
        sgd, adam, adamw = weight.clone(), weight.clone(), weight.clone()
        ball, first, second, first_w, second_w = (torch.zeros_like(weight) for _ in range(5))
        for step in range(4):
            G = gradient(step, weight).double()
            ball = 0.9 * ball + (G + 0.1 * sgd)
            sgd = sgd - 0.1 * ball
            coupled = G + 0.1 * adam
            first, second = 0.9 * first + 0.1 * coupled, 0.999 * second + 0.001 * coupled**2
            hat = (first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1)))
            adam = adam - 0.01 * hat[0] / (hat[1].sqrt() + 1e-8)
            first_w, second_w = 0.9 * first_w + 0.1 * G, 0.999 * second_w + 0.001 * G**2
            hat = (first_w / (1 - 0.9 ** (step + 1)), second_w / (1 - 0.999 ** (step + 1)))
            adamw = (1 - 0.01 * 0.1) * adamw - 0.01 * hat[0] / (hat[1].sqrt() + 1e-8)
        for spec, expected in (
            (SGDSpec(lr=0.1, momentum=0.9, weight_decay=0.1), sgd),
            (AdamSpec(lr=0.01, weight_decay=0.1), adam),
            (AdamWSpec(lr=0.01, weight_decay=0.1), adamw),
        ):
            torch.testing.assert_close(trajectory(spec)[index].double(), expected, rtol=0, atol=1e-5)


def test_lion_follows_algorithm_2_of_its_paper() -> None:
    found = trajectory(LionSpec(lr=0.01, beta1=0.9, beta2=0.99, weight_decay=0.1), steps=6)
    for parameter, result in zip(lora_module().parameters(), found, strict=True):
        weight, momentum = parameter.detach().double(), torch.zeros(parameter.shape).double()
        for step in range(6):
            G = gradient(step, weight).double()
            weight = weight - 0.01 * (torch.sign(0.9 * momentum + 0.1 * G) + 0.1 * weight)
            momentum = 0.99 * momentum + 0.01 * G
        torch.testing.assert_close(result.double(), weight, rtol=0, atol=1e-5)


def test_muon_refuses_parameters_that_are_no_lora_factors_and_names_them() -> None:
    module = lora_module()
    module["norm"] = nn.LayerNorm(4)
    with pytest.raises(OptimiserError, match=r"2 other trainable parameters: norm\.weight, norm\.bias"):
        build_optimizer(MuonSpec(lr=0.1), module)
    assert len(build_optimizer(AdamSpec(lr=0.1), module).param_groups[0]["params"]) == 6
    module["norm"].requires_grad_(False)
    build_optimizer(MuonSpec(lr=0.1), module)


def test_a_missing_backend_is_an_error_that_says_how_to_add_it(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "pytorch_optimizer"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_hint("spectral"))):
        build_optimizer(LionSpec(lr=0.1), lora_module())


def test_contradicting_fields_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(SpecError, match="nesterov is true with momentum 0"):
        build_optimizer(SGDSpec(lr=0.1, nesterov=True), lora_module())
    with pytest.raises(UnknownNameError, match="did you mean 'muon'"):
        describe("moun")


def test_the_description_says_what_happens_to_a_b_and_the_rest_with_every_field() -> None:
    for kind, spec in OPTIMISERS.items():
        description = describe(kind)
        assert {"A", "B", "other"} <= set(description)
        assert set(description["fields"]) == set(spec.model_fields) - {"kind"}
        assert all(field["source"] for field in description["fields"].values())
    assert describe("muon")["other"] == "refused, or AdamW where `other` is given"
    assert describe("lora_muon")["other"] == "refused"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "moun", "lr": 0.1}, "optimiser: unknown optimiser 'moun'; did you mean 'muon'?"),
        ({"kind": "muon", "lr": 0.1, "momentun": 0.9}, "optimiser.momentun: unknown field; did you mean 'momentum'?"),
        ({"kind": "muon", "lr": "fast"}, "optimiser.lr: found 'fast', expected a number"),
        ({"kind": "muon", "lr": -1}, "optimiser.lr: found -1, expected greater than 0"),
        ({"kind": "muon"}, "optimiser.lr: missing, and it has no default"),
        ({"kind": "lbfgs", "lr": 1}, "optimiser: 'lbfgs' is refused: "),
    ],
)
def test_an_optimiser_from_a_dict_is_built_or_refused_in_one_line(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_optimizer(spec, lora_module())
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    module = lora_module()
    built, typed = build_optimizer({"kind": "muon", "lr": 0.1}, module), build_optimizer(MuonSpec(lr=0.1), module)
    assert type(built) is type(typed) and built.defaults == typed.defaults
