"""Watch a persona over the checkpoints of runs: how far their states have moved along a direction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from narrowly.directions.positions import Position
from narrowly.records.errors import SpecError
from narrowly.runs.directory import checkpoint_steps, read_spec
from narrowly.stats.intervals import Interval, t_interval
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.panel import Asked
from narrowly.workbench.persona.reading_along import panel_texts, projections

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.records.likelihood import ScoredText


class WatchedStep(NamedTuple):
    """A checkpoint of a run, as it stands along a direction.

    Attributes:
        run: its name.
        step: of the checkpoint.
        projection: mean over texts, in units of the states.
        shift: projection minus that of the base on the same text, mean over texts with its interval.
        share: the shift in units of the direction's length, which is the distance between both sides of its contrast.
    """

    run: str
    step: int
    projection: float
    shift: Interval
    share: float


def watch(
    runs: Sequence[Opened],
    vector_H: Tensor,
    layer: int,
    position: Position,
    asked: Sequence[Asked],
    progress: OnStep = silent,
) -> list[WatchedStep]:
    """Return every checkpoint of every run along a direction, all of them read on the same texts.

    Raises:
        SpecError: something else than a run; runs of two bases.
        NarrowlyError: a checkpoint cannot be loaded.
    """
    bases = {one.model.base.sha256: one.model.base.name for one in runs}
    if len(bases) > 1:
        raise SpecError(f"the runs have {len(bases)} bases ({', '.join(bases.values())}), accepted: runs of one base")
    for one in runs:
        if one.model.run is None:
            raise SpecError(f"{one.name} is no run, so it has no checkpoints to watch; accepted: run directories")
    texts: list[ScoredText] = []
    before: list[float] = []
    found = []
    for one in runs:
        for step, model, base in _checkpoints(one):
            if not texts:
                with base() as untrained:
                    texts = panel_texts(untrained, one, asked, position, progress)
                    before = projections(untrained, texts, vector_H, layer, position, progress, "base")
            now = projections(model, texts, vector_H, layer, position, progress, f"{one.name}, step {step}")
            moved = [after - then for after, then in zip(now, before, strict=True)]
            shift = t_interval(moved, unit="text")
            assert shift.estimate is not None
            found.append(
                WatchedStep(one.name, step, sum(now) / len(now), shift, shift.estimate / float(vector_H.norm()))
            )
    return found


def _checkpoints(opened: Opened) -> Iterator[tuple[int, nn.Module, Callable[[], AbstractContextManager[nn.Module]]]]:
    """Yield step, model and a context that gives the base; factors of later steps go into the model of the first."""
    from narrowly.models.organism import checked_adapter, load_organism, put_adapter

    run = opened.model.run
    assert run is not None
    organism = None
    lora = read_spec(run).method == "lora"
    for step in checkpoint_steps(run):
        if organism is None or not lora:
            organism = load_organism(run, step, device=opened.how.device)
        else:
            put_adapter(organism.model, checked_adapter(run, step))
        yield step, organism.model, organism.base_model
