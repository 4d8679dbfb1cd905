"""Check what the cells of a study read before a worker starts, and find runs that exist already. Torch-free."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from narrowly.data.sources import resolve
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.run_spec import RowsData, RunSpec, TextData
from narrowly.runs.directory import check_identity, is_done, read_spec, run_directories
from narrowly.study.plan import Cell
from narrowly.train.inputs import check_base


def check_inputs(cells: Iterable[Cell]) -> None:
    """Refuse a study whose bases or data are not on this machine, before anything is trained or written.

    Data come first: of a model that is missing the hub is asked why, which can take a while.

    Raises:
        NarrowlyError: of the first input that cannot be read; further data are named.
    """
    specs = [cell.spec for cell in cells]
    faults: dict[str, NarrowlyError] = {}
    for name, look in dict(pair for spec in specs for pair in _data_of(spec)).items():
        try:
            look(name)
        except NarrowlyError as error:
            faults[name] = error
    if faults:
        first, *others = faults
        more = f" (cannot be read either: {', '.join(others)})" if others else ""
        raise type(faults[first])(f"{faults[first]}{more}")
    for base in dict.fromkeys(spec.base for spec in specs):
        check_base(base)


def _data_of(spec: RunSpec) -> list[tuple[str, Any]]:
    if isinstance(spec.data, RowsData):
        return [(spec.data.path, _check_file)]
    if not isinstance(spec.data, TextData):
        return []
    template = spec.data.template
    return [(spec.data.dataset, _check_dataset), *([] if template is None else [(template, _check_file)])]


def _check_dataset(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the worker that reads the rows says it
        resolve(name)


def _check_file(name: str) -> None:
    if not Path(name).expanduser().is_file():
        raise SpecError(f"{name} does not exist or is no file")


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
