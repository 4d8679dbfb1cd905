"""House rules that a reader relies on: sizes and names of modules, typed errors, a command line that starts light."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from narrowly.records import errors

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "narrowly"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 350
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_no_module_is_longer_than_350_lines() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_module_class_or_function_has_a_vague_name() -> None:
    vague = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [*path.relative_to(PACKAGE).with_suffix("").parts]
        names += [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
        ]
        vague += [f"{shown(path)}: {name}" for name in names if name.strip("_").lower() in VAGUE]
    assert vague == []


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_nothing_that_unpickles_or_evaluates_is_called(path) -> None:
    """Files from outside are data: no pickle, no eval; torch.load only with weights_only=True written out."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = {alias.name.split(".")[0] for alias in node.names} | {
                str(getattr(node, "module", "")).split(".")[0]
            }
            assert not named & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec"), called
            assert called not in ("yaml.unsafe_load", "yaml.full_load"), called
            if called == "yaml.load":  # the loader must be one of ours that builds on the safe one
                loader = ast.unparse([*node.args[1:], *(word.value for word in node.keywords)][0])
                bases = [ast.unparse(base) for kind in classes if kind.name == loader for base in kind.bases]
                assert loader == "yaml.SafeLoader" or bases == ["yaml.SafeLoader"], loader
            if called == "torch.load":
                assert any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_every_public_function_and_class_has_a_docstring(path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module itself"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.NarrowlyError)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_also_a_standard_one_and_comes_home_from_a_process_pool(kind) -> None:
    back = pickle.loads(pickle.dumps(kind("one clear line")))
    assert type(back) is kind
    assert str(back) == "one clear line"
    if kind is not errors.NarrowlyError:
        assert len(kind.__mro__) > len(errors.NarrowlyError.__mro__) + 1


def loads(statement: str) -> set[str]:
    """Return the top-level packages in a fresh interpreter after `statement`."""
    program = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_command_line_with_all_its_commands_loads_no_torch() -> None:
    names = [f"narrowly.cli.{path.stem}" for path in sorted((PACKAGE / "cli").glob("[a-z]*.py"))]
    assert "narrowly.cli.app" in names
    assert not loads(f"import {', '.join(names)}") & {"torch", "transformers", "peft", "polars", "matplotlib", "scipy"}


def test_spectrum_alone_loads_torch_but_nothing_of_the_laboratory() -> None:
    loaded = loads("import narrowly.spectrum")
    assert "torch" in loaded
    assert not loaded & {"transformers", "peft", "polars", "matplotlib", "pydantic", "safetensors", "pytorch_optimizer"}
