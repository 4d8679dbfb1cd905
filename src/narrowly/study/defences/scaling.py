"""Scale the update down: the placebo, because a shorter update is less of everything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from narrowly.records.edits import Scale
from narrowly.records.run_spec import RunSpec
from narrowly.study.defences.protocol import Defence, NormMatch, Plan


class Scaling(Defence):
    """Multiply every singular value of the update by a factor after training: plain scaling, the placebo."""

    stage = "after"
    source = "our own control; weight interpolation towards the base (2511.02022)"
    cost = "none in training"
    strength_field = "factor"
    zero = 1.0

    kind: Literal["scaling"] = "scaling"
    factor: float = Field(0.75, gt=0, le=1, description="of every singular value; 1: none, bit for bit")

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(run, edits=(Scale(factor=self.factor),))


class NormMatching(Defence):
    """Scale the update after training to the norm that another defence ended at: the placebo at equal length."""

    stage = "after"
    source = "our own control: an effect that remains at equal norm is none of length"
    cost = "none in training"

    kind: Literal["norm_matching"] = "norm_matching"
    norm: float = Field(gt=0, description="Frobenius norm of the update (update_norm of trajectory.jsonl)")

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(run, after=NormMatch(self.norm))


def matching_factor(own: float, wanted: float) -> Scale | None:
    """Return the edit that brings an update to a norm; None where it is not longer, as placebos only shorten.

    Args:
        own: norm of the update.
        wanted: norm that it shall have.
    """
    return None if own <= wanted else Scale(factor=wanted / own)
