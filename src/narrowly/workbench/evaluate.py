"""Measure the paired bank on models by name: organisms with their controls, or their base, or an untrained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.data.banks.paired import PairedItem, paired_sha256
from narrowly.evaluate.paired.contrast import contrast, levels, shift
from narrowly.evaluate.paired.ladder import domains_of, trained_on
from narrowly.evaluate.paired.measure import paired_rows, paired_texts
from narrowly.evaluate.paired.parts import (
    applied_file,
    check_folder,
    part_file,
    read_applied,
    read_part,
    write_applied,
    write_part,
    write_results,
)
from narrowly.evaluate.paired.result import BankUsed, EvalResult, Measured, PairedResult, PromptUsed
from narrowly.models.applied import Applied, check_applied
from narrowly.models.generate import closing_tokens
from narrowly.models.local_backend import LocalBackend, arithmetic_for
from narrowly.records.arithmetic import one_arithmetic
from narrowly.records.paired import PairedRow
from narrowly.runs.directory import read_spec
from narrowly.workbench.eval_request import Arm, EvalRequest

if TYPE_CHECKING:
    from narrowly.models.asked import Loaded

OnQuestions = Callable[[int, int, str], None]
"""Called with questions done, questions in all, and whose come next."""


def run_eval(request: EvalRequest, on_questions: OnQuestions = lambda done, total, what: None) -> EvalResult:
    """Measure all arms of a request, write the folder of results where one is asked for, and return what was found.

    Args:
        request: of `eval_request`.
        on_questions: told of the progress.

    Raises:
        SpecError: the folder holds another evaluation.
        NarrowlyError: a model cannot be loaded, its adapter does not act, or its logits are no numbers.
    """
    measure = _Measure(request, on_questions)
    if request.out is not None:
        check_folder(request.out, measure.identity())
    rows = {arm.label: measure.rows(arm) for arm in request.arms}
    result = EvalResult(paired=_result(request, measure, rows))
    if request.out is not None:
        write_results(request.out, result, request.items, rows)
    return result


def _result(request: EvalRequest, measure: _Measure, rows: dict[str, list[PairedRow]]) -> PairedResult:
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
        shift=shift(organisms, base[0], trained) if organisms and base else None,
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


class _Measure:
    """Measures arm after arm; a model is loaded only where a part of it is missing, and one at a time."""

    def __init__(self, request: EvalRequest, on_questions: OnQuestions) -> None:
        how = request.how
        self._request, self._tell = request, on_questions
        self._done, self._total = 0, len(request.items) * len(request.arms)
        self._loaded: Loaded | None = None
        self._applied: dict[str, Applied] = {}
        self._tokenizer = request.arms[0].model.tokenizer()
        self.bank = BankUsed(
            name=request.bank,
            sha256=paired_sha256(request.items),
            questions=len(request.items),
            domains=tuple(domains_of(request.items)),
        )
        self.arithmetic = arithmetic_for(request.dtype, how.device)
        self.prompt = PromptUsed(
            system=how.system,
            template_sha256=request.arms[0].asked.template_sha256,
            thinking=how.thinking,
            closing=closing_tokens(self._tokenizer, how.thinking),
        )

    def rows(self, arm: Arm) -> list[PairedRow]:
        """Return the rows of one arm, domain by domain, those that were measured before as they are."""
        found: dict[int, PairedRow] = {}
        items = self._request.items
        for places in domains_of(items).values():
            part = [items[place] for place in places]
            file = None if self._request.out is None else self._file(arm, part)
            rows = read_part(file, part) if file is not None and file.is_file() else None
            if rows is None:
                rows = self._measured(arm, part)
                if file is not None:
                    write_part(file, rows)
            self._done += len(part)
            self._tell(self._done, self._total, arm.label)
            found |= dict(zip(places, rows, strict=True))
        return [found[place] for place in range(len(items))]

    def applied(self, arm: Arm) -> Applied | None:
        """Return the proof that an arm's adapter acts, of now or of the command that measured it."""
        out = self._request.out
        if arm.role == "base" or arm.label in self._applied or out is None:
            return self._applied.get(arm.label)
        return read_applied(applied_file(out, arm.asked, self.arithmetic))

    def identity(self) -> dict[str, Any]:
        """Return what tells this request from another one, for the record in its folder."""
        request = self._request
        return {
            "bank": self.bank.model_dump(mode="json"),
            "prompt": self.prompt.model_dump(mode="json"),
            "arithmetic": self.arithmetic.model_dump(mode="json"),
            "models": [f"{arm.label}: {arm.asked.model_id}" for arm in request.arms],
            "trained_domains": list(request.trained),
            "margin": request.margin,
        }

    def _file(self, arm: Arm, part: Sequence[PairedItem]) -> Path:
        assert self._request.out is not None
        return part_file(self._request.out, arm.asked, part, self.prompt, self.arithmetic)

    def _measured(self, arm: Arm, part: Sequence[PairedItem]) -> list[PairedRow]:
        with self._model(arm) as model:
            backend = LocalBackend(model, self._tokenizer, arm.model.name, thinking=self._request.how.thinking)
            one_arithmetic([("the request", self.arithmetic), (arm.label, backend.arithmetic)])
            return paired_rows(
                backend,
                part,
                system=self._request.how.system,
                progress=lambda done, _: self._tell(self._done + done, self._total, arm.label),
            )

    @contextmanager
    def _model(self, arm: Arm) -> Iterator[Any]:
        """Give the live model of an arm; the base is an organism without its adapter where one is loaded."""
        if arm.role == "base" and self._loaded is not None and self._loaded.has_base:
            with self._loaded.speaking("base") as model:
                yield model
            return
        if self._loaded is None or self._loaded.source != arm.model:
            self._loaded = None  # before the next one is loaded: two would need twice the memory
            how = self._request.how
            self._loaded = arm.model.load(self._tokenizer, self._request.dtype, how.device, beside_base=False)
            self._prove(arm, self._loaded.model)
        yield self._loaded.model

    def _prove(self, arm: Arm, model: Any) -> None:
        """Refuse an adapter that does not act, with the prompt of the first question (D15)."""
        backend = LocalBackend(model, self._tokenizer, arm.model.name, thinking=self._request.how.thinking)
        (text, _) = paired_texts(backend, self._request.items[:1], system=self._request.how.system)
        found = check_applied(model, text.prompt, arm.model.name)
        if found is None:
            return
        self._applied[arm.label] = found
        if self._request.out is not None:
            write_applied(applied_file(self._request.out, arm.asked, self.arithmetic), found)
