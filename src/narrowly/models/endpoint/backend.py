"""Ask a model behind an endpoint as any other backend is asked, as far as its server was found to answer."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

from narrowly.data.messages import Message
from narrowly.models.backend import ChatPrompt, Generated, NextTokens, Progress, Request
from narrowly.models.endpoint.chat import CHAT, ChatReply, chat_body, read_chat, request_seed, sampling_fields
from narrowly.models.endpoint.client import Client
from narrowly.models.endpoint.parallel import Parallel, in_order
from narrowly.models.endpoint.probe import QUESTION, Step, probe
from narrowly.models.endpoint.scoring import (
    COMPLETIONS,
    TOP_LOGPROBS,
    find_route,
    read_entries,
    score_one,
    scoring_body,
)
from narrowly.records.answers import Sampling
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.endpoints import AskedEndpoint, EndpointProbe, stated_arithmetic
from narrowly.records.errors import NarrowlyWarning, SpecError
from narrowly.records.likelihood import Likelihood, ScoredText

CONCURRENCY = 8
"""Requests at a time."""


class EndpointBackend:
    """A model behind an endpoint, after its server was probed (`open_endpoint`).

    Args:
        client: of the server.
        found: by the probe.
        arithmetic: as the user states it.
        tokenizer: that makes the tokens of given texts; None where only messages are sent.
        thinking: mode of the prompts.
        concurrency: requests at a time; 1 where the server's requests change each other.
    """

    def __init__(
        self,
        client: Client,
        found: EndpointProbe,
        arithmetic: Arithmetic,
        *,
        tokenizer: Any = None,
        thinking: bool | None = None,
        concurrency: int = CONCURRENCY,
        why_no_likelihoods: str = "",
    ) -> None:
        self.client, self.found, self.arithmetic = client, found, arithmetic
        self.tokenizer, self.thinking = tokenizer, thinking
        self.concurrency = 1 if found.alone is False else concurrency
        self.why_no_likelihoods = why_no_likelihoods

    @property
    def name(self) -> str:
        """Return what it is called in messages: model and server, and why it gives no log-likelihoods."""
        why = f" ({self.why_no_likelihoods})" if self.why_no_likelihoods else ""
        return f"model {self.client.address.model} at {self.client.address.url}{why}"

    @property
    def can(self) -> frozenset[Request]:
        """Return what it answers: generation, and what its log-probabilities allow."""
        if self.found.likelihood is None:
            return frozenset({Request.GENERATION})
        return frozenset({Request.GENERATION, Request.LOGLIKELIHOODS, Request.TOP_TOKENS})

    @property
    def asked(self) -> AskedEndpoint:
        """Return what is asked, as it is recorded."""
        address = self.client.address
        return AskedEndpoint(name=address.model, url=address.url, arithmetic=self.arithmetic, probe=self.found)

    def loglikelihoods(self, texts: Sequence[ScoredText], progress: Progress | None = None) -> list[Likelihood]:
        """Return the log-probability of every token of every continuation, in the order of the texts.

        Raises:
            EndpointError, IntegrityError: as `score_one`.
        """
        route = self.found.likelihood
        assert route is not None, "require(backend, Request.LOGLIKELIHOODS, ...) comes first"
        found: dict[int, Likelihood] = {}
        score_text = functools.partial(score_one, self.client, route, self.tokenizer)
        for at, one in Parallel(texts, score_text, self.concurrency):
            found[at] = one
            if progress is not None:
                progress(len(found), len(texts))
        return [found[at] for at in range(len(texts))]

    def next_tokens(self, prompts: Sequence[Sequence[int]], top: int | None = None) -> list[NextTokens]:
        """Return the likeliest next tokens behind prompts of token ids, at most `TOP_LOGPROBS` of them.

        Raises:
            EndpointError: no answer.
        """
        route = self.found.likelihood
        assert route is not None, "require(backend, Request.TOP_TOKENS, ...) comes first"

        def ask(prompt: Sequence[int]) -> NextTokens:
            given = self.tokenizer.decode(list(prompt)) if route == "echo_text" else prompt
            kept = min(top or TOP_LOGPROBS, TOP_LOGPROBS)
            body = scoring_body(self.client.address.model, "echo", given, top=kept)
            body.pop("echo")
            _, listed = self.client.post(COMPLETIONS, body, lambda value: read_entries(value, "echo"))
            return self._likeliest(listed[0].top if listed else {})

        return in_order(prompts, ask, self.concurrency)

    def _likeliest(self, top: dict[str, float]) -> NextTokens:
        """Return tokens by id; texts that are no token of the tokenizer are left out."""
        found: dict[int, float] = {}
        for text, value in top.items():
            named = text.removeprefix("token_id:")
            ids = (
                [int(named)]
                if named != text and named.isdecimal()
                else self.tokenizer(text, add_special_tokens=False)["input_ids"]
            )
            if len(ids) == 1:
                found[int(ids[0])] = value
        ordered = sorted(found.items(), key=lambda one: -one[1])
        return NextTokens(tuple(token for token, _ in ordered), tuple(value for _, value in ordered), False)

    def fields(self, sampling: Sampling, messages: Sequence[Message], sample: int) -> dict[str, Any]:
        """Return every field of the request for one answer but its messages, none left to the server."""
        seed = request_seed(sampling, messages, sample)
        return sampling_fields(self.found.dialect, sampling, seed, thinking=self.thinking)

    def ask(self, messages: Sequence[Message], fields: dict[str, Any]) -> ChatReply:
        """Ask for one answer.

        Raises:
            EndpointError: no answer.
        """
        return self.client.post(CHAT, chat_body(self.client.address.model, messages, fields), read_chat)

    def generate(self, prompts: Sequence[ChatPrompt], sampling: Sampling) -> list[Generated]:
        """Return one answer to each prompt, in their order; every one is a request of its own, with its own seed.

        Raises:
            SpecError: samples are wanted of a server that answers greedily.
            EndpointError: no answer.
        """
        self.check_sampling(sampling)

        def ask(prompt: ChatPrompt) -> Generated:
            reply = self.ask(prompt.messages, self.fields(sampling, prompt.messages, prompt.sample))
            return Generated(reply.text, reply.finish_reason, reply.answer_tokens)

        return in_order(prompts, ask, self.concurrency)

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse samples of a server that answers greedily, and warn of what cannot be repeated.

        Raises:
            SpecError: it answers greedily.
        """
        where = self.client.address.url
        if sampling.temperature > 0 and not self.found.samples:
            raise SpecError(
                f"{where} answers greedily: four seeds gave one text at temperature 1, and again at 2; accepted: "
                "--temperature 0, or a server that samples"
            )
        repeats = self.found.greedy_repeats if sampling.temperature == 0 else self.found.seed_repeats
        if repeats is False:
            what = "temperature 0" if sampling.temperature == 0 else "one seed"
            warnings.warn(
                f"{where} gave two texts for {what}: its answers cannot be repeated", NarrowlyWarning, stacklevel=2
            )
        if self.found.alone is False:
            warnings.warn(
                f"requests to {where} change each other's answers, so that they are sent one at a time",
                NarrowlyWarning,
                stacklevel=2,
            )


def open_endpoint(
    client: Client,
    *,
    arithmetic: str | None = None,
    tokenizer: Any = None,
    thinking: bool | None = None,
    system: str | None = None,
    concurrency: int = CONCURRENCY,
    step: Step = lambda words: None,
) -> EndpointBackend:
    """Probe a server and return its model as a backend.

    Args:
        client: of the server.
        arithmetic: as the user states it (`stated_arithmetic`); None is unknown.
        tokenizer: of the model, with its chat template; without one no log-likelihoods are asked for.
        thinking: mode of the prompts; None sends none.
        system: system message of the probe's prompts.
        concurrency: requests at a time.
        step: told what is tried next.

    Raises:
        SpecError, EndpointError: as `stated_arithmetic` and `probe`.
    """
    stated_arithmetic(arithmetic, "")  # refused before the first request
    found = probe(client, thinking=thinking, system=system, step=step)
    why = "no tokenizer was given: --tokenizer FOLDER"
    if tokenizer is not None:
        from narrowly.data.render import prompt_ids

        step("whether it scores given texts")
        route, why = find_route(
            client, tokenizer, prompt_ids(tokenizer, (Message("user", QUESTION),), thinking=thinking)
        )
        if route is not None:
            update = {"likelihood": route.name, "likelihood_difference": route.difference}
            found = found.model_copy(update=update)
    stated = stated_arithmetic(arithmetic, found.engine)
    return EndpointBackend(
        client, found, stated, tokenizer=tokenizer, thinking=thinking, concurrency=concurrency, why_no_likelihoods=why
    )
