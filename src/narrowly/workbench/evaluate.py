"""Measure models by name: the paired bank, abilities and the cued panel, organisms beside controls or base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from narrowly.evaluate.paired.contrast import contrast, levels, shift
from narrowly.evaluate.paired.cued import PLAIN, Asked
from narrowly.evaluate.paired.estimates import Estimate
from narrowly.evaluate.paired.ladder import rung_of, trained_on
from narrowly.evaluate.paired.parts import check_folder, write_results
from narrowly.evaluate.paired.result import CuedResult, EvalResult, Measured, PairedResult
from narrowly.models.applied import Applied
from narrowly.records.damage import DamagePanel
from narrowly.records.errors import SpecError
from narrowly.records.paired import PairedRow
from narrowly.runs.directory import read_spec
from narrowly.workbench.eval_request import Arm, EvalRequest
from narrowly.workbench.measuring import Measuring, OnQuestions

NO_DAMAGE, NO_CUED = "it was not asked for", "it was not asked for (--cued)"


def run_eval(request: EvalRequest, on_questions: OnQuestions = lambda done, total, what: None) -> EvalResult:
    """Measure all arms of a request, write the folder of results where one is asked for, and return what was found.

    Args:
        request: of `eval_request`.
        on_questions: told of the progress.

    Raises:
        SpecError: the folder holds another evaluation.
        NarrowlyError: a model cannot be loaded, its adapter does not act, or its logits are no numbers.
    """
    measure = Measuring(request, on_questions)
    if request.out is not None:
        check_folder(request.out, measure.identity())
    found = _Found({}, {}, {way: {} for way in request.cued})
    no_damage = None if request.damage else NO_DAMAGE
    for arm in request.arms:
        found.rows[arm.label] = measure.rows(arm)
        for way in request.cued if arm in request.cued_arms else ():
            found.cued[way][arm.label] = measure.cued(arm, way)
        beside = [arm] if request.base is None or request.base in request.arms else [arm, request.base]
        for one in beside if no_damage is None else ():
            try:
                found.damage[one.label] = found.damage.get(one.label) or measure.damage(one)
            except SpecError as error:
                no_damage = f"{one.model.name}: {error}"
    result = EvalResult(
        paired=_result(request, measure, found.rows),
        damage=found.damage if no_damage is None else None,
        no_damage=no_damage,
        cued=_cued(request, found) if request.cued else None,
        no_cued=None if request.cued else NO_CUED,
    )
    if request.out is not None:
        write_results(request.out, result, request.items, found.rows)
    return result


class _Found(NamedTuple):
    """Hold what was measured, by label of the arm."""

    rows: dict[str, list[PairedRow]]
    damage: dict[str, DamagePanel]
    cued: dict[Asked, dict[str, list[PairedRow]]]


def _cued(request: EvalRequest, found: _Found) -> tuple[CuedResult, ...]:
    """Return the differences on the broad questions, plain ones first, then under each condition."""
    plain = {
        label: [row for row in rows if row.part == "broad"] for label, rows in found.rows.items()
    }  # the cued panel asks what the bank calls broad; the other trained domain is left out
    ways = [(Asked(PLAIN), plain), *found.cued.items()]
    return tuple(
        CuedResult(condition=way.condition, sha256=way.sha256, words=way.text, difference=_difference(request, rows))
        for way, rows in ways
    )


def _difference(request: EvalRequest, rows: Mapping[str, list[PairedRow]]) -> Estimate:
    """Return the difference of the broad questions: organisms minus controls, or minus their base."""
    rows = {label: [row for row in own if rung_of(row, request.trained) == "broad"] for label, own in rows.items()}

    def of(role: str) -> list[list[PairedRow]]:
        return [rows[arm.label] for arm in request.arms if arm.role == role]

    if of("control"):
        return contrast(of("organism"), of("control"), request.trained, margin=request.margin).rungs[0]
    return shift(of("organism"), of("base")[0], request.trained).rungs[0]


def _result(request: EvalRequest, measure: Measuring, rows: dict[str, list[PairedRow]]) -> PairedResult:
    def of(role: str) -> list[list[PairedRow]]:
        return [rows[arm.label] for arm in request.arms if arm.role == role]

    organisms, controls, base, trained = of("organism"), of("control"), of("base"), request.trained
    applied = {arm.label: measure.applied(arm) for arm in request.arms}
    zero = [
        f"The adapter of {arm.model.name} has B = 0: it is its base."
        for arm in request.arms
        if (found := applied[arm.label]) is not None and found.is_zero
    ]
    return PairedResult(
        bank=measure.bank,
        prompt=measure.prompt,
        arithmetic=measure.arithmetic,
        trained_domains=trained,
        measured=tuple(_measured(arm, rows[arm.label], trained, applied[arm.label]) for arm in request.arms),
        contrast=contrast(organisms, controls, trained, margin=request.margin) if controls else None,
        shift=shift(organisms, base[0], trained) if organisms and not controls else None,
        notes=(*request.notes, *zero),
    )


def _measured(arm: Arm, rows: Sequence[PairedRow], trained: Sequence[str], applied: Applied | None) -> Measured:
    rungs, domains = levels(rows, trained)
    run = None if arm.role == "base" else arm.model.run
    return Measured(
        role=arm.role,
        number=arm.number,
        model=arm.asked,
        applied=applied,
        trained_on=None if run is None else trained_on(read_spec(run)),
        rungs=rungs,
        domains=domains,
    )
