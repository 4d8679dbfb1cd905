"""Check what the cells of a study read before a worker starts, and find runs that exist already. Torch-free."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from narrowly.data.sources import resolve
from narrowly.records.canonical import canonical_json, sha256_file
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.made import folder_marks
from narrowly.records.run_spec import RowsData, RunSpec, TextData
from narrowly.runs.directory import check_identity, is_done, read_spec, run_directories
from narrowly.study.plan import Cell
from narrowly.train.inputs import check_base


def check_inputs(cells: Iterable[Cell]) -> dict[str, Any]:
    """Refuse a study whose bases or data are not on this machine, before anything is trained or written.

    Data come first: of a model that is missing the hub is asked why, which can take a while.

    Returns:
        What was found, by the name in the spec: the sha256 of a file of data, the marks of the files of a base, which
        may be too large to be read for every command.

    Raises:
        NarrowlyError: of the first input that cannot be read; further data are named.
    """
    specs = [cell.spec for cell in cells]
    faults: dict[str, NarrowlyError] = {}
    found: dict[str, Any] = {}
    for name, look in dict(pair for spec in specs for pair in _data_of(spec)).items():
        try:
            found[name] = look(name)
        except NarrowlyError as error:
            faults[name] = error
    if faults:
        first, *others = faults
        more = f" (cannot be read either: {', '.join(others)})" if others else ""
        raise type(faults[first])(f"{faults[first]}{more}")
    bases = {base: folder_marks(check_base(base)) for base in dict.fromkeys(s.base for s in specs)}
    return {"data": found, "bases": bases}


def _data_of(spec: RunSpec) -> list[tuple[str, Any]]:
    if isinstance(spec.data, RowsData):
        return [(spec.data.path, _check_file)]
    if not isinstance(spec.data, TextData):
        return []
    template = spec.data.template
    return [(spec.data.dataset, _check_dataset), *([] if template is None else [(template, _check_file)])]


def _check_dataset(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the worker that reads the rows says it
        return resolve(name).sha256


def _check_file(name: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        raise SpecError(f"{name} does not exist or is no file")
    return sha256_file(path)


def data_names(cells: Iterable[Cell]) -> dict[str, str]:
    """Return a short name without machine paths for the data of every cell, by cell-id."""
    places = {cell.cell_id: _place(cell.spec) for cell in cells}
    counts = Counter(Path(place).name for place in set(places.values()))

    def short(place: str) -> str:
        name = Path(place).name
        return name if counts[name] == 1 else "/".join(Path(place).parts[-2:])

    return {cell: short(place) for cell, place in places.items()}


def _place(spec: RunSpec) -> str:
    fields = spec.data.names_files
    return str(getattr(spec.data, fields[0])) if fields else "microworld"


def finished_runs(runs: Path) -> dict[str, Path]:
    """Return the finished runs of a folder by what their spec says, however they were made.

    What cannot be read is left out: `run` says so.
    """
    found = {}
    for run in run_directories(runs):
        try:
            if is_done(run):
                check_identity(run)
                found[canonical_spec(read_spec(run))] = run
        except NarrowlyError:
            continue
    return found


def canonical_spec(spec: RunSpec) -> str:
    """Return what a spec says, with local paths made absolute: equal texts mean the same run while the files stay."""
    body = spec.model_dump(mode="json")
    places = [(body, "base"), *((body["data"], key) for key in spec.data.names_files)]
    for holder, key in places:
        value = holder.get(key)
        if isinstance(value, str) and (path := Path(value).expanduser()).exists():
            holder[key] = str(path.resolve())
    return canonical_json(body)
