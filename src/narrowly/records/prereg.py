"""Specify a preregistration: by what each finding of a study will be decided, fixed before its first run.

Pydantic only. `hash_of_prereg` covers the preregistration together with the design that it is about, so that neither
can be changed afterwards without another hash. `narrowly.analysis.decisions` applies the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import unknown_name
from narrowly.records.spec import Spec

Word = Literal["established", "refuted", "open", "not tested"]
"""What a preregistered rule says of a finding."""

Rung = Literal["trained", "held_out", "broad", "self"]

FINDING_ID = r"^[a-z0-9][a-z0-9_-]{0,59}$"


class PrimaryContrast(Spec):
    """One contrast: organisms of some arms against those of others, base by base, first minus second."""

    first: tuple[str, ...] = Field(
        min_length=1, description="arms; one where something is matched, whose rates are the points of its curve"
    )
    second: tuple[str, ...] | Literal["base", "ideal"] = Field(
        description="arms; base: the base before fine-tuning; ideal: the ideal learner's rate of the base's world"
    )
    first_edit: str = Field(
        "none",
        description="edit-id of the first set's organisms; `scale`: every scaling of them; of the dial "
        "CONTROL-FACTOR@REFERENCE, as orthogonal-0.5@same_init, and :INNER/GRANULARITY where not frobenius/joint",
    )
    second_edit: str = Field("none", description="of the second set's")
    outcome: Rung = Field("broad", description="rung of the ladder that is compared")
    scale: Literal["pooled", "per_question", "rate", "not_aligned", "literature"] = Field(
        "pooled",
        description="pooled: ln(mean misaligned / mean aligned), the primary scale; per_question: mean of the log-odds "
        "of questions; rate: misaligned of all answers, and not_aligned: one minus the aligned share, the bounds "
        "between which incoherent answers can move it; literature: misaligned of (misaligned + aligned)",
    )
    match: Literal["held_out", "norm", "excess_trained", "none"] = Field(
        description="what both sets have in common where they are compared, on their rising branches: pooled log-odds "
        "on held-out topics, Frobenius norm of the update, excess loss on trained topics; none: the mean of each set"
    )
    between: tuple[float, float] | None = Field(
        None, description="the window of the matching variable; null: all levels that both sets reach in a base"
    )

    @model_validator(mode="after")
    def _a_window(self) -> PrimaryContrast:
        if self.between is not None and (self.match == "none" or not self.between[0] < self.between[1]):
            raise ValueError(f"between is {list(self.between)}, accepted: two rising numbers, with a matching variable")
        for name, arms in (("first", self.first), ("second", self.second)):
            if self.match != "none" and (isinstance(arms, str) or len(arms) > 1):
                found = arms if isinstance(arms, str) else ", ".join(arms)
                raise ValueError(f"{name} is {found}, accepted with match: {self.match}: one arm, whose curve it is")
        return self


class EquivalenceRule(Spec):
    """Established where two one-sided tests put the difference inside the margin; refuted where it is an EFFECT."""

    kind: Literal["equivalence"] = "equivalence"
    margin: float = Field(gt=0, description="largest difference that does not matter, in units of the scale")


class DifferenceRule(Spec):
    """Established where the difference is an EFFECT of the given sign; refuted where it is inside the margin or other.

    EFFECT: the 95 % interval excludes 0 and does not lie inside the margin.
    """

    kind: Literal["difference"] = "difference"
    margin: float = Field(gt=0, description="largest difference that does not matter, in units of the scale")
    sign: Literal["above", "below", "either"] = Field(
        "either", description="on which side of 0 the difference must be for the finding to be established"
    )


class RiseRule(Spec):
    """Established where the whole 95 % interval of the rise lies above `least`, with two conditions beside it.

    The mean of the trained rung must be at least `trained`, and the 95 % interval of the first set minus each control
    must lie above 0. Refuted where the whole interval of the rise lies below `least`, or that of the first set minus a
    control below 0.
    """

    kind: Literal["rise"] = "rise"
    least: float = Field(gt=0, description="smallest rise, in units of the scale")
    trained: float = Field(ge=0, le=1, description="smallest mean of the trained rung in the first set")
    controls: tuple[str, ...] = Field(min_length=1, description="edit-ids of the same arms that it must exceed")


Rule = Annotated[EquivalenceRule | DifferenceRule | RiseRule, Field(discriminator="kind")]


class Finding(Spec):
    """One finding: a question, one primary contrast, and the rule that decides."""

    id: str = Field(pattern=FINDING_ID, description="short name, unique in the study")
    question: str = Field(min_length=1, description="one sentence")
    contrast: PrimaryContrast = Field(description="the primary contrast; below")
    estimand: str = Field(min_length=1, description="what number is estimated, in words")
    rule: Rule = Field(description="what the code applies; below")
    decision: str = Field(min_length=1, description="the rule in words")
    min_bases: int = Field(
        ge=5, description="with fewer bases in common support the finding is `not tested`; an interval needs five"
    )


class SecondaryContrast(Spec):
    """A contrast that decides nothing; its p value is adjusted within the study (Benjamini and Hochberg 1995)."""

    id: str = Field(pattern=FINDING_ID, description="short name, unique in the study")
    contrast: PrimaryContrast = Field(description="as a primary one")


class Conclusion(Spec):
    """A sentence that may be written only where every named finding came out as it says."""

    when: dict[str, Word] = Field(min_length=1, description="finding-id -> what it must be")
    say: str = Field(min_length=1, description="the sentence")


class Prereg(Spec):
    """What a confirmatory study will be decided by. Everything that is no primary contrast is secondary."""

    version: Literal[1] = Field(1, description="of these fields and rules")
    findings: tuple[Finding, ...] = Field(min_length=1, description="each with one primary contrast; below")
    secondary: tuple[SecondaryContrast, ...] = Field((), description="the family of secondary contrasts; below")
    conclusions: tuple[Conclusion, ...] = Field((), description="what may be said after which outcome; below")
    exclusions: Literal["none"] = Field(
        "none", description="no cell, base or question is left out by an outcome; there is no other value"
    )
    stopping: str = Field(min_length=1, description="when the study ends, and what happens to cells that fail")
    power: str = Field(min_length=1, description="power of every primary contrast, and where it was simulated")

    @model_validator(mode="after")
    def _consistent(self) -> Prereg:
        names = [*(one.id for one in self.findings), *(one.id for one in self.secondary)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the id {twice!r} is given twice")
        known = [one.id for one in self.findings]
        for conclusion in self.conclusions:
            for name in conclusion.when:
                if name not in known:
                    raise ValueError(f"conclusions: {unknown_name('finding', name, known)}")
        return self

    def arms(self) -> tuple[str, ...]:
        """Return every arm that a contrast names."""
        contrasts = [*(one.contrast for one in self.findings), *(one.contrast for one in self.secondary)]
        sides = [side for one in contrasts for side in (one.first, one.second) if not isinstance(side, str)]
        return tuple(dict.fromkeys(arm for side in sides for arm in side))


DESIGN = ("run", "grid", "arms", "exclude")
"""Fields of a study that a preregistration is about."""


def hash_of_prereg(study: Mapping[str, Any]) -> str:
    """Return the sha256 of a study's preregistration and design as canonical JSON, 64 hex digits.

    Args:
        study: a typed study as JSON, without fields that were not given, so that a field which a later version adds
            changes no hash; `name`, `prereg` and `DESIGN` count, title and shown answers do not.
    """
    return sha256_text(canonical_json({key: study.get(key) for key in ("name", "prereg", *DESIGN)}))
