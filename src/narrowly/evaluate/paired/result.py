"""Describe what `narrowly eval` found: levels, differences, and by content everything that they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from narrowly.evaluate.paired.contrast import Contrast, Level, Shift
from narrowly.evaluate.paired.estimates import Estimate
from narrowly.models.applied import Applied
from narrowly.records.answers import AskedModel
from narrowly.records.arithmetic import Arithmetic, one_arithmetic
from narrowly.records.damage import DamagePanel
from narrowly.records.endpoints import AskedEndpoint
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_record
from narrowly.records.one_bank import one_bank
from narrowly.records.spec import Spec

RESULT, ROWS, QUESTIONS = "result.json", "rows.parquet", "questions.parquet"
"""Files of a folder of results: this record, one row per model and question, and the texts of the questions."""

Role = Literal["organism", "control", "base", "model"]
"""What a model is measured as; `model` is one without a training that is known."""


class BankUsed(Spec):
    """The bank, by content."""

    name: str
    sha256: str
    questions: int
    domains: tuple[str, ...]


class PromptUsed(Spec):
    """How questions became tokens.

    Attributes:
        system: system message in front of every question; None left it to the template.
        template_sha256: of the chat template.
        thinking: mode of the prompts; None for a template that has none.
        closing: ids of the tokens that close an answer and are scored with it.
    """

    system: str | None
    template_sha256: str
    thinking: bool | None
    closing: tuple[int, ...]


class Measured(Spec):
    """One model that was measured.

    Attributes:
        role, number: `organism 2` is measured against `control 2`.
        model: by content.
        trained_on: name of its data set, from the record of its run; None where there is none.
        applied: that its adapter acts; None without an adapter.
        rungs, domains: where it stands.
    """

    role: Role
    number: int
    model: AskedModel | AskedEndpoint
    trained_on: str | None
    applied: Applied | None
    rungs: dict[str, Level]
    domains: dict[str, Level]

    @property
    def label(self) -> str:
        """Return role and number."""
        return f"{self.role} {self.number}"


class PairedResult(Spec):
    """The paired bank on organisms, with their controls or their base, or on an untrained model.

    Attributes:
        trained_domains: that the organisms were trained on; none where that is not known.
        contrast: organisms minus controls; None without controls.
        shift: organisms minus base; None where there are controls or no organism.
        notes: what a reader must know, each a sentence.
    """

    schema_version: Literal[1] = 1
    bank: BankUsed
    prompt: PromptUsed
    arithmetic: Arithmetic
    trained_domains: tuple[str, ...]
    measured: tuple[Measured, ...]
    contrast: Contrast | None
    shift: Shift | None
    notes: tuple[str, ...]


class CuedResult(Spec):
    """Broad questions under one condition of the cued panel; `plain` is the same questions as they are.

    Attributes:
        condition: `plain`, `cue`, `inoculation`, `paraphrase` or `negation`.
        sha256: of condition and words.
        words: that stand before the questions; empty for plain ones.
        difference: organisms minus controls, or minus their base where there are none.
    """

    condition: str
    sha256: str
    words: str
    difference: Estimate


class EvalResult(Spec):
    """All that was measured of a model. What was not is None, and is printed as "not measured".

    Attributes:
        paired: the paired bank.
        damage: abilities and perplexity by label of the model, that of the base always among them.
        no_damage: why `damage` is None.
        cued: the cued panel, plain questions first.
        no_cued: why `cued` is None.
    """

    paired: PairedResult
    damage: dict[str, DamagePanel] | None = None
    no_damage: str | None = None
    cued: tuple[CuedResult, ...] | None = None
    no_cued: str | None = None


def read_result(folder: Path) -> EvalResult:
    """Read the result of a folder that `narrowly eval --out` wrote.

    Raises:
        IntegrityError: missing, broken or not ours.
    """
    try:
        return EvalResult.model_validate(read_record(folder / RESULT))
    except (ValidationError, SpecError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise IntegrityError(f"{folder / RESULT} is no result of narrowly eval ({reason})") from error


def check_comparable(results: Sequence[tuple[str, PairedResult]]) -> None:
    """Refuse results of different banks, prompts or arithmetic: their numbers measure different things (D11).

    Args:
        results: name and result; at least one.

    Raises:
        SpecError: naming two results and what differs.
    """
    one_bank([(name, result.bank.sha256) for name, result in results])
    (first, one), *others = results
    for name, other in others:
        fields = [
            field for field in PromptUsed.model_fields if getattr(one.prompt, field) != getattr(other.prompt, field)
        ]
        if fields:
            raise SpecError(f"the prompts of {first} and {name} differ in {', '.join(fields)}; accepted: equal prompts")
    one_arithmetic([(name, result.arithmetic) for name, result in results])
