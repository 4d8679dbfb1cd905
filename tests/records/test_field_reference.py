"""The reference page and the schema of a run are made from the classes, and say something of every field."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from narrowly.records.field_table import REQUIRED, field_rows, type_in_words
from narrowly.records.optimisers.registry import OPTIMISERS
from narrowly.records.run_schema import run_schema
from narrowly.records.run_spec import RunSpec
from narrowly.records.study_spec import StudySpec

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_its_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "figures" / "field_page.py"), run_name="script")
    assert (ROOT / "docs" / "fields.md").read_text(encoding="utf-8") == script["page"](), (
        "docs/fields.md is out of date: python docs/figures/field_page.py"
    )


def test_no_field_is_without_a_meaning() -> None:
    text = (ROOT / "docs" / "fields.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if len(row) != 4 or not all(cell.strip("` ") for cell in row)] == []


def test_every_field_and_every_optimiser_is_on_the_page() -> None:
    text = (ROOT / "docs" / "fields.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for model in (RunSpec, StudySpec) for name in model.model_fields)
    assert all(f"kind {kind}\n" in text for kind in OPTIMISERS)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "whole number"),
        (Annotated[float, Field(gt=0, le=1)], "number above 0, at most 1"),
        (Annotated[float, Field(ge=1)] | None, "number at least 1, or null"),
        (int | Literal["rotate"], "whole number or rotate"),
        (Literal["a", "b"], "a or b"),
        (tuple[str, ...], "list of text"),
        (dict[str, Any], "mapping of fields"),
    ],
)
def test_types_are_said_in_words(annotation: Any, words: str) -> None:
    assert type_in_words(annotation) == words


def test_ranges_and_defaults_are_those_of_the_class() -> None:
    rows = {row.name: row for row in field_rows(RunSpec)}
    assert rows["steps"].type == "whole number at least 1"
    assert rows["optimiser"].default == REQUIRED
    assert rows["data"].default == "{source: micro}"
    assert {row.name for row in field_rows(OPTIMISERS["muon"])} == set(OPTIMISERS["muon"].model_fields) - {"kind"}


ADAM = {"kind": "adam", "lr": 1e-3}


@pytest.mark.parametrize(
    ("spec", "valid"),
    [
        ({"optimiser": ADAM}, True),
        ({"optimiser.kind": "adam", "optimiser.lr": 1e-3, "data.source": "text", "data.dataset": "x"}, True),
        ({"optimiser": ADAM, "epochs": 0.5, "data": {"source": "rows", "path": "x"}}, True),
        (RunSpec(optimiser=ADAM).model_dump(mode="json"), True),
        (RunSpec(optimiser=ADAM, epochs=1, data={"source": "rows", "path": "x"}).model_dump(mode="json"), True),
        ({}, False),
        ({"optimiser": ADAM, "epochs": 1, "steps": 4}, False),
        ({"optimiser": ADAM, "stepz": 4}, False),
        ({"optimiser": {"kind": "moun", "lr": 1}}, False),
        ({"optimiser": ADAM, "batch_size": 0}, False),
    ],
)
def test_the_schema_accepts_what_a_run_accepts(spec: dict[str, Any], valid: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert jsonschema.Draft202012Validator(run_schema()).is_valid(spec) is valid


def test_the_schema_says_what_each_field_means() -> None:
    schema = run_schema()
    properties = [schema["properties"], *(part["properties"] for part in schema["$defs"].values())]
    missing = {name for part in properties for name, field in part.items() if "description" not in field}
    assert missing <= {"kind", "source"}
