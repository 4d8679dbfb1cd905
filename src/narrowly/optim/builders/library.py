"""Build the optimisers of torch and pytorch-optimizer: every argument of every constructor is passed on.

`foreach` is always on and `fused` always off, so that the arithmetic does not depend on the machine. The library's
SOAP and LoRARite have no such switch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from narrowly.optim.router import Routing, listed, parameter_groups
from narrowly.records.errors import MissingExtraError, OptimiserError, SpecError
from narrowly.records.install import install_hint
from narrowly.records.optimisers.base import OptimiserBase
from narrowly.records.optimisers.registry import (
    AdafactorSpec,
    AdamSpec,
    AdamWSpec,
    AdEMAMixSpec,
    LionSpec,
    LoRARITESpec,
    ProdigySpec,
    ScheduleFreeAdamWSpec,
    SGDSpec,
    SOAPSpec,
)

Builder = Callable[[Any, Routing], torch.optim.Optimizer]
"""From a spec and the routed parameters to one optimiser."""


def _from_library(module: str, name: str) -> Any:
    try:
        return getattr(import_module(f"pytorch_optimizer.optimizer.{module}"), name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs pytorch-optimizer, which is not installed; add it with: {install_hint('spectral')}"
        ) from error


def _sgd(spec: SGDSpec, routing: Routing) -> torch.optim.Optimizer:
    if spec.nesterov and spec.momentum == 0:
        raise SpecError("sgd: nesterov is true with momentum 0, accepted: nesterov with momentum above 0")
    return torch.optim.SGD(
        parameter_groups(routing, spec.lr, spec.lora_plus_ratio),
        lr=spec.lr,
        momentum=spec.momentum,
        dampening=0.0,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        maximize=False,
        foreach=True,
        differentiable=False,
        fused=False,
    )


def _adam(spec: AdamSpec | AdamWSpec, routing: Routing) -> torch.optim.Optimizer:
    family = torch.optim.Adam if isinstance(spec, AdamSpec) else torch.optim.AdamW
    return family(
        parameter_groups(routing, spec.lr, spec.lora_plus_ratio),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        amsgrad=False,
        maximize=False,
        foreach=True,
        capturable=False,
        differentiable=False,
        fused=False,
    )


def _adafactor(spec: AdafactorSpec, routing: Routing) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(
        parameter_groups(routing, spec.lr, None),
        lr=spec.lr,
        beta2_decay=spec.beta2_decay,
        eps=(spec.eps1, spec.eps2),
        d=spec.clip,
        weight_decay=spec.weight_decay,
        foreach=True,
        maximize=False,
    )


def _lion(spec: LionSpec, routing: Routing) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = _from_library("lion", "Lion")(
        parameter_groups(routing, spec.lr, spec.lora_plus_ratio),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        weight_decay=spec.weight_decay,
        weight_decouple=True,
        fixed_decay=False,
        foreach=True,
        maximize=False,
    )
    return optimizer


def _ademamix(spec: AdEMAMixSpec, routing: Routing) -> torch.optim.Optimizer:
    if spec.warmup_steps is not None and spec.beta1 == 0:
        raise SpecError("ademamix: warmup_steps is set with beta1 0, accepted: beta1 above 0 (beta3 grows from beta1)")
    optimizer: torch.optim.Optimizer = _from_library("ademamix", "AdEMAMix")(
        parameter_groups(routing, spec.lr, spec.lora_plus_ratio),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2, spec.beta3),
        weight_decay=spec.weight_decay,
        weight_decouple=True,
        fixed_decay=False,
        alpha=spec.alpha,
        t_alpha_beta3=spec.warmup_steps,
        eps=spec.eps,
        maximize=False,
        foreach=True,
    )
    return optimizer


def _prodigy(spec: ProdigySpec, routing: Routing) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = _from_library("prodigy", "Prodigy")(
        parameter_groups(routing, spec.lr, None),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        beta3=spec.beta3,
        d0=spec.d0,
        d_coef=spec.d_coef,
        growth_rate=math.inf if spec.growth_rate is None else spec.growth_rate,
        weight_decay=spec.weight_decay,
        weight_decouple=True,
        fixed_decay=False,
        bias_correction=spec.bias_correction,
        safeguard_warmup=spec.safeguard_warmup,
        eps=spec.eps,
        maximize=False,
        foreach=True,
    )
    return optimizer


def _schedulefree_adamw(spec: ScheduleFreeAdamWSpec, routing: Routing) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = _from_library("schedulefree", "ScheduleFreeAdamW")(
        parameter_groups(routing, spec.lr, spec.lora_plus_ratio),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        weight_decay=spec.weight_decay,
        r=spec.weight_step_power,
        weight_lr_power=spec.weight_lr_power,
        warmup_steps=spec.warmup_steps,
        decoupling_c=0,
        ams_bound=False,
        eps=spec.eps,
        maximize=False,
        foreach=True,
        use_palm=False,
    )
    return optimizer


def _soap(spec: SOAPSpec, routing: Routing) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = _from_library("soap", "SOAP")(
        parameter_groups(routing, spec.lr, spec.lora_plus_ratio),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        shampoo_beta=spec.shampoo_beta,
        weight_decay=spec.weight_decay,
        precondition_frequency=spec.precondition_frequency,
        max_precondition_dim=spec.max_precondition_dim,
        merge_dims=False,
        precondition_1d=False,
        correct_bias=True,
        normalize_gradient=False,
        data_format="channels_first",
        eps=spec.eps,
        maximize=False,
    )
    return optimizer


def _lora_rite(spec: LoRARITESpec, routing: Routing) -> torch.optim.Optimizer:
    if routing.other or not (routing.lora_A and routing.lora_B):
        raise OptimiserError(
            f"lora_rite updates LoRA pairs only; found {len(routing.lora_A)} A, {len(routing.lora_B)} B and "
            f"{len(routing.other)} other trainable parameters: {listed(name for name, _ in routing.other) or 'none'}. "
            "Freeze the others, or choose another optimiser"
        )
    low = [name for part in routing for name, p in part if p.dtype not in (torch.float32, torch.float64)]
    if low:
        raise OptimiserError(f"lora_rite: {listed(low)} not in float32 or float64, accepted: those (QR needs them)")
    factors_B = {name.replace("lora_B", "lora_A"): parameter for name, parameter in routing.lora_B}
    optimizer: torch.optim.Optimizer = _from_library("lora_rite", "LoRARite")(
        # the library pairs neighbours: A (rank x in) is its left factor, B (out x rank) its right one
        [factor for name, A in routing.lora_A for factor in (A, factors_B[name])],
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        relative_epsilon=spec.relative_epsilon,
        clip_unmagnified_grad=spec.clip_unmagnified_grad,
        update_capping=spec.update_capping,
        update_skipping=spec.update_skipping,
        weight_decay=spec.weight_decay,
        apply_escape=spec.apply_escape,
        lora_l_dim=0,
        lora_r_dim=-1,
        maybe_inf_to_nan=True,
        balance_param=spec.balance_param,
        maximize=False,
    )
    return optimizer


BUILDERS: dict[type[OptimiserBase], Builder] = {
    SGDSpec: _sgd,
    AdamSpec: _adam,
    AdamWSpec: _adam,
    LionSpec: _lion,
    AdEMAMixSpec: _ademamix,
    AdafactorSpec: _adafactor,
    ProdigySpec: _prodigy,
    ScheduleFreeAdamWSpec: _schedulefree_adamw,
    SOAPSpec: _soap,
    LoRARITESpec: _lora_rite,
}
"""The builder of every spec that a library provides."""
