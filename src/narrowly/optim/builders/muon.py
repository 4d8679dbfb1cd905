"""Build our own optimisers from their specs: every field passed on, parameters that do not fit refused."""

from __future__ import annotations

import torch
from torch import nn

from narrowly.optim.builders import library
from narrowly.optim.builders.library import Builder
from narrowly.optim.composite import CompositeOptimizer
from narrowly.optim.kaon import Kaon
from narrowly.optim.lora_muon import LoRAMuon
from narrowly.optim.muon import Muon
from narrowly.optim.router import Named, Routing, hidden_matrices, listed
from narrowly.optim.spectral_power import SpectralPower
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.base import OptimiserBase
from narrowly.records.optimisers.library import AdamWSpec
from narrowly.records.optimisers.muon import (
    KaonSpec,
    LoRAMuonSpec,
    MuonBAdamASpec,
    MuonSpec,
    SpectralPowerSpec,
)


def _factors(routing: Routing) -> list[nn.Parameter]:
    return [parameter for part in (routing.lora_A, routing.lora_B) for _, parameter in part]


def _only_factors(name: str, routing: Routing, way_out: str = "") -> None:
    if routing.other:
        raise OptimiserError(
            f"{name} updates LoRA factors only; found {len(routing.other)} other trainable parameters: "
            f"{listed(name for name, _ in routing.other)}. Freeze them, {way_out}or choose another optimiser"
        )


def _adamw(spec: AdamWSpec, parameters: list[Named]) -> torch.optim.Optimizer:
    return library.BUILDERS[AdamWSpec](spec, Routing([], [], parameters))


def _muon(spec: MuonSpec, routing: Routing) -> torch.optim.Optimizer:
    hidden, other = hidden_matrices(routing)
    if spec.other is None:
        _only_factors("Muon", routing._replace(other=other), "give `other`, ")
    matrices = [*_factors(routing), *(parameter for _, parameter in hidden)]
    if not matrices:
        raise OptimiserError(
            "Muon: found no LoRA factor and no matrix of a numbered block among the trainable parameters, accepted: at "
            "least one"
        )
    muon = Muon(matrices, **spec.model_dump(exclude={"kind", "other"}))
    if spec.other is None or not other:
        return muon
    return CompositeOptimizer({"muon": muon, "other": _adamw(spec.other, other)})


def _muon_B_adam_A(spec: MuonBAdamASpec, routing: Routing) -> CompositeOptimizer:
    _only_factors("muon_B_adam_A", routing)
    _both_sides("muon_B_adam_A", routing)
    on_A = AdamWSpec(lr=spec.lr_A, beta1=spec.beta1, beta2=spec.beta2, eps=spec.eps_A, weight_decay=spec.weight_decay)
    fields = spec.model_dump(exclude={"kind", "lr_A", "beta1", "beta2", "eps_A"})
    on_B = Muon([parameter for _, parameter in routing.lora_B], **fields)
    return CompositeOptimizer({"muon_B": on_B, "adam_A": _adamw(on_A, routing.lora_A)})


def _lora_muon(spec: LoRAMuonSpec, routing: Routing) -> LoRAMuon:
    _only_factors("LoRAMuon", routing)
    _both_sides("LoRAMuon", routing)
    B_of = {_pair_name(name, "B"): B for name, B in routing.lora_B}
    pairs = [(A, B_of[_pair_name(name, "A")]) for name, A in routing.lora_A]
    return LoRAMuon(pairs, **spec.model_dump(exclude={"kind"}))


def _spectral_power(spec: SpectralPowerSpec, routing: Routing) -> SpectralPower:
    _only_factors("SpectralPower", routing)
    return SpectralPower(_factors(routing), **spec.model_dump(exclude={"kind"}))


def _kaon(spec: KaonSpec, routing: Routing) -> Kaon:
    _only_factors("Kaon", routing)
    return Kaon(_factors(routing), **spec.model_dump(exclude={"kind"}))


def _both_sides(name: str, routing: Routing) -> None:
    if not routing.lora_A or not routing.lora_B:
        raise OptimiserError(
            f"{name} needs A and B of each pair; found {len(routing.lora_A)} trainable A and {len(routing.lora_B)} B"
        )


def _pair_name(name: str, side: str) -> str:
    """Return the name of a factor's pair; the router has checked that every pair is whole."""
    return name.replace(f"lora_{side}", "lora_?")


BUILDERS: dict[type[OptimiserBase], Builder] = {
    MuonSpec: _muon,
    MuonBAdamASpec: _muon_B_adam_A,
    LoRAMuonSpec: _lora_muon,
    SpectralPowerSpec: _spectral_power,
    KaonSpec: _kaon,
}
"""The builder of every spec class of `narrowly.records.optimisers.muon`."""
