"""The order of the rooms: imports point downwards only, light rooms stay light, what one room alone may know."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
    "audit": {"yaml"},
    "records": {"pydantic", "pydantic_core", "yaml"},
    "directions": {"torch", "safetensors"},
    "spectrum": {"torch", "safetensors"},
    "optim": {"torch", "pytorch_optimizer"},
}
"""Everything from outside the standard library that the rooms at the bottom may import, also inside functions."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    """Return every module named in an import anywhere in the file: lazy ones and those for type checking too."""
    found: set[str] = set()
    parts = path.relative_to(SOURCE).with_suffix("").parts
    package = parts[:-1]
    for node in ast.walk(tree(path)):
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


@pytest.mark.parametrize(("name", "below"), [("spectrum", ()), ("optim", ("spectrum",)), ("directions", ("spectrum",))])
def test_spectrum_calls_no_room_but_records_and_its_neighbours_call_spectrum_beside_it(name, below) -> None:
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


def module_graph() -> dict[str, set[str]]:
    """Return which module imports which: lazy imports and those for type checking count like any other."""
    names = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path for path in modules()
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        named: set[str] = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= (below & names.keys()) or {str(node.module)}
        graph[name] = (named & names.keys()) - {name}
    return graph


def test_no_import_goes_round_in_a_circle_inside_or_between_rooms() -> None:
    graph = module_graph()
    assert len(graph) > 150 and sum(map(len, graph.values())) > 500
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


RUN_FILES = {
    "spec.json", "inputs.json", "environment.json", "trajectory.jsonl", "speed.jsonl", "tracked.jsonl", "spectrum.json",
    "data.json", "failed.json", "stage.json", "resume.json", "resume.pt",
}  # fmt: skip
RUN_FOLDERS = {"checkpoints", "resume", "edits", "evals", "verdicts", "done", "claimed"}
"""Names in a run directory; those of folders and markers are words of other meanings too, and count in paths only."""


def path_literals(path: Path) -> Iterator[str]:
    """Yield names of a run directory that a module spells itself: any file's, a folder's beside `/` or in a path."""
    nodes = list(ast.walk(tree(path)))
    divisions = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    joined = {id(side) for node in divisions for side in (node.left, node.right)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            parts = set(node.value.split("/"))
            in_path = id(node) in joined or (len(parts) > 1 and " " not in node.value)
            yield from parts & (RUN_FILES | RUN_FOLDERS if in_path else RUN_FILES)


def test_only_the_room_of_runs_knows_the_names_in_a_run_directory() -> None:
    found = {shown(path): sorted(path_literals(path)) for path in modules() if room(path) != "runs"}
    assert sorted(path_literals(PACKAGE / "runs" / "directory.py"))
    assert {name: names for name, names in found.items() if names} == {}


OF_THE_MICROWORLD = ("data/", "microworld/", "evaluate/microworld/", "records/")


def asks_for_the_microworld(path: Path) -> bool:
    """Say whether a module names the microworld's data or asks whether a spec is of the microworld."""
    for node in ast.walk(tree(path)):
        name = getattr(node, "id", getattr(node, "attr", getattr(node, "name", None)))
        compared = isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Constant) and side.value == "micro" for side in (node.left, *node.comparators)
        )
        if name in ("MicroData", "is_real") or compared:
            return True
    return False


def test_whether_a_run_is_of_the_microworld_is_asked_in_its_own_rooms_only() -> None:
    asking = {shown(path) for path in modules() if asks_for_the_microworld(path)}
    assert any(name.startswith("records/") for name in asking)
    assert {name for name in asking if not name.startswith(OF_THE_MICROWORLD)} == set()


def test_a_base_is_opened_in_few_places() -> None:
    openers = {
        shown(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("open_base", "open_tokenizer")
    }
    assert openers - {"models/base.py"} == {
        "cli/rows/data_rows.py",
        "models/asked.py",
        "models/organism.py",
        "train/dry_run.py",
        "train/inputs.py",
    }


LOADS_A_MODEL = {"from_pretrained", "set_peft_model_state_dict", "load_adapter", "load_model", "load_tokenizer"}


def test_only_the_room_of_models_loads_bases_adapters_and_organisms() -> None:
    calls = {
        (shown(path), name)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func).split(".")[-1]) in LOADS_A_MODEL
    }
    assert {path for path, name in calls if name in ("from_pretrained", "set_peft_model_state_dict")} == {
        "models/base.py", "models/foreign.py", "models/lora.py", "models/organism.py",
    }  # fmt: skip
    outside = {call for call in calls if not call[0].startswith("models/")}
    assert outside == {("train/state.py", "load_model"), ("train/state.py", "load_tokenizer")}, (
        "a run starts from a base"
    )


def test_one_claim_keeps_runs_apart() -> None:
    taking = {
        shown(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("flock", "lockf", "link")
    }
    locks_of_other_things = {"data/cache.py", "integrations/reporting.py"}  # a download, a tracker's database
    assert taking == {"runs/claims.py"} | locks_of_other_things


ONE_PLACE = {
    "AutoModelForCausalLM": {"models/base.py"},
    "get_peft_model": {"models/foreign.py", "models/lora.py"},
    "set_peft_model_state_dict": {"models/foreign.py", "models/lora.py", "models/organism.py"},
    "PeftModel": set(),
    "flock": {"data/cache.py", "integrations/reporting.py"},
}
"""Names by which others load a model, put factors into one or lock a file (a download, a tracker's record: no run)."""


@pytest.mark.parametrize("name", ONE_PLACE)
def test_there_is_one_loader_of_organisms_and_no_lock_of_runs_beside_the_claim(name: str) -> None:
    using = {
        shown(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if name in (getattr(node, "id", None), getattr(node, "attr", None))
        or (isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names})
    }
    assert using == ONE_PLACE[name]


def listing(folder: Path) -> tuple[set[str], set[str]]:
    """Return the files and folders of code in a room, and those of them that its docstring names."""
    docstring = ast.get_docstring(tree(folder / "__init__.py")) or ""
    there = {path.stem for path in folder.glob("[a-z]*.py")}
    there |= {path.name for path in folder.iterdir() if (path / "__init__.py").is_file()}
    named = set(re.findall(r"`(\w+)`|\b(\w+)\.py\b", docstring))
    return there, {one or other for one, other in named} & there


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=shown)
def test_a_docstring_of_a_room_names_all_of_its_files_or_none(path: Path) -> None:
    there, named = listing(path.parent)
    assert named in (set(), there), f"not named: {sorted(there - named)}"


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


@pytest.mark.parametrize("name", ["cli", "engines", "runs"])
def test_rooms_of_plans_and_status_load_no_torch(name) -> None:
    names = [f"narrowly.{name}.{path.stem}" for path in sorted((PACKAGE / name).glob("[a-z]*.py"))]
    assert names
    assert not loaded_by(f"import {', '.join(names)}") & HEAVY


def test_spectrum_loads_torch_and_nothing_beyond_what_torch_loads() -> None:
    beyond = loaded_by("import narrowly.spectrum", before="import torch")
    assert beyond - set(sys.stdlib_module_names) == {"narrowly"}


def test_directions_load_torch_and_no_laboratory() -> None:
    names = [f"narrowly.directions.{path.stem}" for path in sorted((PACKAGE / "directions").glob("[a-z]*.py"))]
    beyond = loaded_by(f"import {', '.join(names)}", before="import torch, pydantic")
    assert not beyond & {"transformers", "peft", "polars", "scipy", "safetensors", "pytorch_optimizer"}


def test_optim_loads_neither_its_optimiser_library_nor_the_laboratory() -> None:
    beyond = loaded_by("import narrowly.optim", before="import torch")
    assert not beyond & {"pytorch_optimizer", "transformers", "peft", "polars", "safetensors"}
