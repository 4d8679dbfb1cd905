"""Hold the policy at its base outside the narrow domain, by a KL divergence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from narrowly.records import objectives
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.records.spec import validated
from narrowly.study.defences.protocol import Defence, Plan, changed


class KlToBase(Defence):
    """Add a KL divergence between base and policy on prompts outside the narrow domain to the loss."""

    stage = "during"
    source = "2602.07852 (its public weights are divided by the vocabulary size: vocab_mean), 2508.06249"
    cost = "one more forward and backward pass, and a forward pass of the base, on as many rows"
    strength_field = "weight"

    kind: Literal["kl_to_base"] = "kl_to_base"
    weight: float = Field(0.1, ge=0, description="per token in nats; 0: none, bit for bit")
    direction: objectives.Direction = Field("ref_to_policy", description="order of the arguments; the base comes first")
    tokens: Literal["all", "response"] = Field("all", description="where the divergence is taken")
    vocab_mean: bool = Field(False, description="divide by the size of the vocabulary too, as the public code does")
    dataset: str | None = Field(None, description="conversations outside the narrow domain; null in the microworld")

    def _plan(self, run: RunSpec) -> Plan:
        data = {"source": "micro_others"}
        if not run.data.own_world:
            if self.dataset is None:
                raise SpecError("defence kl_to_base: dataset is missing, accepted: conversations outside the domain")
            thinking = getattr(run.data, "thinking", None)
            data = {"source": "text", "dataset": self.dataset} | ({} if thinking is None else {"thinking": thinking})
        elif self.dataset is not None:
            raise SpecError(
                f"defence kl_to_base: dataset is {self.dataset!r} in the microworld, accepted: null (it has its own)"
            )
        fields = {"kind": "kl_to_base", "data": data}
        fields |= {name: getattr(self, name) for name in ("weight", "direction", "tokens", "vocab_mean")}
        return Plan(changed(run, objective=validated(objectives.KlToBase, fields, "objective")))
