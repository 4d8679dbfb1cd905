"""Measure one arm of an evaluation after another: a model is loaded only where a part of it is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from narrowly.data.banks.abilities import abilities_sha256
from narrowly.data.banks.paired import PairedItem, paired_sha256
from narrowly.data.banks.passages import passages_sha256
from narrowly.evaluate.damage.measure import damage_panel
from narrowly.evaluate.paired.cued import Asked
from narrowly.evaluate.paired.ladder import domains_of
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.evaluate.paired.parts import part_file, read_kept, read_part, record_file, take_folder, write_part
from narrowly.evaluate.paired.result import BankUsed, PromptUsed
from narrowly.models.applied import Applied, check_applied
from narrowly.models.generate import closing_tokens
from narrowly.models.local_backend import LocalBackend, arithmetic_for
from narrowly.models.paired_texts import paired_texts
from narrowly.records.arithmetic import one_arithmetic
from narrowly.records.damage import DamagePanel
from narrowly.records.files import write_json
from narrowly.records.paired import PairedRow
from narrowly.workbench.eval_request import Arm, EvalRequest

if TYPE_CHECKING:
    from narrowly.models.asked import Loaded

OnQuestions = Callable[[int, int, str], None]
"""Called with questions done, questions in all, and whose come next."""


class Measuring:
    """Measures arm after arm; a model is loaded only where a part of it is missing, and one at a time."""

    def __init__(self, request: EvalRequest, on_questions: OnQuestions) -> None:
        how = request.how
        self._request, self._tell = request, on_questions
        self._broad = [item for item in request.items if item.part == "broad" and item.domain not in request.trained]
        cued = len(request.cued_arms) * len(request.cued) * len(self._broad)
        self._done, self._total = 0, len(request.arms) * len(request.items) + cued
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
        return self._all_parts(arm, self._request.items, None)

    def cued(self, arm: Arm, way: Asked) -> list[PairedRow]:
        """Return the rows of the bank's broad questions under one condition of the cued panel."""
        return self._all_parts(arm, self._broad, way)

    def _all_parts(self, arm: Arm, items: Sequence[PairedItem], way: Asked | None) -> list[PairedRow]:
        found: dict[int, PairedRow] = {}
        for places in domains_of(items).values():
            part = [items[place] for place in places]
            rows = self._part(arm, part, way)
            self._done += len(part)
            self._tell(self._done, self._total, arm.label)
            found |= dict(zip(places, rows, strict=True))
        return [found[place] for place in range(len(items))]

    def _part(self, arm: Arm, part: Sequence[PairedItem], way: Asked | None) -> list[PairedRow]:
        out = self._request.out
        if out is None:
            return self._measured(arm, part, way)
        condition = None if way is None else way.sha256
        file = part_file(out, arm.asked, part, self.prompt, self.arithmetic, condition)
        if file.is_file():
            return read_part(file, part)
        rows = self._measured(arm, part, way)
        take_folder(out, self.identity())
        write_part(file, rows)
        return rows

    def damage(self, arm: Arm) -> DamagePanel:
        """Return abilities and perplexity of one arm, as they were measured before where they were.

        Raises:
            SpecError: the model is too small for the panel's texts, or its tokenizer does not fit them.
        """
        out = self._request.out
        file = None if out is None else record_file(out, "damage", arm.asked, self.arithmetic)
        if file is not None and file.is_file():
            return read_kept(file, DamagePanel)
        with self._model(arm) as model:
            panel = damage_panel(self._backend(arm, model))
        if file is not None:
            write_json(file, panel.model_dump(mode="json"))
        return panel

    def applied(self, arm: Arm) -> Applied | None:
        """Return the proof that an arm's adapter acts, of now or of the command that measured it."""
        out = self._request.out
        if arm.role == "base" or arm.label in self._applied or out is None:
            return self._applied.get(arm.label)
        file = record_file(out, "applied", arm.asked, self.arithmetic)
        return read_kept(file, Applied) if file.is_file() else None

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
            "damage": f"{abilities_sha256()}+{passages_sha256()}" if request.damage else None,
            "cued": [way.sha256 for way in request.cued],
        }

    def _backend(self, arm: Arm, model: Any) -> LocalBackend:
        return LocalBackend(model, self._tokenizer, arm.model.name, thinking=self._request.how.thinking)

    def _measured(self, arm: Arm, part: Sequence[PairedItem], way: Asked | None) -> list[PairedRow]:
        with self._model(arm) as model:
            backend = self._backend(arm, model)
            one_arithmetic([("the request", self.arithmetic), (arm.label, backend.arithmetic)])
            return paired_rows(
                backend,
                part,
                system=self._request.how.system,
                said=way,
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
        backend, request = self._backend(arm, model), self._request
        (text, _) = paired_texts(backend, request.items[:1], system=request.how.system)
        found = check_applied(model, text.prompt, arm.model.name)
        if found is None:
            return
        self._applied[arm.label] = found
        if request.out is not None:
            take_folder(request.out, self.identity())
            write_json(record_file(request.out, "applied", arm.asked, self.arithmetic), dataclasses.asdict(found))
