"""Ask a model behind an endpoint one question or a bank, into a file that a stopped command goes on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.named import Bank, bank_named
from narrowly.data.messages import Message
from narrowly.data.questions import Question
from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.backend import EndpointBackend
from narrowly.models.endpoint.chat import ChatReply, messages_sha256
from narrowly.models.endpoint.parallel import Parallel
from narrowly.records.answers import Answer, Who
from narrowly.records.arithmetic import UNKNOWN
from narrowly.records.endpoints import AskedEndpoint, stated_arithmetic
from narrowly.records.errors import EndpointError, IntegrityError, SpecError
from narrowly.records.files import append_jsonl
from narrowly.workbench.answer_file import (
    check_out,
    mend,
    refuse_another,
    system_of,
    system_of_bank,
    written_answers,
)
from narrowly.workbench.ask_bank import AskedBank
from narrowly.workbench.asking import SAMPLES, HowToAsk, check_text, with_system
from narrowly.workbench.reply import Reply, Said

WHO: Who = "model"

Key = tuple[str, int, int]


class Asked(NamedTuple):
    """Hold one answer that is to be asked for: question, paraphrase, sample, and the messages before it."""

    question_id: str
    paraphrase: int
    sample: int
    messages: tuple[Message, ...]

    @property
    def key(self) -> Key:
        """Return what tells it apart from the others of one bank."""
        return self.question_id, self.paraphrase, self.sample


class EndpointBank(NamedTuple):
    """Hold a bank that can be asked of an endpoint, checked as far as it can be without a request.

    Attributes:
        address: that is asked.
        how: as the user says.
        bank: the questions with their sha256.
        out: file of the answers.
        written: answers that are in it already.
        missing: what is still to be asked, every question's first sample before any question's second.
        total: answers in all.
    """

    address: Address
    how: HowToAsk
    bank: Bank
    out: Path
    written: tuple[Answer, ...]
    missing: tuple[Asked, ...]
    total: int


def items_at(questions: Sequence[Question], how: HowToAsk) -> list[Asked]:
    """List what is asked: as many samples of every paraphrase as `how` or its question says.

    Raises:
        SpecError: several samples at temperature 0, or two system messages; the question is named.
    """
    if how.temperature == 0 and (how.samples or 1) > 1:
        raise SpecError(f"--samples is {how.samples} at temperature 0, where all are equal; accepted: 1")
    found = []
    for question in questions:
        samples = 1 if how.temperature == 0 else how.samples or question.samples or SAMPLES
        for paraphrase, messages in enumerate(question.prompts):
            try:
                said = with_system(messages, how.system)
            except SpecError as error:
                raise SpecError(f"question {question.id!r}: {error}") from error
            found += [Asked(question.id, paraphrase, sample, said) for sample in range(samples)]
    return sorted(found, key=lambda one: one.sample)  # stable: a file that was stopped is balanced too


def endpoint_bank(address: Address, bank: str, out: Path, how: HowToAsk, arithmetic: str | None) -> EndpointBank:
    """Check what is asked, and what a file of answers holds already, before the first request.

    Args:
        address: that is asked.
        bank: as `bank_named` takes it.
        out: file of the answers, new or of the same request.
        how: as the user says.
        arithmetic: of the server, as the user states it.

    Raises:
        SpecError: an option that does not fit, or a file of answers of another request or another model.
        IntegrityError: a bank or a file of answers that cannot be read.
    """
    stated = stated_arithmetic(arithmetic, UNKNOWN)
    found = bank_named(bank)
    check_out(out, found.path)
    items = {item.key: item for item in items_at(found.questions, how)}
    written = tuple(written_answers(out))
    done: set[Key] = set()
    for answer in written:
        asked = {"bank_sha256": found.sha256, "thinking": how.thinking, "sampling": how.sampling}
        refuse_another(out, {name: (getattr(answer, name), value) for name, value in asked.items()})
        wanted = how.system or system_of_bank(found.questions, answer)
        refuse_another(out, {"system": (system_of(answer), wanted)})
        if not isinstance(answer.model, AskedEndpoint):
            refuse_another(out, {"model": (answer.model.name, f"{address.model} at {address.url}")})
            continue
        there = answer.model
        refuse_another(out, {"model": (f"{there.name} at {there.url}", f"{address.model} at {address.url}")})
        for field in ("dtype", "quantisation"):
            refuse_another(out, {f"arithmetic.{field}": (getattr(there.arithmetic, field), getattr(stated, field))})
        key = answer.question_id, answer.paraphrase, answer.sample
        if key in done:
            raise IntegrityError(f"{out} holds the answer to {key} twice; did two commands write to it?")
        item = items.get(key)
        if item is not None:
            refuse_another(out, {"the prompt's sha256": (answer.prompt_sha256, messages_sha256(item.messages))})
        done.add(key)
    missing = tuple(item for key, item in items.items() if key not in done)
    return EndpointBank(address, how, found, out, written, missing, len(items))


def ask_bank_at(
    request: EndpointBank, backend: EndpointBackend, on_answer: Callable[[int, int], None] = lambda done, total: None
) -> AskedBank:
    """Ask for the answers that are missing; each is in the file as soon as it has come.

    Args:
        request: of `endpoint_bank`.
        backend: the model, probed.
        on_answer: called with answers done and answers in all.

    Raises:
        SpecError: samples of a server that answers greedily, or a server that is not the one of the file's answers.
        EndpointError: a request failed for good; how many answers are in the file is said.
        KeyboardInterrupt: with the number of answers that are in the file.
    """
    backend.check_sampling(request.how.sampling)
    _check_same_server(request, backend)
    mend(request.out)
    already, new, cut = request.total - len(request.missing), 0, 0
    one_at_a_time = threading.Lock()

    def ask(item: Asked) -> Answer:
        answer = _asked(backend, item, request.how, request.bank.sha256)
        with one_at_a_time:  # before the next request is sent: a kill loses what is under way and no more
            append_jsonl(request.out, answer.model_dump(mode="json"))
        return answer

    def count(answer: Answer) -> None:
        nonlocal new, cut
        new += 1
        cut += answer.finish_reason == "length"
        on_answer(already + new, request.total)

    running = Parallel(request.missing, ask, backend.concurrency)
    try:
        for _, answer in running:
            count(answer)
    except KeyboardInterrupt:
        running.stop()
        for _, answer in running:  # those under way are paid for; another Ctrl-C leaves them
            count(answer)
        raise KeyboardInterrupt(f"stopped with {_goes_on(request, already + new)}") from None
    except EndpointError as error:
        raise EndpointError(f"{error}; {_goes_on(request, already + new)}", error.status) from error
    cut += sum(answer.finish_reason == "length" for answer in request.written)
    return AskedBank(len(request.written) + new, new, cut)


def _goes_on(request: EndpointBank, done: int) -> str:
    return f"{done} of {request.total} answers in {request.out}; the same command goes on from there"


def _check_same_server(request: EndpointBank, backend: EndpointBackend) -> None:
    """Refuse to go on with answers of a server that computed or answered otherwise.

    Raises:
        SpecError: naming what differs.
    """
    now = backend.asked
    for there in {answer.model.model_id: answer.model for answer in request.written}.values():
        assert isinstance(there, AskedEndpoint)
        refuse_another(
            request.out,
            {
                "arithmetic": (str(there.arithmetic), str(now.arithmetic)),
                "the server's fields": (there.probe.dialect, now.probe.dialect),
            },
        )
        if there.probe.greedy_repeats and now.probe.greedy_repeats:
            pair = there.probe.greedy_sha256, now.probe.greedy_sha256
            refuse_another(request.out, {"the server's greedy answer to the probe's question, by sha256": pair})


def _asked(backend: EndpointBackend, item: Asked, how: HowToAsk, bank_sha256: str | None) -> Answer:
    """Ask for one answer.

    Raises:
        EndpointError: it did not come.
    """
    fields = backend.fields(how.sampling, item.messages, item.sample)
    reply = backend.ask(item.messages, fields)
    return Answer(
        who=WHO,
        question_id=item.question_id,
        paraphrase=item.paraphrase,
        sample=item.sample,
        question=item.messages[-1].content,
        messages=tuple(one.as_json() for one in item.messages),
        thinking=how.thinking,
        answer=_text(reply),
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        answer_tokens=reply.answer_tokens,
        prompt_sha256=messages_sha256(item.messages),
        sampling=how.sampling,
        model=backend.asked,
        bank_sha256=bank_sha256,
        request=fields,
    )


def _text(reply: ChatReply) -> str:
    """Return an answer with its thought in front, where the server sends that apart, as a model here writes it."""
    return f"<think>\n{reply.thought}\n</think>\n\n{reply.text}" if reply.thought else reply.text


def ask_at(backend: EndpointBackend, question: str, how: HowToAsk) -> Reply:
    """Ask a model behind an endpoint one question.

    Raises:
        SpecError: an empty question, or samples of a server that answers greedily.
        EndpointError: no answer.
    """
    check_question(question, how)
    backend.check_sampling(how.sampling)
    items = items_at([_question(question)], how)
    found = dict(Parallel(items, lambda item: _asked(backend, item, how, None), backend.concurrency))
    written = tuple(found[at] for at in range(len(items)))
    said = Said(WHO, None, (), tuple((answer.answer, None) for answer in written), written)
    return Reply(None, backend.client.address.model, False, (), (said,))


def check_question(question: str, how: HowToAsk) -> None:
    """Refuse a question that is none, before the first request.

    Raises:
        SpecError: it is empty or no valid text, or several samples at temperature 0.
    """
    if not question.strip():
        raise SpecError("the question is empty; accepted: some words, in quotation marks")
    for text, what in ((question, "the question"), (how.system or "", "--system")):
        check_text(text, what)
    items_at([_question(question)], how)


def _question(text: str) -> Question:
    return Question("question", ((Message("user", text),),), 1, None, None, None, {}, {})
