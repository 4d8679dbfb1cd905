"""House rules that a reader relies on: sizes and names of modules and functions, docstrings, typed errors."""

from __future__ import annotations

import ast
import io
import pickle
import tokenize
from pathlib import Path

import pytest

from narrowly.records import errors

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "narrowly"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400
LONGEST_FUNCTION = 60
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(text: str) -> dict[str, int]:
    """Return the lines of code of every function: signature and body, without docstrings, comments and blank lines.

    Functions inside a function count as part of it.
    """
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    lengths: dict[str, int] = {}
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        own = code & set(range(function.lineno, (function.end_lineno or 0) + 1))
        for node in ast.walk(function):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
                own -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        lengths[function.name] = max(len(own), lengths.get(function.name, 0))
    return lengths


def test_lines_of_code_are_those_a_reader_would_count() -> None:
    text = '''
def f(
    a,
):
    """One line.

    More.
    """

    # why
    b = """text
    of two lines"""
    def g():
        """Inner."""
        return b
    return g
'''
    assert code_lines(text) == {"f": 8, "g": 2}


def test_no_function_is_longer_than_60_lines_of_code() -> None:
    lengths = {
        f"{shown(path)}: {name}": length
        for path in MODULES
        for name, length in code_lines(path.read_text(encoding="utf-8")).items()
    }
    assert len(lengths) > 800
    too_long = {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION}
    assert too_long == {}


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
