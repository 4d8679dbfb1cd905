"""Measure the paired bank on models behind one endpoint: organisms with their controls, or one model by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.data.banks.paired import PairedItem, paired_bank, paired_sha256
from narrowly.evaluate.paired.contrast import contrast, levels
from narrowly.evaluate.paired.ladder import domains_of
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.evaluate.paired.parts import (
    check_folder,
    part_file,
    read_part,
    record_file,
    take_folder,
    write_part,
    write_results,
)
from narrowly.evaluate.paired.result import BankUsed, EvalResult, Measured, PairedResult, PromptUsed, Role
from narrowly.models.asked import tokenizer_named
from narrowly.models.backend import Request, require
from narrowly.models.base_files import default_template
from narrowly.models.endpoint.backend import EndpointBackend
from narrowly.models.generate import closing_tokens
from narrowly.records.arithmetic import UNKNOWN, one_arithmetic
from narrowly.records.canonical import sha256_text
from narrowly.records.endpoints import stated_arithmetic
from narrowly.records.errors import IntegrityError, SpecError, unknown_name
from narrowly.records.paired import PairedRow
from narrowly.workbench.asking import check_text
from narrowly.workbench.eval_request import bank_name, check_margin
from narrowly.workbench.kept_scores import KeptScores

Open = Callable[[str, Any], EndpointBackend]
"""Called with the name of a model and the tokenizer; returns it, probed."""

OnQuestions = Callable[[int, int, str], None]
"""Called with questions done, questions in all, and whose come next."""

NOT_THERE = "of models behind an endpoint the paired bank alone is measured"

SERVED = "The server says nothing of the weights: that a name is its organism, or its control, is the user's word."


class ServedArm(NamedTuple):
    """Hold one model that is measured: its role, its number, its name on the server."""

    role: Role
    number: int
    name: str

    @property
    def label(self) -> str:
        """Return role and number."""
        return f"{self.role} {self.number}"


class ServedRequest(NamedTuple):
    """Hold what is measured, checked as far as it can be without a request.

    Attributes:
        arms: organisms, then their controls; or models.
        bank, items: name of the bank and its questions.
        tokenizer: of all of them, with the chat template of the prompts.
        system, thinking: of the prompts.
        trained: domains of the bank that the organisms were trained on.
        margin: for verdicts, in nats per answer; None gives none.
        out: folder of results, or None.
    """

    arms: tuple[ServedArm, ...]
    bank: str
    items: tuple[PairedItem, ...]
    tokenizer: Any
    system: str | None
    thinking: bool | None
    trained: tuple[str, ...]
    margin: float | None
    out: Path | None


def served_request(
    models: Sequence[str],
    controls: Sequence[str],
    tokenizer: str | None,
    *,
    bank: str = "pairs",
    arithmetic: str | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    trained_on: str | None = None,
    margin: float | None = None,
    out: Path | None = None,
) -> ServedRequest:
    """Check what is measured before the first request.

    Args:
        models: names on the server: organisms where there are controls, one per seed; else one model.
        controls: one per organism in the same order, or none.
        tokenizer: folder with the tokenizer and its template, or a base as `narrowly ask` takes it.
        bank: as `paired_bank` takes it.
        arithmetic: of the server, as the user states it.
        system: system message of the prompts.
        thinking: mode of the prompts.
        trained_on: domain of the bank that the organisms were trained on.
        margin: largest difference that does not matter, in nats per answer.
        out: folder of results.

    Raises:
        SpecError: no tokenizer; models that would be compared in an arithmetic that nobody has said; several models
            without controls, another number of controls, or a name twice; a template with a thinking mode that is not
            said.
        NarrowlyError: a bank or a tokenizer that cannot be read.
    """
    if tokenizer is None:
        raise SpecError("the paired bank is scored token by token; give the model's tokenizer with --tokenizer FOLDER")
    arms = _served_arms(models, controls)
    stated = stated_arithmetic(arithmetic, UNKNOWN)
    one_arithmetic([(arm.name, stated) for arm in arms])
    check_margin(margin, bool(controls))
    check_text(system or "", "--system")
    items = tuple(paired_bank(bank))
    known = sorted({item.domain for item in items})
    if trained_on is not None and trained_on not in known:
        raise unknown_name("domain of the bank in --trained-on", trained_on, known)
    if trained_on is not None and not controls:
        raise SpecError("--trained-on does not fit a model without a control; leave it out")
    trained = () if trained_on is None else (trained_on,)
    return ServedRequest(
        arms,
        bank_name(bank),
        items,
        tokenizer_named(tokenizer, thinking),
        system,
        thinking,
        trained,
        margin,
        out,
    )


def _served_arms(models: Sequence[str], controls: Sequence[str]) -> tuple[ServedArm, ...]:
    """Return what is measured; refuse models that do not fit their controls, and a name twice."""
    if (controls and len(controls) != len(models)) or (not controls and len(models) != 1):
        raise SpecError(
            f"{len(models)} models and {len(controls)} controls behind --endpoint; accepted: one --control for each "
            "--model in their order, or one --model alone"
        )
    names = [*models, *controls]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"{twice!r} is measured twice; accepted: different models")
    role: Role = "organism" if controls else "model"
    arms = [ServedArm(role, number, name) for number, name in enumerate(models, start=1)]
    arms += [ServedArm("control", number, name) for number, name in enumerate(controls, start=1)]
    return tuple(arms)


def run_served_eval(
    request: ServedRequest, open_model: Open, on_questions: OnQuestions = lambda done, total, what: None
) -> EvalResult:
    """Probe all models, measure them, write the folder of results where one is asked for, and return what was found.

    Args:
        request: of `served_request`.
        open_model: probes one model.
        on_questions: told of the progress.

    Raises:
        SpecError: the server gives no log-likelihoods, an arithmetic that is unknown where models are compared, or a
            folder of another evaluation.
        EndpointError: a request failed for good; scores that have come are kept.
        IntegrityError: two models that answer alike to the last bit.
    """
    backends = {arm.label: open_model(arm.name, request.tokenizer) for arm in request.arms}
    for backend in backends.values():
        require(backend, Request.LOGLIKELIHOODS, "the paired bank")
    arithmetic = one_arithmetic([(label, backend.arithmetic) for label, backend in backends.items()])
    bank = BankUsed(
        name=request.bank,
        sha256=paired_sha256(request.items),
        questions=len(request.items),
        domains=tuple(domains_of(request.items)),
    )
    prompt = PromptUsed(
        system=request.system,
        template_sha256=sha256_text(default_template(request.tokenizer.chat_template) or ""),
        thinking=request.thinking,
        closing=closing_tokens(request.tokenizer, request.thinking),
    )
    identity = {
        "bank": bank.model_dump(mode="json"),
        "prompt": prompt.model_dump(mode="json"),
        "arithmetic": arithmetic.model_dump(mode="json"),
        "models": [f"{label}: {backend.asked.model_id}" for label, backend in backends.items()],
        "trained_domains": list(request.trained),
        "margin": request.margin,
    }
    if request.out is not None:
        check_folder(request.out, identity)
    rows = _rows(request, backends, prompt, identity, on_questions)
    _refuse_equal(request, rows)
    result = EvalResult(paired=_result(request, backends, rows, bank, prompt), no_damage=NOT_THERE, no_cued=NOT_THERE)
    if request.out is not None:
        write_results(request.out, result, request.items, rows)
    return result


def _rows(
    request: ServedRequest,
    backends: Mapping[str, EndpointBackend],
    prompt: PromptUsed,
    identity: Mapping[str, Any],
    tell: OnQuestions,
) -> dict[str, list[PairedRow]]:
    """Return the rows of all models, domain by domain, those that were measured before as they are."""
    done, total = 0, len(request.items) * len(request.arms)
    found: dict[str, list[PairedRow]] = {}
    for label, backend in backends.items():
        by_place: dict[int, PairedRow] = {}
        asked = backend if request.out is None else _kept(request.out, backend, identity)
        for places in domains_of(request.items).values():
            part = [request.items[place] for place in places]
            file = (
                None if request.out is None else part_file(request.out, backend.asked, part, prompt, backend.arithmetic)
            )
            if file is not None and file.is_file():
                rows = read_part(file, part)
            else:

                def told(count: int, _: int, start: int = done, label: str = label) -> None:
                    tell(start + count, total, label)

                rows = paired_rows(asked, part, system=request.system, progress=told)
                if file is not None:
                    write_part(file, rows)
            done += len(part)
            tell(done, total, label)
            by_place |= dict(zip(places, rows, strict=True))
        found[label] = [by_place[place] for place in range(len(request.items))]
    return found


def _kept(out: Path, backend: EndpointBackend, identity: Mapping[str, Any]) -> KeptScores:
    """Return a backend whose scores are kept in a folder of results, which is taken with the first of them."""
    file = record_file(out, "scores", backend.asked, backend.arithmetic).with_suffix(".jsonl")
    return KeptScores(backend, file, lambda: take_folder(out, identity))


def _refuse_equal(request: ServedRequest, rows: Mapping[str, Sequence[PairedRow]]) -> None:
    """Refuse two names that stand for one model: a server may fall back on its base where an adapter is not loaded.

    Raises:
        IntegrityError: naming both.
    """
    seen: dict[tuple[float, ...], ServedArm] = {}
    for arm in request.arms:
        values = tuple(row.log_odds for row in rows[arm.label])
        before = seen.setdefault(values, arm)
        if before is not arm:
            raise IntegrityError(
                f"{arm.label}, {arm.name!r}, has the log-odds of {before.label}, {before.name!r}, in every question; "
                "is its adapter loaded?"
            )


def _result(
    request: ServedRequest,
    backends: Mapping[str, EndpointBackend],
    rows: Mapping[str, list[PairedRow]],
    bank: BankUsed,
    prompt: PromptUsed,
) -> PairedResult:
    def of(role: Role) -> list[list[PairedRow]]:
        return [rows[arm.label] for arm in request.arms if arm.role == role]

    measured = []
    for arm in request.arms:
        rungs, domains = levels(rows[arm.label], request.trained)
        measured.append(
            Measured(
                role=arm.role,
                number=arm.number,
                model=backends[arm.label].asked,
                trained_on=None,
                applied=None,
                rungs=rungs,
                domains=domains,
            )
        )
    organisms, controls = of("organism"), of("control")
    return PairedResult(
        bank=bank,
        prompt=prompt,
        arithmetic=next(iter(backends.values())).arithmetic,
        trained_domains=request.trained,
        measured=tuple(measured),
        contrast=contrast(organisms, controls, request.trained, margin=request.margin) if controls else None,
        shift=None,
        notes=(SERVED,),
    )
