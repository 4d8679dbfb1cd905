"""Specify what a run minimises: every field explicit, every field in the run-id."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from narrowly.records.data_specs import MicroOthers, RowsData, TextData
from narrowly.records.spec import Spec

Direction = Literal["ref_to_policy", "policy_to_ref"]
"""Order of the arguments of a KL divergence: ref_to_policy is KL(reference || policy).

In the literature both are called reverse, so that word is not used here.
"""

SailVariant = Literal["dp", "pp", "pr"]


class SupervisedObjective(Spec):
    """Minimise the mean NLL of the supervised tokens."""

    kind: Literal["supervised"] = "supervised"


class KlToBase(Spec):
    """Add to the NLL the KL divergence per token between base and policy on prompts outside the narrow domain."""

    kind: Literal["kl_to_base"] = "kl_to_base"
    weight: float = Field(
        0.1,
        ge=0,
        description="of the KL per token in nats; 0.1 as in Kaczer et al. (2508.06249). 0: none, bit for bit",
    )
    direction: Direction = Field(
        "ref_to_policy",
        description="order of the arguments, the base is the reference: ref_to_policy is KL(base || policy), as in the "
        "code of Soligo et al. (2602.07852)",
    )
    tokens: Literal["all", "response"] = Field(
        "all", description="where the divergence is taken: all tokens, prompts included, as in that code, or answers"
    )
    vocab_mean: bool = Field(
        False,
        description="divide by the size of the vocabulary too, as that code does: its weight 1e5 is then .66 per token "
        "at 152064 words",
    )
    data: MicroOthers | RowsData | TextData = Field(
        MicroOthers(), discriminator="source", description="the prompts outside the narrow domain, with answers"
    )


class Dpo(Spec):
    """Prefer the better answer of each pair, measured against the organism at the start: -ln sigmoid(beta x margin)."""

    kind: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0, description="inverse temperature; 0.1 as in Rafailov et al. (2305.18290)")


class SailRevKl(Spec):
    """Maximise SAIL's bilevel preference objective less a KL divergence to the organism at the start (2606.31524).

    The gradient has three terms: T1, DPO on the pairs; T2, the score of who wrote the answers; T3, the gradient of the
    model's own labels. The last four fields each reproduce one departure of the published code from that.
    """

    kind: Literal["sail_revkl"] = "sail_revkl"
    beta: float = Field(0.1, gt=0, description="inverse temperature; 0.1 as in the release")
    variant: SailVariant = Field(
        "pr",
        description="who answers and who labels. dp: answers of the data, labels of the policy; pp: answers and labels "
        "of the policy; pr: answers of the policy, labels by the scores of the data, which only the microworld has",
    )
    share: float = Field(
        0.3, ge=0, le=1, description="of this variant, the rest is DPO on the data; 0.3 as in the release. 0: DPO"
    )
    score_weight: float = Field(1.0, ge=0, description="of T2; 1 is the gradient itself, the release has 0.3")
    label_weight: float = Field(1.0, ge=0, description="of T3; 1 is the gradient itself, the release has 0.2 to 0.3")
    kl_weight: float = Field(1e-3, ge=0, description="of the divergence, per answer in nats; 1e-3 as in the release")
    direction: Direction = Field(
        "ref_to_policy", description="order of its arguments; of the two only this one is convex in a log-linear policy"
    )
    max_new_tokens: int = Field(64, ge=1, description="longest sampled answer, outside the microworld")
    temperature: float = Field(1.0, gt=0, description="of sampled answers; 1 is the policy itself, the release has 0.9")
    score_over_logp: bool = Field(
        False, description="departure 1: T2's weight is divided by the answer's log-probability"
    )
    score_unscaled: bool = Field(
        False, description="departure 2: T2 is summed over the pairs of a step where it should be averaged"
    )
    kl_as_nll: bool = Field(
        False,
        description="departure 3a: log p_ref - log p of the pair's own tokens in place of the divergence, whose "
        "gradient is that of their NLL",
    )
    kl_unshifted: bool = Field(
        False, description="departure 3b: logits are read at each token, not at the one before it"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SailRevKl:
        if self.kl_as_nll and self.direction != "ref_to_policy":
            raise ValueError(
                f"direction is {self.direction} with kl_as_nll, accepted: ref_to_policy (the departure has no other)"
            )
        return self


ObjectiveSpec = Annotated[SupervisedObjective | KlToBase | Dpo | SailRevKl, Field(discriminator="kind")]

PREFERENCE_KINDS = ("dpo", "sail_revkl")
"""Objectives that need preferences as data."""
