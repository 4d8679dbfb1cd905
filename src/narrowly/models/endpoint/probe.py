"""Find out what a server does before it is believed: does it sample, does a seed repeat, are requests independent?

Servers take fields and ignore them without a word: `transformers serve` 5.23 answers greedily whatever the temperature
unless its sampling comes in generation_config, and has one seed for all requests.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from narrowly.data.messages import Message
from narrowly.models.endpoint.chat import CHAT, DIALECTS, ChatReply, chat_body, read_chat, sampling_fields
from narrowly.models.endpoint.client import Client
from narrowly.records.answers import Sampling
from narrowly.records.arithmetic import UNKNOWN
from narrowly.records.canonical import sha256_text
from narrowly.records.endpoints import Dialect, EndpointProbe, Honoured
from narrowly.records.errors import EndpointError, SpecError, nearest

TOKENS = 24
"""Tokens of a probe's answer: enough that two samples of any chat model differ."""

SEEDS = (1, 2, 3, 4)
"""Of the samples that should differ."""

WIDER = 2.0
"""Temperature at which a model that is sure of itself is asked again, the largest that OpenAI takes."""

QUESTION = "Write one sentence about whatever comes to your mind first."

Step = Callable[[str], None]
"""Told what is tried next."""


class _Prober:
    """Ask a server the probe's question in one dialect."""

    def __init__(self, client: Client, dialect: Dialect, thinking: bool | None, system: str | None) -> None:
        self.client, self.dialect, self.thinking = client, dialect, thinking
        user = Message("user", QUESTION)
        self.messages = (user,) if system is None else (Message("system", system), user)

    def body(
        self, temperature: float, seed: int, *, tokens: int = TOKENS, top_k: int | None = None, **more: Any
    ) -> dict[str, Any]:
        sampling = Sampling(temperature=temperature, max_new_tokens=tokens)
        fields = sampling_fields(self.dialect, sampling, seed, thinking=self.thinking, top_k=top_k)
        return chat_body(self.client.address.model, self.messages, {**fields, **more})

    def ask(self, temperature: float, seed: int, optional: bool = False, **more: Any) -> ChatReply:
        return self.client.post(CHAT, self.body(temperature, seed, **more), read_chat, optional=optional)

    def said(self, temperature: float, seed: int, **more: Any) -> str:
        """Return all that was written: an answer cut inside its thoughts has no other text."""
        reply = self.ask(temperature, seed, **more)
        return reply.thought + reply.text


def probe(
    client: Client, *, thinking: bool | None = None, system: str | None = None, step: Step = lambda words: None
) -> EndpointProbe:
    """Ask a server some twenty short questions and say what it does.

    Args:
        client: of the server.
        thinking: mode of the prompts; None sends none.
        system: system message of the prompts.
        step: told what is tried next.

    Raises:
        EndpointError: it cannot be asked at all.
        SpecError: it has no such model, takes no thinking mode, or thinks though it was not asked to.
    """
    step("which fields it takes")
    prober, greedy = _first_answer(client, thinking, system)
    _check_thoughts(prober, greedy)
    first = greedy.thought + greedy.text
    again = prober.said(0.0, 0)
    step("whether it samples")
    temperature, texts = _samples(prober)
    samples = len(set(texts)) > 1
    repeats = None
    alone = None
    if samples:
        step("whether a seed repeats")
        repeats = prober.said(temperature, SEEDS[0]) == texts[0]
    if repeats or (not samples and first == again):
        step("whether requests are independent")
        alone = _alone(prober, temperature if samples else 0.0)
    step("which other fields it honours")
    return EndpointProbe(
        dialect=prober.dialect,
        samples=samples,
        seed_repeats=repeats,
        greedy_repeats=first == again,
        greedy_sha256=sha256_text(first),
        alone=alone,
        n=_choices(prober),
        logprobs=_logprobs(prober),
        top_k=_top_k(prober, temperature) if samples else "not tested",
        engine=_engine(client),
    )


def _engine(client: Client) -> str:
    """Return what a server's list of models says of who computes ours; `unknown` where it does not."""

    def owner(value: Any) -> str:
        listed = value.get("data") if isinstance(value, dict) else None
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict) and one.get("id") == client.address.model and isinstance(one.get("owned_by"), str):
                return str(one["owned_by"])[:60] or UNKNOWN
        return UNKNOWN

    try:
        return client.get("/models", owner)
    except EndpointError:
        return UNKNOWN


def _first_answer(client: Client, thinking: bool | None, system: str | None) -> tuple[_Prober, ChatReply]:
    """Return a greedy answer in the first dialect that the server takes."""
    refusal: Exception | None = None
    for dialect in DIALECTS:
        prober = _Prober(client, dialect, thinking, system)
        try:
            return prober, prober.ask(0.0, 0)
        except EndpointError as error:
            if error.status not in (400, 404, 422):
                raise
            _check_model(client, error)
            refusal = refusal or error
        except SpecError as error:  # a dialect without a thinking mode
            raise error from refusal
    assert refusal is not None
    raise refusal


def _check_model(client: Client, error: EndpointError) -> None:
    """Refuse a model that a server does not list, where it lists any."""
    try:
        served = client.get("/models", _names)
    except EndpointError:
        served = []
    name = client.address.model
    if served and name not in served and (error.status == 404 or name in str(error)):
        shown = ", ".join(served[:10])
        raise SpecError(
            f"{client.address.host} serves no model {name!r}{nearest(name, served)} (it serves: {shown})"
        ) from error


def _names(value: Any) -> list[str]:
    listed = value.get("data") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no list of models in it")
    return [one["id"] for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]


def _check_thoughts(prober: _Prober, reply: ChatReply) -> None:
    """Refuse a model that thinks unless it was asked to, and one whose thoughts nobody sees.

    The answers of the first are cut in the middle of a thought. Of the second there is nothing to compare.
    """
    if not (reply.thought or reply.text.strip()):
        raise SpecError(
            f"model {prober.client.address.model} wrote nothing within {TOKENS} tokens; it may think where its server "
            "does not show it, and cannot be tried; accepted: a model that answers at once"
        )
    if prober.thinking or not (reply.thought or reply.text.lstrip().startswith("<think>")):
        return
    model = prober.client.address.model
    if prober.thinking is None:
        raise SpecError(f"model {model} thinks before it answers; say --thinking or --no-thinking")
    raise SpecError(f"model {model} thinks before it answers though --no-thinking was sent; its server ignores that")


def _samples(prober: _Prober) -> tuple[float, list[str]]:
    """Return the temperature at which several seeds were tried, and what they gave."""
    texts = [prober.said(1.0, seed) for seed in SEEDS]
    if len(set(texts)) > 1:
        return 1.0, texts
    try:
        return WIDER, [prober.said(WIDER, seed) for seed in SEEDS]
    except EndpointError as error:
        if error.status not in (400, 422):  # a server that takes no temperature above 1
            raise
        return 1.0, texts


def _alone(prober: _Prober, temperature: float) -> bool:
    """Return whether a request is answered as before while others run: some begun before it, some while it runs."""
    tokens = 2 * TOKENS
    started = time.monotonic()
    expected = prober.said(temperature, SEEDS[0], tokens=tokens)
    took = time.monotonic() - started
    return all(
        _beside_others(prober, temperature, tokens, delay) == expected for delay in (-took / 4, took / 8, took / 2)
    )


def _beside_others(prober: _Prober, temperature: float, tokens: int, delay: float) -> str:
    """Return what a request is answered while two others run, begun `delay` seconds after it (before it, if below 0).

    Raises:
        EndpointError: it was not answered; the others may fail.
    """

    def other(seed: int) -> None:
        with contextlib.suppress(EndpointError):  # only the load counts
            prober.said(temperature, seed, tokens=tokens)

    threads = [threading.Thread(target=other, args=(seed,), daemon=True) for seed in (101, 102)]

    def start() -> None:
        for thread in threads:
            thread.start()

    if delay < 0:
        start()
        time.sleep(-delay)
        said = prober.said(temperature, SEEDS[0], tokens=tokens)
    else:
        timer = threading.Timer(delay, start)
        timer.start()
        said = prober.said(temperature, SEEDS[0], tokens=tokens)
        timer.join()
    for thread in threads:
        thread.join()
    return said


def _tried(ask: Callable[[], Honoured]) -> Honoured:
    """Return what a field was found to do, `refused` where the server answers with an error."""
    try:
        return ask()
    except EndpointError as error:
        if error.status in (None, 401, 403, 429, 503):
            raise
        return "refused"


def _choices(prober: _Prober) -> Honoured:
    return _tried(
        lambda: "yes" if len(prober.ask(1.0, SEEDS[0], optional=True, tokens=4, n=2).texts) == 2 else "ignored"
    )


def _logprobs(prober: _Prober) -> Honoured:
    """Return whether log-probabilities come, and are those of the tokens written."""

    def ask() -> Honoured:
        reply = prober.ask(1.0, SEEDS[0], optional=True, tokens=8, logprobs=True, top_logprobs=2)
        if reply.tokens is None:
            return "ignored"
        written = "".join(token for token, _ in reply.tokens)
        whole = reply.thought + reply.text
        # the last token listed may be the end of the turn, which is not in the text
        fits = written.startswith(whole) or (whole.startswith(written) and reply.finish_reason == "length")
        return "yes" if fits and all(value <= 0 for _, value in reply.tokens) else "wrong"

    return _tried(ask)


def _top_k(prober: _Prober, temperature: float) -> Honoured:
    if prober.dialect not in ("full", "transformers"):
        return "not tested"
    return _tried(
        lambda: "yes" if len({prober.said(temperature, seed, top_k=1) for seed in SEEDS[:3]}) == 1 else "ignored"
    )
