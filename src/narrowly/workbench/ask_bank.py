"""Ask a model a whole bank of questions, into a file of one answer per line that a stopped command goes on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from narrowly.data.banks.named import Bank
from narrowly.data.questions import Question
from narrowly.models.asked import ModelToAsk
from narrowly.records.answers import Answer, AskedModel, Who
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import append_jsonl, read_jsonl, write_text
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
    if out.is_dir():
        raise SpecError(f"--out {out} is a folder, accepted: a file for the answers, for instance answers.jsonl")
    found = bank_named(bank)
    if out.exists() and out.samefile(found.path):
        raise SpecError(f"--out {out} is the bank itself, accepted: another file")
    written = tuple(_written(out))
    request = BankRequest(model, how, found, out, written)
    for answer in written:
        asked = {"bank_sha256": found.sha256, "thinking": how.thinking, "sampling": how.sampling}
        _refuse_another(out, {name: (getattr(answer, name), value) for name, value in asked.items()})
        _refuse_another(out, {"system": (_system_of(answer), how.system or _system_of_bank(request, answer))})
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
            _refuse_another(out, {"the prompt's sha256": (answer.prompt_sha256, item.prompt.sha256)})
        done.add(key)
    wanted = {(who, item.key) for who in speakers for item in items}
    new, cut = 0, sum(answer.finish_reason == "length" for answer in request.written)
    if not wanted <= done or not done:
        loaded = model.load(tokenizer, how.dtype or "float32", how.device, beside_base=how.beside_base)
        _mend(out)
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


def _written(out: Path) -> list[Answer]:
    """Read the answers of a file; a last line that a killed command left half is not one of them."""
    if not out.exists():
        return []
    found = []
    for number, line in enumerate(read_jsonl(out), start=1):
        try:
            found.append(Answer.model_validate(line))
        except ValidationError as error:
            raise IntegrityError(
                f"{out}, line {number} is no answer of ours ({first_fault(error)}); accepted: a new file, or one that "
                "the same command began"
            ) from error
    return found


def _system_of(answer: Answer) -> str | None:
    first = answer.messages[0]
    return str(first["content"]) if first["role"] == "system" else None


def _system_of_bank(request: BankRequest, answer: Answer) -> str | None:
    """Return the system message that the bank itself gives to the question of an answer."""
    for question in request.questions:
        if question.id == answer.question_id and answer.paraphrase < len(question.prompts):
            first = question.prompts[answer.paraphrase][0]
            return first.content if first.role == "system" else None
    return None


def _mend(out: Path) -> None:
    """Take a half line off the end of a file, so that the next answer begins a line."""
    text = out.read_bytes() if out.exists() else b""
    if text and not text.endswith(b"\n"):
        write_text(out, text[: text.rfind(b"\n") + 1].decode("utf-8"))


def _refuse_another(out: Path, pairs: dict[str, tuple[object, object]]) -> None:
    for name, (there, now) in pairs.items():
        if there != now:
            raise SpecError(
                f"{out} exists and holds answers of another request ({name}: {there}, now {now}); accepted: a new "
                "file, or the same request, which goes on"
            )


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
            _refuse_another(
                request.out, {f"model.{changed} of the {answer.who}": (there.get(changed), now.get(changed))}
            )
