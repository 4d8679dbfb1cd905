"""Optim: from typed specs to optimisers, with every field passed on and every parameter accounted for.

Lives here: the router of parameters to LoRA factors, our own optimisers (Muon, LoRA-Muon, SpectralPower), several
optimisers as one, the one place that builds an optimiser from its spec, and the switch to the parameters that are the
model (ScheduleFree). Training and engineers' own loops call it; it calls torch, the optimiser library,
`narrowly.spectrum` and `narrowly.records`.
"""

from narrowly.optim.build import build_optimizer
from narrowly.optim.composite import CompositeOptimizer
from narrowly.optim.kaon import Kaon
from narrowly.optim.lora_muon import LoRAMuon
from narrowly.optim.modes import evaluation_mode, return_to_training
from narrowly.optim.muon import Muon
from narrowly.optim.orthogonalise import orthogonalise
from narrowly.optim.router import Routing, check_complete, route
from narrowly.optim.spectral_power import SpectralPower
from narrowly.records.optimisers.registry import describe
from narrowly.records.optimisers.scale_rules import SCALE_RULES

__all__ = [
    "SCALE_RULES",
    "CompositeOptimizer",
    "Kaon",
    "LoRAMuon",
    "Muon",
    "Routing",
    "SpectralPower",
    "build_optimizer",
    "check_complete",
    "describe",
    "evaluation_mode",
    "orthogonalise",
    "return_to_training",
    "route",
]
