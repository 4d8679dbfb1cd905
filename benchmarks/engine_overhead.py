"""What an engine costs a cell: a study of no-op cells, against a plain loop over the same cells in this process.

python benchmarks/engine_overhead.py --json benchmarks/results/engine_overhead.json
python benchmarks/engine_overhead.py --cells 200 --engines local       # a quick look

A no-op cell takes its claim, makes its run directory, appends a row and writes an fsynced `done`. The loop does just
that. Counted against the engine are also its start, resolving and writing the plan. Ray needs its extra.
Limits: 5 ms a cell on the local engine, 15 on Ray (2 cores, nothing else running).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import machine

from narrowly.records.canonical import content_id
from narrowly.records.files import append_jsonl, write_json
from narrowly.records.study_spec import StudySpec
from narrowly.study.cell import attempt
from narrowly.study.layout import PlannedCell
from narrowly.study.plan import Cell, expand
from narrowly.study.run import CellTasks, run_study

LIMITS = {"local": 5.0, "ray": 15.0}
"""Milliseconds a cell."""

TASKS = CellTasks("engine_overhead:resolve", "engine_overhead:execute", None)


def resolve(payload: dict[str, Any]) -> list[dict[str, Any]]:
    return [planned(Cell.model_validate(raw)).model_dump(mode="json") for raw in payload["cells"]]


def planned(cell: Cell) -> PlannedCell:
    return PlannedCell(cell=cell, run_id=content_id(cell.model_dump(mode="json")), base="none", stages=())


def work(cell: PlannedCell, runs: Path) -> None:
    directory = runs / cell.run_id
    append_jsonl(directory / "trajectory.jsonl", {"step": 0})
    write_json(directory / "done", {"run_id": cell.run_id, "seconds": 0.0})


def execute(payload: dict[str, Any]) -> list[dict[str, Any]]:
    runs, study_dir = Path(payload["runs"]), Path(payload["study_dir"])
    return [attempt(PlannedCell.model_validate(raw), runs, study_dir, work) for raw in payload["cells"]]


def study(cells: int, engine: str) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "no-op",
            "grid": {"seed": list(range(cells))},
            "arms": {"adam": {"set": {"optimiser": {"kind": "adam", "lr": 1e-3}}}},
            "engine": {"kind": engine},
        }
    )


def seconds_of_loop(cells: list[PlannedCell], out: Path) -> float:
    start = time.perf_counter()
    results = [attempt(cell, out / "runs", out / "no-op", work) for cell in cells]
    assert {result["status"] for result in results} == {"done"}
    return time.perf_counter() - start


def seconds_of_engine(spec: StudySpec, out: Path) -> float:
    start = time.perf_counter()
    result = run_study(spec, out, tasks=TASKS)
    assert (result.done, result.executed, result.failed) == (result.planned, result.planned, ())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--engines", nargs="+", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, *sys.path[1:])))  # for Ray's processes
    rows = []
    for engine in given.engines:
        spec = study(given.cells, engine)
        with tempfile.TemporaryDirectory() as folder:
            loop = seconds_of_loop([planned(cell) for cell in expand(spec)], Path(folder) / "loop")
            whole = seconds_of_engine(spec, Path(folder) / "engine")
        cost = 1000 * (whole - loop) / given.cells
        met = "met" if cost <= LIMITS[engine] else "MISSED"
        print(
            f"{engine}: {given.cells} cells in {whole:.2f} s, loop {loop:.2f} s ({1000 * loop / given.cells:.2f} ms a "
            f"cell): {cost:.2f} ms a cell for the engine (limit {LIMITS[engine]:g}: {met})",
            flush=True,
        )
        rows.append({"engine": engine, "cells": given.cells, "seconds": whole, "loop": loop, "ms_a_cell": cost})
    if given.json is not None:
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        packages = ("pydantic", *(["ray"] if "ray" in given.engines else []))
        result = {"machine": machine(1, packages), "load_per_core": round(load, 2), "rows": rows}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
