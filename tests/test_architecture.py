"""The order of the rooms: imports point downwards only, and the light rooms stay light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "narrowly"

ROOMS = (
    "cli", "report", "workbench", "study", "analysis", "evaluate", "train", "integrations", "models", "microworld",
    "optim", "runs", "engines", "audit", "data", "stats", "directions", "spectrum", "records",
)  # fmt: skip
"""From the highest room to the lowest; a room imports itself and rooms to its right."""

OUTSIDE = {
    "records": {"pydantic", "pydantic_core", "yaml"},
    "spectrum": {"torch", "safetensors"},
    "optim": {"torch", "pytorch_optimizer"},
}
"""Everything from outside the standard library that the rooms at the bottom may import, also inside functions."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return every module named in an import anywhere in the file: lazy ones and those for type checking too."""
    found: set[str] = set()
    parts = path.relative_to(SOURCE).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, *([node.module] if node.module else [])))
            # `from narrowly import records` names a room in the alias, not in the module.
            found.update(f"{source}.{alias.name}" if source == "narrowly" else source for alias in node.names)
    return found


def room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def test_there_are_modules_to_check_and_every_folder_is_a_known_room() -> None:
    folders = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and list(folder.rglob("*.py"))}
    assert {"records", "spectrum", "optim"} <= folders
    assert folders <= set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_room_and_from_rooms_below(path) -> None:
    here = room(path)
    if here is None:
        return  # the package itself re-exports, lazily
    below = set(ROOMS[ROOMS.index(here) :])
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "narrowly" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] in below, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_rooms_at_the_bottom_import_nothing_else_from_outside(path) -> None:
    here = room(path)
    if here not in OUTSIDE:
        return
    accepted = OUTSIDE[here] | {"narrowly"} | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in imports(path)} <= accepted


@pytest.mark.parametrize(("name", "below"), [("spectrum", ()), ("optim", ("spectrum",))])
def test_spectrum_calls_no_room_but_records_and_optim_calls_spectrum_beside_it(name, below) -> None:
    for path in (PACKAGE / name).rglob("*.py"):
        for imported in imports(path):
            if imported.startswith("narrowly."):
                assert imported.split(".")[1] in (name, "records", *below), f"{path.name} imports {imported}"


def test_statistics_and_training_know_neither_each_other_nor_evaluation() -> None:
    for path in modules():
        named = {name.split(".")[1] for name in imports(path) if name.startswith("narrowly.")}
        if room(path) == "stats":
            assert "torch" not in {name.split(".")[0] for name in imports(path)}, path
        if room(path) == "train":
            assert not named & {"evaluate", "stats"}, path


def test_every_room_says_what_lives_there() -> None:
    for folder in PACKAGE.iterdir():
        if folder.is_dir() and list(folder.glob("*.py")):
            docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
            assert docstring and len(docstring) > 80, folder.name


def loaded_by(statement: str, before: str = "") -> set[str]:
    """Return the top-level packages that a fresh interpreter loads for `statement` beyond those of `before`."""
    program = (
        f"import sys\n{before}\nknown = {{name.split('.')[0] for name in sys.modules}}\n{statement}\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - known))"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"torch", "numpy", "polars", "transformers", "peft", "matplotlib", "scipy", "safetensors", "pytorch_optimizer"}


def test_the_package_itself_loads_nothing_heavy_and_no_pydantic() -> None:
    assert not loaded_by("import narrowly") & (HEAVY | {"pydantic"})


def test_records_load_no_torch() -> None:
    names = [f"narrowly.records.{path.stem}" for path in sorted((PACKAGE / "records").glob("[a-z]*.py"))]
    assert "narrowly.records.errors" in names
    assert not loaded_by(f"import {', '.join(names)}") & HEAVY


def test_errors_files_and_canonical_json_load_no_pydantic() -> None:
    names = "narrowly.records.errors, narrowly.records.files, narrowly.records.canonical"
    assert "pydantic" not in loaded_by(f"import {names}")


def test_spectrum_loads_torch_and_nothing_beyond_what_torch_loads() -> None:
    beyond = loaded_by("import narrowly.spectrum", before="import torch")
    assert beyond - set(sys.stdlib_module_names) == {"narrowly"}


def test_optim_loads_neither_its_optimiser_library_nor_the_laboratory() -> None:
    beyond = loaded_by("import narrowly.optim", before="import torch")
    assert not beyond & {"pytorch_optimizer", "transformers", "peft", "polars", "safetensors"}
