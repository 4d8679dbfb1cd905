"""docs/python.md: its code blocks run as they stand, in their order, and every public name has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import narrowly

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def blocks() -> list[tuple[int, str]]:
    """Return (line of the page before it, code) of every block."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def test_every_public_name_is_imported_in_a_block_of_the_page() -> None:
    imported = {
        alias.name
        for _, code in blocks()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module == "narrowly"
        for alias in node.names
    }
    assert imported == set(narrowly.__all__) - {"__version__"}


def test_the_blocks_of_the_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One study and one run are trained and shared by all blocks; a traceback names the line of the page."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for line, code in blocks():
        exec(compile("\n" * line + code, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "4 of 4 cells, failed: ()" in printed
    assert "optimiser: unknown optimiser 'moun'; did you mean 'muon'?" in printed
    assert (tmp_path / "out/smoke/report.html").is_file()
    assert (tmp_path / "out/edited/edit.json").is_file()
    assert names["reply"].said[0].who == "organism" and len(names["reply"].said[0].sampled) == 2
    flat, found = (narrowly.spectrum_of(tmp_path / "out/edited"), names["found"])
    assert flat.summary["stable_rank"] > found.summary["stable_rank"]
