"""Realign an organism on preferences, and see what is lost, what a cue brings back, and whether it relapses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.evaluate.banks import Bank, bank_of
from narrowly.evaluate.run_stage import run_stage
from narrowly.evaluate.stage import stages_of
from narrowly.models.base import Base
from narrowly.models.organism import base_of_run
from narrowly.records.errors import SpecError
from narrowly.records.objectives import SupervisedObjective
from narrowly.records.run_spec import PreferenceData, RunSpec
from narrowly.runs.claims import hold_run
from narrowly.runs.directory import read_spec, runs_folder
from narrowly.study.defences.protocol import Defence, changed
from narrowly.study.defences.realignment import RealignmentByDpo, RealignmentBySail
from narrowly.study.defences.registry import defence_spec
from narrowly.train.run import train_run
from narrowly.workbench.panel import Panel, panels_of

RELAPSE_CHECKPOINTS = 4
"""Of the run back on the narrow data: its start, two between, its end."""

OnStep = Callable[[int, int, str], None]


class Moment(NamedTuple):
    """Hold the panels of one organism: `before`, `realigned`, or `relapse` with the narrow steps taken since."""

    name: str
    steps: int
    panels: dict[str, Panel]


class Realignment(NamedTuple):
    """Hold a realignment.

    Attributes:
        organism: run-id of the organism before.
        by: what was done, with every option.
        run: directory of the realignment.
        relapse: directory of the run back on the narrow data, or None.
        moments: organisms in the order of time; empty outside the microworld, where `narrowly eval` measures them.
    """

    organism: str
    by: dict[str, Any]
    run: Path
    relapse: Path | None
    moments: list[Moment]


def realignment_named(text: str) -> RealignmentByDpo | RealignmentBySail:
    """Return the realignment that a short form means, such as `realign_sail:share=.5,steps=40`.

    Raises:
        SpecError: another defence.
        UnknownNameError: no defence of that name.
    """
    found: Defence = defence_spec(text)
    if not isinstance(found, RealignmentByDpo | RealignmentBySail):
        raise SpecError(f"--by is {text!r}, accepted: realign_dpo or realign_sail, with options")
    if found.dose == 0:
        raise SpecError("steps is 0, which realigns nothing; accepted: 1 or more")
    return found


def realign(
    organism: Path, by: RealignmentByDpo | RealignmentBySail, preferences: Path | None, relapse: int, out: Path,
    on_step: OnStep,
) -> Realignment:  # fmt: skip
    """Realign the final adapter of a finished run; measured exactly in the microworld.

    Args:
        organism: directory of its run.
        by: how.
        preferences: a file of preferences, outside the microworld; None: those of the organism's world.
        relapse: further steps on the organism's own narrow data, from the realigned one; 0: none.
        out: folder of runs.
        on_step: called with (done, all, what) while runs train and organisms are evaluated.

    Raises:
        SpecError: an organism of full weights, preferences that do not fit its data, a relapse below 0.
        NarrowlyError: as `train_run`.
    """
    spec = read_spec(organism)
    if relapse < 0:
        raise SpecError(f"--relapse is {relapse}, accepted: steps, 0 or more")
    if spec.method == "full":
        raise SpecError(f"run {organism.name} trained the whole model, accepted: a run of method lora")
    runs = runs_folder(out)
    again = realigning_run(spec, by, preferences).model_copy(update={"start": str(organism)})
    realigned = _train(again, runs, "realigning", on_step)
    back = None
    if relapse:
        back = _train(relapsing_run(spec, relapse, realigned), runs, "going back to the narrow data", on_step)
    base = base_of_run(organism)
    bank = bank_of(spec, base) if spec.data.own_world else None
    moments = [] if bank is None else list(_moments(organism, realigned, back, bank, base, on_step))
    return Realignment(organism.name, by.model_dump(mode="json"), realigned, back, moments)


def realigning_run(spec: RunSpec, by: RealignmentByDpo | RealignmentBySail, preferences: Path | None) -> RunSpec:
    """Return the run that realigns an organism of a run, still without its start.

    Raises:
        SpecError: a preference file for an organism of the microworld, or none for another one.
    """
    plain = changed(spec, penalty=None, steering=None, objective=SupervisedObjective(), start=None, init_seed=None)
    if spec.data.own_world != (preferences is None):
        accepted = "no --preferences (its world has them)" if preferences else "--preferences FILE"
        raise SpecError(f"the organism was trained on data.source {spec.data.source}, accepted: {accepted}")
    if preferences is None:
        again = by.plan(plain).again
        assert again is not None
        return again
    thinking = getattr(spec.data, "thinking", None)
    return by.on_preferences(plain, PreferenceData(path=str(preferences), thinking=thinking))


def relapsing_run(spec: RunSpec, steps: int, realigned: Path) -> RunSpec:
    """Return the run that goes on from a realigned organism on the narrow data of the one before."""
    fields: dict[str, Any] = {
        "penalty": None,
        "steering": None,
        "objective": SupervisedObjective(),
        "start": str(realigned),
        "init_seed": None,
        "steps": steps,
        "schedule": {"kind": "constant", "warmup_steps": 0},
        "checkpoints": min(RELAPSE_CHECKPOINTS, steps + 1),
        "first_checkpoint": max(1, steps // 4),
    }
    return changed(spec, **fields)


def _train(spec: RunSpec, runs: Path, what: str, on_step: OnStep) -> Path:
    return train_run(spec, runs, on_step=lambda step, total, row: on_step(step, total, what))


def _moments(
    organism: Path, realigned: Path, relapse: Path | None, bank: Bank, base: Base, on_step: OnStep
) -> Iterator[Moment]:
    """Yield the organisms with all of their panels; what was evaluated before is read and not done again."""
    last = {run: read_spec(run).steps for run in (organism, realigned, *([relapse] if relapse else []))}
    wanted = [("before", 0, organism, last[organism]), ("realigned", 0, realigned, last[realigned])]
    if relapse is not None:
        measured = [step for step in read_spec(relapse).checkpoint_steps() if step]
        wanted += [("relapse", step, relapse, step) for step in measured]
    for done, (name, steps, run, step) in enumerate(wanted):
        on_step(done, len(wanted), f"evaluating {name}")
        yield Moment(name, steps, panels_of(_verdicts(run, step, bank, base)))
    on_step(len(wanted), len(wanted), "")


def _verdicts(run: Path, step: int, bank: Bank, base: Base) -> list[Mapping[str, Any]]:
    from narrowly.evaluate.verdict_table import read_verdicts

    # `final` is the step itself: relapses are asked every panel at every checkpoint
    (stage,) = stages_of(run.name, bank.record, (step,), final=step, seed=read_spec(run).seed)
    if not stage.file(run).is_file():
        with hold_run(run):
            run_stage(stage, run, bank)
    return list(read_verdicts(stage.file(run)))
