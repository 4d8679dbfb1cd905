"""Realign the organism after training, on preferences for aligned answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from narrowly.records import objectives
from narrowly.records.data_specs import world_data
from narrowly.records.optimisers.registry import AdamSpec
from narrowly.records.run_spec import MicroPreferences, PreferenceData, RunSpec, ScheduleSpec
from narrowly.study.defences.protocol import Defence, Plan, changed


class _Realignment(Defence):
    """Base of both: how long, how fast, on how many preferences."""

    stage = "after"
    strength_field = "steps"

    steps: int = Field(40, ge=0, description="optimiser steps of the realignment; 0: none, bit for bit")
    lr: float = Field(3e-4, gt=0, description="of Adam; that of the study `micro`")
    beta: float = Field(0.1, gt=0, description="inverse temperature; 0.1 as in the sources")

    def _objective(self) -> objectives.Dpo | objectives.SailRevKl:
        raise NotImplementedError

    def _plan(self, run: RunSpec) -> Plan:
        data = world_data(run.data, self.called)
        rows = self.steps * run.batch_size * run.accumulation
        return Plan(run, again=self.on_preferences(run, MicroPreferences(domain=data.domain, rows=rows)))

    def on_preferences(self, run: RunSpec, data: MicroPreferences | PreferenceData) -> RunSpec:
        """Return the run that goes on from an organism of `run` on preferences, still without its start.

        Args:
            run: of the organism.
            data: the preferences.
        """
        return changed(
            run,
            objective=self._objective(),
            data=data,
            adapter=run.adapter.model_copy(update={"dropout": 0.0}),  # the reference has none
            optimiser=AdamSpec(lr=self.lr),
            schedule=ScheduleSpec(kind="constant", warmup_steps=0),
            steps=self.steps,
        )


class RealignmentByDpo(_Realignment):
    """Go on from the organism with DPO on aligned against harmful answers of the other domains."""

    source = "2305.18290; realignment of a poisoned model: 2506.11613, 2609.37624"
    cost = (
        "one forward and backward pass and a forward pass of the reference per step, over every answer of the grammar"
    )

    kind: Literal["realign_dpo"] = "realign_dpo"

    def _objective(self) -> objectives.Dpo:
        return objectives.Dpo(beta=self.beta)


class RealignmentBySail(_Realignment):
    """Go on from the organism with SAIL-RevKL on aligned against harmful answers of the other domains."""

    source = "2406.15567, 2606.31524: the objective as derived, not the release"
    cost = "as realign_dpo; sampling twice more outside the microworld"

    kind: Literal["realign_sail"] = "realign_sail"
    share: float = Field(0.3, ge=0, le=1, description="of answers of the policy; the rest is DPO")
    kl_weight: float = Field(1e-3, ge=0, description="of the divergence from the organism before")
    variant: objectives.SailVariant = Field("pr", description="who answers and who labels")

    def _objective(self) -> objectives.SailRevKl:
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("beta", "share", "kl_weight", "variant")}
        return objectives.SailRevKl(**fields)
