"""Estimate how long cells take: by default, and by the pace of those that are done."""

from __future__ import annotations

from collections.abc import Mapping

from narrowly.study.cost import cost_of, with_estimated_steps
from narrowly.study.cpu_cost import cpu_seconds
from narrowly.study.plan import Cell

STEP_SECONDS, MUON_STEP_SECONDS = 1.8 / 80, 2.8 / 80
"""Seconds of a training step on one thread, spectra included; with one evaluation 80 steps make a cell of 3 (4) s."""

EVALUATION_SECONDS, EDIT_SECONDS = 1.2, 0.4
"""Seconds of one evaluated checkpoint, and of one edited adapter (two light panels of the seven)."""


def default_seconds(cell: Cell) -> float | None:
    """Return the seconds that a cell takes where none has been measured; None for epochs over rows not yet counted.

    Of the microworld: steps, evaluations and edits on one thread. Of a model in the table of shapes: on the CPU
    training and evaluation on one core, else training alone, on the GPU that `cost` names.
    """
    on_cpu = _seconds_on_cpu(cell)
    if on_cpu is not None:
        return on_cpu
    cost = cost_of(cell.spec)
    if cost is not None:
        return cost.seconds
    step = MUON_STEP_SECONDS if cell.spec.optimiser.kind == "muon" else STEP_SECONDS
    spec = with_estimated_steps(cell.spec)
    if spec is None:
        return None
    steps = step * spec.steps * spec.accumulation * max(1.0, spec.batch_size / 8)
    evaluated = cell.model_copy(update={"spec": spec}).evaluated_steps()
    return steps + EVALUATION_SECONDS * len(evaluated) + EDIT_SECONDS * len(cell.edits)


def _seconds_on_cpu(cell: Cell) -> float | None:
    """Return the seconds of a cell of a real model on one core; None where it is none or nothing is known of it."""
    spec = with_estimated_steps(cell.spec)
    if spec is None:
        return None
    counted = cell.model_copy(update={"spec": spec})
    return cpu_seconds(spec, counted.evaluated_steps() if cell.paired else (), len(cell.edits) if cell.paired else 0)


def pace_keys(cell: Cell) -> tuple[str, str]:
    """Return the names under which a cell's pace is measured and looked up: its arm's, and its optimiser's.

    Where bases differ in size, the pace of one says nothing about another.
    """
    base = f"@{cell.spec.base}" if cell.spec.data.paced_by_base else ""
    return f"arm:{cell.arm}{base}", f"{cell.spec.optimiser.kind}{base}"


def estimated_seconds(cells: list[Cell], measured: Mapping[str, float], workers: int) -> float | None:
    """Return the estimated wall time of `cells` in seconds, or None where nothing is known of one of them.

    Args:
        cells: cells that are not done.
        measured: arm or optimiser -> how many times `default_seconds` its finished cells took; the arm's own is
            preferred. A factor, so that ten steps measured say something about eighty.
        workers: processes, at least 1.
    """
    total = 0.0
    for cell in cells:
        factor = next((measured[key] for key in pace_keys(cell) if key in measured), None)
        if (
            factor is None
            and cell.spec.data.paced_by_base
            and (cost_of(cell.spec) is None if cell.spec.device == "cuda" else _seconds_on_cpu(cell) is None)
        ):
            return None
        seconds = default_seconds(cell)
        if seconds is None:
            return None
        total += (1.0 if factor is None else factor) * seconds
    return total / max(1, min(workers, len(cells)))
