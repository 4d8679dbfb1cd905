"""Read the Python of a script or of the code cells of a notebook, with the place of each line."""

from __future__ import annotations

import ast
import json
import re

from narrowly.audit.files import SourceFile, parse_python
from narrowly.audit.trees import UnreadableError

_MAGIC = re.compile(r"^(\s*)(?:[!%?]|[\w, ()]+=\s*[!%](?!=))")
_CELL_MAGIC = re.compile(r"^\s*%%(?!time|capture|prun|timeit)")


def python_of(file: SourceFile) -> tuple[ast.Module, tuple[str, ...]]:
    """Return the syntax tree and, for a notebook, the place `cell/line` of each line, both from 1.

    Cells that are not Python are left out; lines of shell and magics become `pass`.

    Raises:
        UnreadableError: neither Python nor a notebook.
    """
    if file.kind != "notebook":
        return file.tree, ()
    body: list[ast.stmt] = []
    places: list[str] = []
    readable = 0
    for number, source in code_cells(file):
        lines = cell_lines(source)
        places += [f"{number}/{line}" for line in range(1, len(lines) + 1)]
        try:
            tree = parse_python("\n".join(lines))
        except UnreadableError:
            continue
        ast.increment_lineno(tree, len(places) - len(lines))
        body += tree.body
        readable += 1
    if not readable:
        raise UnreadableError("no cell of Python that can be read")
    return ast.Module(body, []), tuple(places)


def code_cells(file: SourceFile) -> list[tuple[int, str]]:
    """Return number (from 1, over all cells) and source of each code cell.

    Raises:
        UnreadableError: not a notebook.
    """
    try:
        content = json.loads(file.text)
        cells = content["cells"] if "cells" in content else content["worksheets"][0]["cells"]
        found = []
        for number, cell in enumerate(cells, 1):
            if cell.get("cell_type") != "code":
                continue
            source = cell.get("source", cell.get("input", ""))
            found.append((number, "".join(source) if isinstance(source, list) else str(source)))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise UnreadableError("not a notebook") from None
    return found


def cell_lines(source: str) -> list[str]:
    """Return the lines of a cell with magics and shell commands as `pass`; a cell of another language is empty."""
    lines = source.split("\n")
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    if _CELL_MAGIC.match(first) and not re.match(r"\s*%%writefile\s+(?:-a\s+)?\S+\.py\s*$", first):
        return ["pass"] * len(lines)
    cleaned: list[str] = []
    continued = False
    for line in lines:
        magic = _MAGIC.match(line)
        if continued or (magic and not line.strip().startswith("%time ")):
            indent = magic.group(1) if magic else ""
            cleaned.append("" if continued else f"{indent}pass")
            continued = line.rstrip().endswith("\\")
        else:
            cleaned.append(re.sub(r"^(\s*)%time ", r"\1", line))
    return cleaned
