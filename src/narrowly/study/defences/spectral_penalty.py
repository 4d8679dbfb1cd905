"""Penalise a peaked spectrum without making the update shorter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from narrowly.records.penalties import PenaltySpec
from narrowly.records.run_spec import RunSpec
from narrowly.study.defences.protocol import Defence, Plan, changed


class SpectralPenaltyAtFixedNorm(Defence):
    """Penalise Frobenius over nuclear norm, without the part of its gradient that changes the norm of the update."""

    stage = "during"
    source = "2606.31591; at fixed norm because the plain penalty also shortens the update"
    cost = "Gram matrices of the factors once per step, no further pass"
    strength_field = "lam"

    kind: Literal["spectral_penalty"] = "spectral_penalty"
    lam: float = Field(1.0, ge=0, description="lambda; the paper's value is unknown. 0: none, bit for bit")

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(changed(run, penalty=PenaltySpec(kind="norm_held", lam=self.lam)))
