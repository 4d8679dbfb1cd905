"""D15: an adapter that is not applied is noticed by its logits; merged and runtime adapter are one model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from narrowly.models.applied import Applied, before_merging, check_applied, check_merged
from narrowly.models.likelihood import score
from narrowly.models.lora import merged
from narrowly.records.errors import AdapterError
from narrowly.records.likelihood import ScoredText
from tiny_adapters import logits, tiny_base, tiny_model

PROMPT = tuple(range(12))


def zero_B(model: Any) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()


def test_an_adapter_that_acts_is_proved_by_the_largest_difference_of_a_logit() -> None:
    model = tiny_model()
    on = logits(model)[0, -1]
    with model.disable_adapter():
        off = logits(model)[0, -1]
    found = check_applied(model, PROMPT, "organism")
    assert found is not None and not found.is_zero
    assert found.largest_difference == pytest.approx(float((on - off).abs().max()), rel=1e-5) and on.ne(off).any()


def test_d15_an_adapter_that_is_off_is_an_error_and_one_whose_B_is_zero_is_told() -> None:
    """D15 of ecosystem.md: results of an adapter that was never applied are the base's, and look like a null."""
    model = tiny_model()
    scalings = [module.scaling for module in model.modules() if hasattr(module, "lora_B")]
    for scaling in scalings:
        scaling["default"] = 0.0
    with pytest.raises(AdapterError, match="the adapter of organism changes no logit although its B is not zero"):
        check_applied(model, PROMPT, "organism")
    zero_B(model)
    assert check_applied(model, PROMPT, "organism") == Applied(0.0, True)
    assert check_applied(tiny_base(), PROMPT, "base") is None


def test_d15_merged_and_runtime_adapter_give_equal_log_likelihoods() -> None:
    model = tiny_model()
    texts = [ScoredText((1, 2, 3), (4, 5, 6, 7)), ScoredText((1, 2), (9, 9, 30))]
    runtime = [one.total for one in score(model, texts).likelihoods]
    with merged(model):
        together = [one.total for one in score(model, texts).likelihoods]
    with model.disable_adapter():
        base = [one.total for one in score(model, texts).likelihoods]
    assert together == pytest.approx(runtime, abs=1e-4)
    assert min(abs(one - other) for one, other in zip(base, runtime, strict=True)) > 1e-2


def test_d15_a_merged_model_must_have_the_logits_of_its_adapter() -> None:
    """D15 on the merged path: a merge that does nothing, or of another adapter, is noticed."""
    model = tiny_model()
    beside = before_merging(model, PROMPT, "organism")
    with model.disable_adapter(), pytest.raises(AdapterError, match="the merged weights of organism are not those"):
        check_merged(model, PROMPT, "organism", beside)
    model.merge_adapter()
    assert check_merged(model, PROMPT, "organism", beside) == beside.applied
    model.unmerge_adapter()
    zero_B(model)
    nothing = before_merging(model, PROMPT, "organism")
    assert check_merged(model, PROMPT, "organism", nothing) == Applied(0.0, True)
