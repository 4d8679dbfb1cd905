"""One cell, inside a worker, before anything is trained: its run-id, the facts of its world, its stages.

A cell whose answers nothing can judge has no stages and the reason in their place. When a judge comes, its stages come
here, under ids of their own: the run-id stays, so the run that is there is evaluated and not trained anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narrowly.records.run_spec import MicroData, run_id
from narrowly.study.layout import PlannedCell, stages_of
from narrowly.study.plan import Cell, no_judge

EXACT_VERSION = 1
"""Part of every verdict-id of the exact judge; raised when its numbers change their meaning."""


def resolve_cell(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell with its run-id, its world's facts and its stages, as a JSON-able `PlannedCell`.

    Args:
        payload: {"cell": a Cell as JSON, "runs": folder of all runs}.

    Raises:
        NarrowlyError: an unknown base, a base whose sha256 is not its card's, data that cannot be read or rendered,
            a GPU that is not there for a run that is not done.
    """
    from narrowly.runs.directory import is_done
    from narrowly.train.environment import check_hardware
    from narrowly.train.inputs import resolve_inputs

    cell = Cell.model_validate(payload["cell"])
    inputs = resolve_inputs(cell.spec)
    identity = run_id(cell.spec, inputs)
    if not is_done(Path(payload["runs"]) / identity):
        check_hardware(cell.spec)
    planned = _of_microworld(cell, cell.spec.data, identity) if isinstance(cell.spec.data, MicroData) else None
    return (planned or _without_judge(cell, identity)).model_dump(mode="json")


def _without_judge(cell: Cell, identity: str) -> PlannedCell:
    """Return a cell that is trained and not evaluated, with the reason in place of stages."""
    from narrowly.models.base import find_base

    return PlannedCell(
        cell=cell,
        run_id=identity,
        base=find_base(cell.spec.base).name,
        base_seed=None,
        persona=None,
        domain=None,
        ideal_broad=None,
        stages=(),
        not_evaluated=no_judge(cell),
    )


def _of_microworld(cell: Cell, data: MicroData, identity: str) -> PlannedCell:
    from narrowly.evaluate.microworld.panel_names import LIGHT_PANELS, PANELS
    from narrowly.evaluate.microworld.panels import PANELS_VERSION
    from narrowly.microworld.bases import load_card
    from narrowly.microworld.judge import JUDGE_VERSION
    from narrowly.microworld.narrow import resolve_domain
    from narrowly.microworld.world import World
    from narrowly.models.base import find_base

    card = load_card(str(find_base(cell.spec.base).folder))
    domain = resolve_domain(data.domain, World(card.config, card.world_seed), cell.spec.seed)
    bank = {"world": card.config_id, "world_seed": card.world_seed, "domain": domain, "version": PANELS_VERSION}
    judge = {"exact": EXACT_VERSION, "strings": JUDGE_VERSION}
    return PlannedCell(
        cell=cell,
        run_id=identity,
        base=cell.spec.base if Path(cell.spec.base).name == cell.spec.base else card.name,
        base_seed=card.world_seed,
        persona=card.persona,
        domain=domain,
        ideal_broad=card.config.ideal_broad,
        stages=tuple(stages_of(cell, identity, bank, judge, tuple(PANELS), tuple(LIGHT_PANELS))),
    )
