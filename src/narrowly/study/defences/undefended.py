"""No defence: the run as it is, which every other one is compared with."""

from __future__ import annotations

from typing import Literal

from narrowly.records.run_spec import RunSpec
from narrowly.study.defences.protocol import Defence, Plan


class Undefended(Defence):
    """Train the run as it is."""

    stage = "during"
    source = "the reference of every comparison"
    cost = "none"

    kind: Literal["none"] = "none"

    def _plan(self, run: RunSpec) -> Plan:
        return Plan(run)
