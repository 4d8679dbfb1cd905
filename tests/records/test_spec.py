"""Specs in Python: keyword arguments and plain dicts are refused in the words of the command line, never pydantic's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from narrowly.records.edits import EditSpec, Flatten, edit_spec
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.optimisers.registry import AdamSpec, OptimiserSpec, optimiser_spec
from narrowly.records.penalties import PenaltySpec
from narrowly.records.run_spec import RunSpec, load_run_spec
from narrowly.records.spec import validated
from narrowly.records.study_spec import StudySpec

ADAM = {"kind": "adam", "lr": 1e-3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimiser": {"kind": "moun", "lr": 1.0}}, "optimiser: unknown optimiser 'moun'; did you mean 'muon'?"),
        ({"optimiser": ADAM, "stesp": 3}, "stesp: unknown field; did you mean 'steps'?"),
        ({"optimiser": {**ADAM, "weigth_decay": 0}}, "optimiser.weigth_decay: unknown field; did you mean"),
        ({"optimiser": ADAM, "steps": "many"}, "steps: found 'many', expected an integer"),
        ({"optimiser": {"kind": "adam", "lr": -1}}, "optimiser.lr: found -1, expected greater than 0"),
        ({"steps": 3}, "optimiser: missing, and it has no default"),
        ({"optimiser": {"kind": "adam"}}, "optimiser.lr: missing, and it has no default"),
        ({"optimiser": {"kind": "sophia", "lr": 0.1}}, "optimiser: 'sophia' is refused: "),
        ({"optimiser": ADAM, "penalty": {"lam": -1}}, "penalty.lam: found -1, expected greater than or equal to 0"),
    ],
)
def test_a_run_spec_from_keywords_is_refused_in_the_words_of_a_file(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec(**fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)
    import yaml

    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(fields), encoding="utf-8")
    with pytest.raises(SpecError) as read:
        load_run_spec(file)
    assert str(read.value) == f"{file}: {caught.value}"


def test_a_wrong_field_of_a_nested_spec_is_named_with_the_path_that_leads_to_it() -> None:
    """Holds that a nested spec is validated in place; built by its own __init__ it would lose the path."""
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate({"optimiser": ADAM, "adapter": {"r": 0}})
    assert caught.value.errors()[0]["loc"] == ("adapter", "r")
    with pytest.raises(SpecError, match=r"^adapter\.r: found 0, expected greater than or equal to 1$"):
        RunSpec(optimiser=ADAM, adapter={"r": 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (AdamSpec, {"lr": "fast"}, "lr: found 'fast', expected a number"),
        (Flatten, {"t": 2}, "t: found 2, expected less than or equal to 1"),
        (PenaltySpec, {"lam": 0.1, "kind": "frobenius_nuclaer"}, "did you mean 'frobenius_nuclear'?"),
        (StudySpec, {"name": "x", "arms": {"a": {"rolle": "other"}}}, "arms.a.rolle: unknown field; did you mean"),
    ],
)
def test_every_typed_spec_says_in_one_line_what_is_wrong(kind: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        kind(**fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "moun", "lr": 0.1}, "optimiser: unknown optimiser 'moun'; did you mean 'muon'? (accepted: "),
        ({"lr": 0.1}, "optimiser: found {'lr': 0.1}, expected a mapping with 'kind' (accepted: "),
        ({**ADAM, "decay": 0}, "optimiser.decay: unknown field; did you mean 'weight_decay'? (accepted: "),
        ({"kind": "adam", "lr": "x"}, "optimiser.lr: found 'x', expected a number"),
        ({"kind": "adam", "lr": 0}, "optimiser.lr: found 0, expected greater than 0"),
        ({"kind": "adam"}, "optimiser.lr: missing, and it has no default"),
        ("adam", "optimiser: found 'adam', expected a mapping of fields"),
        (None, "optimiser: found None, expected a mapping of fields"),
    ],
)
def test_an_optimiser_from_a_dict_is_refused_with_its_path_and_the_nearest_match(value: Any, message: str) -> None:
    with pytest.raises(NarrowlyError) as caught:
        optimiser_spec(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "flaten"}, "edit: unknown edit 'flaten'; did you mean 'flatten'?"),
        ({"kind": "flatten", "s": 1}, "edit.s: unknown field"),
        ({"kind": "scale"}, "edit.factor: missing, and it has no default"),
        ({"kind": "keep_top", "k": 0}, "edit.k: found 0, expected greater than or equal to 1"),
        ({"kind": "keep_top", "k": 1.5}, "edit.k: found 1.5, expected an integer"),
        ("flaten:t=.5", "unknown edit 'flaten'; did you mean 'flatten'?"),
        (3, "edit: found 3, expected a mapping of fields"),
    ],
)
def test_an_edit_from_a_dict_or_its_short_form_is_refused_alike(value: Any, message: str) -> None:
    with pytest.raises(NarrowlyError) as caught:
        edit_spec(value)
    assert str(caught.value).startswith(message)


def test_a_typed_spec_is_taken_as_it_is_and_a_plain_one_becomes_the_same() -> None:
    adam, flat = AdamSpec(lr=1e-3), Flatten(t=0.5)
    assert optimiser_spec(adam) is adam
    assert optimiser_spec(ADAM) == adam
    assert edit_spec(flat) is flat
    assert edit_spec({"kind": "flatten", "t": 0.5}) == edit_spec("flatten:t=.5") == flat
    assert validated(OptimiserSpec, adam) is adam and validated(EditSpec, flat) is flat
