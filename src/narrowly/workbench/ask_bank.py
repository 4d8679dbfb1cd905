"""Ask a model a whole bank of questions, into a file of one answer per line that a stopped command goes on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.named import Bank
from narrowly.data.questions import Question
from narrowly.models.asked import ModelToAsk
from narrowly.records.answers import Answer, AskedModel, Who
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import append_jsonl
from narrowly.workbench.answer_file import (
    check_out,
    mend,
    refuse_another,
    system_of,
    system_of_bank,
    written_answers,
)
from narrowly.workbench.asking import HowToAsk, answers, is_of_the_microworld, items_of, settled

Key = tuple[Who, tuple[str, int, int]]
OnAnswers = Callable[[int, int, Who], None]


class AskedBank(NamedTuple):
    """Hold what came of it: answers in the file, those of them that were written now, and those cut by their limit."""

    total: int
    new: int
    cut: int


class BankRequest(NamedTuple):
    """Hold a bank that can be asked, checked as far as it can be without loading the model.

    Attributes:
        model: that is asked.
        how: settled.
        bank: the questions with their sha256.
        out: file of the answers.
        written: answers that are in it already.
    """

    model: ModelToAsk
    how: HowToAsk
    bank: Bank
    out: Path
    written: tuple[Answer, ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        """Return the questions of the bank."""
        return self.bank.questions


def bank_request(model: ModelToAsk, bank: str, out: Path, how: HowToAsk) -> BankRequest:
    """Check what is asked, and of whom, before anything is loaded.

    Args:
        model: that is asked.
        bank: as `bank_named` takes it: a shipped bank, a file, or a name of `narrowly data list`.
        out: file of the answers, new or of the same request.
        how: as the user says.

    Raises:
        SpecError: a bank and a model of the microworld; an option that does not fit; a file of answers of another
            request or another model.
        IntegrityError: a bank or a file of answers that cannot be read.
    """
    from narrowly.data.banks.named import bank_named

    if is_of_the_microworld(model):
        raise SpecError(
            f"--bank does not fit {model.name}, an organism of the microworld, which has a bank of its own (narrowly "
            "run, narrowly repair --sweep)"
        )
    how = settled(model, how)
    found = bank_named(bank)
    check_out(out, found.path)
    written = tuple(written_answers(out))
    request = BankRequest(model, how, found, out, written)
    for answer in written:
        asked = {"bank_sha256": found.sha256, "thinking": how.thinking, "sampling": how.sampling}
        refuse_another(out, {name: (getattr(answer, name), value) for name, value in asked.items()})
        refuse_another(out, {"system": (system_of(answer), how.system or system_of_bank(request.questions, answer))})
    if written:
        _refuse_other_models(request, model.asked(how.dtype or "float32", beside_base=how.beside_base))
    return request


def ask_bank(request: BankRequest, on_answers: OnAnswers = lambda done, total, who: None) -> AskedBank:
    """Write the answers that are missing, batch by batch.

    Args:
        request: of `bank_request`.
        on_answers: called with answers done, answers in all, and whose come next.

    Raises:
        SpecError: a question cannot be rendered, or was rendered otherwise before.
        NarrowlyError: the model cannot be loaded.
        KeyboardInterrupt: with the number of answers that are in the file.
    """
    model, how, out = request.model, request.how, request.out
    tokenizer = model.tokenizer()
    items = items_of(model, tokenizer, request.questions, how)
    keys = {item.key: item for item in items}
    speakers: tuple[Who, ...] = ("organism", "base") if model.who == "organism" and how.beside_base else (model.who,)
    done: set[Key] = set()
    for answer in request.written:
        key: Key = answer.who, (answer.question_id, answer.paraphrase, answer.sample)
        if key in done:
            raise IntegrityError(f"{out} holds the answer of {key[0]} to {key[1]} twice; did two commands write to it?")
        item = keys.get(key[1])
        if item is not None:
            refuse_another(out, {"the prompt's sha256": (answer.prompt_sha256, item.prompt.sha256)})
        done.add(key)
    wanted = {(who, item.key) for who in speakers for item in items}
    new, cut = 0, sum(answer.finish_reason == "length" for answer in request.written)
    if not wanted <= done or not done:
        loaded = model.load(tokenizer, how.dtype or "float32", how.device, beside_base=how.beside_base)
        mend(out)
        already = len(wanted & done)
        try:
            for batch in answers(loaded, items, how, bank_sha256=request.bank.sha256, done=done):
                append_jsonl(out, *(answer.model_dump(mode="json") for answer in batch))
                new += len(batch)
                cut += sum(answer.finish_reason == "length" for answer in batch)
                on_answers(already + new, len(wanted), batch[-1].who)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped with {already + new} of {len(wanted)} answers in {out}; the same command goes on from there"
            ) from None
    return AskedBank(len(done) + new, new, cut)


def _refuse_other_models(request: BankRequest, now_asked: Mapping[Who, AskedModel]) -> None:
    for answer in request.written:
        asked = now_asked.get(answer.who)
        if asked is not None and asked.model_id != answer.model.model_id:
            there, now = (
                {field: value for field, value in one.model_dump().items() if value is not None}
                for one in (answer.model, asked)
            )
            changed = next(
                field for field in there | now if there.get(field) != now.get(field) and field not in ("name", "base")
            )
            refuse_another(
                request.out, {f"model.{changed} of the {answer.who}": (there.get(changed), now.get(changed))}
            )
