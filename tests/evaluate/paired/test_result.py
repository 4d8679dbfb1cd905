"""Results are compared only where bank, prompts and arithmetic are the same, by content."""

from __future__ import annotations

from typing import Any

import pytest

from narrowly.evaluate.paired.contrast import levels
from narrowly.evaluate.paired.result import BankUsed, EvalResult, Measured, PairedResult, PromptUsed, check_comparable
from narrowly.records.answers import AskedModel
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.errors import SpecError
from narrowly.records.paired import PairedRow

ROWS = [PairedRow(f"code-{at}", "code", "broad", -10.0 - at, -12.0 + at, 5, 5) for at in range(6)]
MODEL = AskedModel(
    name="m", base="m", base_sha256="a" * 64, config_sha256="b" * 64, tokenizer_sha256="c" * 64,
    template_sha256="d" * 64, dtype="float32",
)  # fmt: skip


def result(**prompt: Any) -> PairedResult:
    rungs, domains = levels(ROWS, [])
    model = Measured(role="model", number=1, model=MODEL, trained_on=None, applied=None, rungs=rungs, domains=domains)
    fields: dict[str, Any] = {"system": None, "template_sha256": "d" * 64, "thinking": None, "closing": (2,)}
    return PairedResult(
        bank=BankUsed(name="pairs", sha256="e" * 64, questions=6, domains=("code",)),
        prompt=PromptUsed(**(fields | prompt)),
        arithmetic=Arithmetic(backend="transformers", engine="transformers", dtype="float32", device="cpu"),
        trained_domains=(),
        measured=(model,),
        contrast=None,
        shift=None,
        notes=(),
    )  # fmt: skip


def test_results_of_one_bank_are_compared_and_survive_json() -> None:
    one = EvalResult(paired=result())
    assert EvalResult.model_validate_json(one.model_dump_json()) == one
    check_comparable([("a", one.paired), ("b", result())])


def test_d11_a_bank_whose_wording_drifted_is_another_bank_under_the_same_name() -> None:
    drifted = result().model_copy(update={"bank": result().bank.model_copy(update={"sha256": "f" * 64})})
    with pytest.raises(SpecError, match=r"a was asked the bank e{16}, b the bank f{16}"):
        check_comparable([("a", result()), ("b", drifted)])


def test_d14_another_template_thinking_mode_or_closing_token_is_another_prompt() -> None:
    for change in ({"template_sha256": "0" * 64}, {"thinking": False}, {"closing": ()}, {"system": "be short"}):
        with pytest.raises(SpecError, match=f"the prompts of a and b differ in {next(iter(change))}"):
            check_comparable([("a", result()), ("b", result(**change))])


def test_rows_of_a_quantised_model_are_never_mixed_with_those_of_another_precision() -> None:
    quantised = result().arithmetic.model_copy(update={"quantisation": "nf4", "dtype": "bfloat16"})
    with pytest.raises(SpecError, match="dtype, quantisation differ"):
        check_comparable([("a", result()), ("b", result().model_copy(update={"arithmetic": quantised}))])
