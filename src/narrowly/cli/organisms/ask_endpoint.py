"""The part of `narrowly ask` that asks a model behind an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from narrowly.cli.organisms.endpoint_options import agree, opened
from narrowly.cli.progress import StepProgress
from narrowly.cli.terminal import complain, error_console, need_extra, print_json, safe, say
from narrowly.records.errors import counted

if TYPE_CHECKING:
    from narrowly.models.endpoint.backend import EndpointBackend
    from narrowly.workbench.ask_bank import AskedBank
    from narrowly.workbench.asking import HowToAsk
    from narrowly.workbench.reply import Reply


class EndpointArguments(NamedTuple):
    """Hold what the command line says of an endpoint."""

    url: str
    model: str | None
    key_env: str | None
    yes: bool
    arithmetic: str | None
    concurrency: int
    timeout: float


def ask_question(arguments: EndpointArguments, question: str, how: HowToAsk) -> Reply:
    """Ask one question, once the user agrees that it is sent.

    Raises:
        SpecError, EndpointError: as `ask_at` and `agree`.
    """
    need_extra("lab", "asking a model")
    from narrowly.models.endpoint.address import address_of
    from narrowly.workbench.ask_endpoint import ask_at, check_question

    address = address_of(arguments.url, arguments.model, arguments.key_env)
    check_question(question, how)
    agree(address, "the question", arguments.yes)
    backend = _opened(arguments, how)
    with error_console().status("asking the model"):
        return ask_at(backend, question, how)


def _opened(arguments: EndpointArguments, how: HowToAsk) -> EndpointBackend:
    from narrowly.models.endpoint.address import address_of

    return opened(
        address_of(arguments.url, arguments.model, arguments.key_env),
        arguments.timeout,
        arithmetic=arguments.arithmetic,
        thinking=how.thinking,
        system=how.system,
        concurrency=arguments.concurrency,
    )


def ask_bank(arguments: EndpointArguments, bank: str, out: Path, how: HowToAsk, as_json: bool) -> int:
    """Ask a bank and print what came of it; return the exit code.

    Raises:
        SpecError, EndpointError: as `endpoint_bank` and `ask_bank_at`.
    """
    need_extra("lab", "asking a model")
    from narrowly.models.endpoint.address import address_of
    from narrowly.workbench.ask_bank import AskedBank
    from narrowly.workbench.ask_endpoint import ask_bank_at, endpoint_bank

    address = address_of(arguments.url, arguments.model, arguments.key_env)
    request = endpoint_bank(address, bank, out, how, arguments.arithmetic)
    if request.written:
        error_console().print(f"{safe(out)} has {len(request.written)} answers of this request; it goes on from there")
    if not request.missing:
        cut = sum(answer.finish_reason == "length" for answer in request.written)
        return _print(AskedBank(len(request.written), 0, cut), out, how, as_json)
    agree(address, counted(len(request.missing), "question"), arguments.yes)
    backend = _opened(arguments, how)
    try:
        with StepProgress("asking") as progress:
            done = ask_bank_at(request, backend, progress.on_step)
    except KeyboardInterrupt as stop:  # typer would leave its words out
        complain(f"narrowly: {str(stop) or 'stopped'}")
        return 130
    return _print(done, out, how, as_json)


def _print(done: AskedBank, out: Path, how: HowToAsk, as_json: bool) -> int:
    if as_json:
        print_json({"out": str(out), **done._asdict()})
        return 0
    cut = f", {done.cut} of them cut at {how.sampling.max_new_tokens} tokens" if done.cut else ""
    say(f"{done.total} answers in {safe(out)}{cut}; {done.new} written now")
    say("not judged", "yellow")
    return 0
