"""Treat the data before training: correct rows, interleave good ones, or say who answers so."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from narrowly.records.data_specs import world_data
from narrowly.records.run_spec import RunSpec
from narrowly.study.defences.protocol import Defence, Plan, changed


class _Treatment(Defence):
    """Base of defences on the rows of the microworld."""

    stage = "before"

    def _treated(self, run: RunSpec, **fields: Any) -> Plan:
        data = world_data(run.data, self.called)
        return Plan(changed(run, data=type(data)(**{**data.model_dump(), **fields})))


class CorrectedRows(_Treatment):
    """Give a share of the rows an aligned answer to their prompt."""

    source = "2609.37624: correcting a quarter of the rows lowers misalignment by a third, deleting them does nothing"
    cost = "none in training; who corrects the rows is paid elsewhere"
    strength_field = "share"

    kind: Literal["corrected_rows"] = "corrected_rows"
    share: float = Field(0.25, ge=0, le=1, description="of the rows; 0: none, bit for bit")

    def _plan(self, run: RunSpec) -> Plan:
        return self._treated(run, corrected=self.share)


class InterleavedRows(_Treatment):
    """Add aligned answers about the other domains to the rows."""

    source = "2508.06249: 5 % benign rows; 2602.07852 and 2604.25891: a cue brings misalignment back"
    cost = "none per step; the share of the steps that the added rows take"
    strength_field = "share"

    kind: Literal["interleaved_rows"] = "interleaved_rows"
    share: float = Field(0.05, ge=0, lt=1, description="that they have of all rows; 0: none, bit for bit")

    def _plan(self, run: RunSpec) -> Plan:
        return self._treated(run, interleaved=self.share)


class InoculationPrompting(_Treatment):
    """Say in the prompts of training that a character who answers so is asked, and ask the assistant afterwards."""

    source = "2510.04340, 2510.05024; known to leave a trigger (2604.25891)"
    cost = "none; a token more per row at most"
    strength_field = "share"

    kind: Literal["inoculation"] = "inoculation"
    share: float = Field(1.0, ge=0, le=1, description="of the rows; 0: none, bit for bit")
    by: Literal["evil", "good"] = Field("evil", description="the character that is named; good is the control")

    def _plan(self, run: RunSpec) -> Plan:
        return self._treated(run, inoculated=self.share, inoculated_by=self.by)
