"""Train with another optimiser: Muon, or a step with powers of the singular values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from narrowly.records.optimisers.registry import MuonSpec, SpectralPowerSpec
from narrowly.records.run_spec import RunSpec
from narrowly.study.defences.protocol import Defence, Plan, changed


class Muon(Defence):
    """Train with Muon in place of the run's optimiser, all else equal."""

    stage = "during"
    source = (
        "2606.31591: Muon 5.3 %, Lion 37 % misaligned; here no length is matched, so read it at equal held-out skill"
    )
    cost = "Newton-Schulz on r x r Gram matrices, no further pass"

    kind: Literal["muon"] = "muon"
    lr: float = Field(1e-3, gt=0, description="step length in spectral norm; that of the study `micro`")

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(changed(run, optimiser=MuonSpec(lr=self.lr)))


class SpectralPower(Defence):
    """Train with steps U S^p V^T in place of the run's optimiser, all else equal."""

    stage = "during"
    source = "2602.04669 (BeyondMuon) and 2605.17109 (DynMuon)"
    cost = "eigenvalues of r x r Gram matrices, no further pass"

    kind: Literal["spectral_power"] = "spectral_power"
    lr: float = Field(1e-3, gt=0, description="length of a step")
    power: float = Field(0.0, ge=-1, le=1, description="p, of the singular values; 1 is momentum, 0 exact Muon")

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(changed(run, optimiser=SpectralPowerSpec(lr=self.lr, power=self.power)))
