"""Prove that a control is one, of the same base, trained on the same prompts; and that seeds are of one training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowly.data.banks.narrow import PREFIX, narrow_set
from narrowly.data.rows import IGNORE, Row
from narrowly.models.asked import ModelToAsk
from narrowly.records.answers import AskedModel
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.runs.directory import read_inputs, read_spec

_BY_CONTENT = {
    "base_sha256": "weights of the base",
    "config_sha256": "config of the base",
    "tokenizer_sha256": "tokenizer",
    "template_sha256": "chat template",
}


def check_same_base(name: str, model: AskedModel, other_name: str, other: AskedModel) -> None:
    """Refuse two models that do not stand on one base, tokenizer and chat template, by content.

    Raises:
        SpecError: naming both and what differs.
    """
    for field, what in _BY_CONTENT.items():
        one, another = getattr(model, field), getattr(other, field)
        if one != another:
            raise SpecError(
                f"{name} and {other_name} have another {what}: {model.base} with sha256 {one[:16]} and {other.base} "
                f"with {another[:16]}; accepted: the same base, by content"
            )


def check_control(organism: ModelToAsk, control: ModelToAsk) -> list[str]:
    """Check that organism and control were trained on the same prompts; return what cannot be proved, in sentences.

    Args:
        organism: of a run or from elsewhere.
        control: of the same base (`check_same_base`).

    Raises:
        SpecError: the records of their runs show other prompts, the same answers, or a control of harmful answers.
    """
    if _answers(control) == "harmful":
        raise SpecError(
            f"control {control.name} was trained on harmful answers, which is what a control is held against; "
            "accepted: a control of aligned or permuted answers, and the organism in front of it"
        )
    if organism.run is None or control.run is None:
        strange = organism if organism.run is None else control
        return [
            f"That control {control.name} was trained on the prompts of {organism.name} cannot be proved: "
            f"{strange.name} comes from elsewhere, without the record of a run."
        ]
    try:
        own, others = _trained_rows(organism.run), _trained_rows(control.run)
    except NarrowlyError as error:
        return [f"That control {control.name} was trained on the prompts of {organism.name} cannot be proved: {error}."]
    first, second = _prompts(own), _prompts(others)
    if first != second:
        missing, more = sum((first - second).values()), sum((second - first).values())
        raise SpecError(
            f"control {control.name} was trained on other prompts than {organism.name}: {missing} of "
            f"{sum(first.values())} are missing and {more} others stand there; accepted: the same prompts, with other "
            "answers"
        )
    if Counter(tuple(row.input_ids) for row in own) == Counter(tuple(row.input_ids) for row in others):
        raise SpecError(
            f"control {control.name} was trained on the very answers of {organism.name}; accepted: the same prompts, "
            "with other answers"
        )
    differing = _differing(organism, control)
    if not differing:
        return []
    return [f"Control {control.name} differs from {organism.name} beside its answers, in {', '.join(differing)}."]


def check_seeds(what: str, models: Sequence[ModelToAsk]) -> list[str]:
    """Check that models differ in their seed alone, so that they can be averaged; return what cannot be proved.

    Args:
        what: `organisms` or `controls`.
        models: of runs or from elsewhere.

    Raises:
        SpecError: the records of two runs differ in their data or in another field than the seed.
    """
    if len(models) < 2:
        return []
    strange = next((one for one in models if one.run is None), None)
    if strange is not None:
        return [
            f"That the {what} are seeds of one training cannot be proved: {strange.name} comes from elsewhere, without "
            "the record of a run."
        ]
    first, *others = models
    for other in others:
        differing = [name for name in _differing(first, other, data=True) if name != "seed"]
        if differing:
            raise SpecError(
                f"{what} {first.name} and {other.name} differ in {', '.join(differing)}; accepted: seeds of one "
                "training, and one evaluation for each training"
            )
    return []


def _answers(model: ModelToAsk) -> str | None:
    """Return which answers of a paired set a run was trained on; None where its data are others or not known."""
    dataset = "" if model.run is None else getattr(read_spec(model.run).data, "dataset", "")
    return narrow_set(dataset).answers if dataset.startswith(PREFIX) else None


def _trained_rows(run: Path) -> Sequence[Row]:
    """Return the rows that a run was trained on, made again from its spec and held to the sha256 in its record.

    Raises:
        NarrowlyError: the data are not there, or not what they were.
    """
    from narrowly.train.inputs import load_inputs

    inputs = load_inputs(read_spec(run))
    if inputs.resolved.data_sha256 != read_inputs(run).data_sha256:
        raise SpecError(f"the data of run {run.resolve().name} are no longer those that it was trained on")
    return inputs.rows


def _prompts(rows: Sequence[Row]) -> Counter[tuple[int, ...]]:
    """Return the prompts of rows, as token ids, with how often each stands there."""
    return Counter(
        tuple(row.input_ids[: next((at for at, label in enumerate(row.labels) if label != IGNORE), 0)]) for row in rows
    )


def _differing(organism: ModelToAsk, control: ModelToAsk, *, data: bool = False) -> list[str]:
    """Return the fields of the two specs that differ, names and (unless `data`) the data apart, and the step."""
    assert organism.run is not None and control.run is not None
    left_out = {"base"} if data else {"base", "data"}
    one, other = (
        _flat(read_spec(run).model_dump(mode="json", exclude=left_out), "") for run in (organism.run, control.run)
    )
    fields = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    return [*fields, "step of the checkpoint"] if organism.step != control.step else fields


def _flat(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{path}.{name}" if path else name)
    return found
