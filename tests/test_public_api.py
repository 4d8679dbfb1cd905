"""`from narrowly import ...`: every public name is there, lazily, typed, and misspelt ones name the nearest."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import narrowly

SOURCE = Path(__file__).parents[1] / "src"
NAMES = {
    "NarrowlyError", "RunSpec", "SpectralPenalty", "StudySpec", "ask", "build_optimizer", "edit_adapter",
    "evaluate_organism", "load_organism", "load_study", "match_runs", "report_study", "run_study", "spectrum_of",
    "train_run",
}  # fmt: skip
"""The public API. To take a name away breaks what users wrote; a new one goes into docs/python.md as well."""


def printed_by(program: str) -> list[str]:
    """Return the words that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_public_names_are_these_and_a_notebook_lists_them() -> None:
    assert set(narrowly.__all__) == NAMES | {"__version__"}
    assert set(dir(narrowly)) == NAMES | {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_the_one_of_its_room(name: str) -> None:
    found: Any = getattr(narrowly, name)
    assert found is getattr(import_module(narrowly._MODULES[name]), name)
    assert found.__doc__ and callable(found)


def test_type_checkers_are_told_the_modules_that_the_names_are_fetched_from() -> None:
    tree = ast.parse((SOURCE / "narrowly/__init__.py").read_text(encoding="utf-8"))
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == narrowly._MODULES
    assert set(told) == NAMES
    assert (SOURCE / "narrowly/py.typed").is_file()


def test_importing_the_package_loads_itself_and_nothing_else() -> None:
    program = (
        "import sys, typing, __future__; before = set(sys.modules); import narrowly; dir(narrowly); "
        "print(*sorted(set(sys.modules) - before))"
    )
    assert printed_by(program) == ["narrowly"]


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("NarrowlyError", {"torch", "pydantic"}),
        ("RunSpec", {"torch", "polars"}),
        ("StudySpec", {"torch", "polars"}),
        ("load_study", {"torch", "polars"}),
        ("run_study", {"torch", "polars"}),
        ("spectrum_of", {"torch"}),
        ("SpectralPenalty", {"transformers", "peft", "polars", "pydantic"}),
        ("build_optimizer", {"transformers", "peft", "polars"}),
    ],
)
def test_a_name_loads_what_it_needs_and_no_more(name: str, without: set[str]) -> None:
    assert not set(printed_by(f"import sys; from narrowly import {name}; print(*sys.modules)")) & without


def test_the_room_called_spectrum_and_the_function_of_a_folder_do_not_hide_each_other() -> None:
    """A room sets the attribute of its name when it is imported, so the function has a name of its own."""
    first = "from narrowly import spectrum_of, SpectralPenalty"
    rooms = "import narrowly.spectrum; from narrowly.spectrum import SpectralPenalty as other"
    check = (
        "import types; assert other is SpectralPenalty; assert isinstance(narrowly.spectrum, types.ModuleType); "
        "from narrowly import spectrum; assert spectrum is narrowly.spectrum; assert callable(spectrum_of); print('ok')"
    )
    for order in (f"{first}; {rooms}", f"{rooms}; {first}"):
        assert printed_by(f"{order}; {check}") == ["ok"]


def test_a_misspelt_name_is_an_attribute_error_with_the_nearest_match() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'load_studdy'; did you mean 'load_study'\?"):
        narrowly.load_studdy  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="build_optimiser"):
        from narrowly import build_optimiser  # type: ignore[attr-defined]  # noqa: F401
    assert not hasattr(narrowly, "__wrapped__")


def test_a_name_that_needs_more_than_what_is_installed_says_how_to_add_it() -> None:
    program = """
import sys
for name in ("torch", "pytorch_optimizer"):
    sys.modules[name] = None
from narrowly import NarrowlyError
try:
    from narrowly import SpectralPenalty
except NarrowlyError as error:
    print(type(error).__name__, error)
"""
    name, *message = printed_by(program)
    assert name == "MissingExtraError"
    assert " ".join(message).startswith("SpectralPenalty needs torch; add it with: pip install ")
