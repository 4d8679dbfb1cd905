"""Log-likelihoods through a server are those of the same model here, and a server that gives others is not believed."""

from __future__ import annotations

from typing import Any

import pytest

from chat_server import ChatServer, Scorer, chat_server
from narrowly.data.messages import Conversation, Message
from narrowly.models.backend import Request, require
from narrowly.models.base import load_model, load_tokenizer, open_base
from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.backend import EndpointBackend, open_endpoint
from narrowly.models.endpoint.client import Client
from narrowly.models.likelihood import scored_texts
from narrowly.models.local_backend import LocalBackend
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.likelihood import ScoredText
from small_chat_base import make_chat_base

ROUTES = ["prompt_logprobs", "echo", "echo_text"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    base = open_base(str(make_chat_base(tmp_path_factory.mktemp("base") / "chat")))
    return LocalBackend(load_model(base, "float32", "cpu").eval(), load_tokenizer(base), "tiny")


@pytest.fixture
def texts(local: LocalBackend) -> list[ScoredText]:
    said = [
        Conversation((Message("user", f"what is {word}"), Message("assistant", f"{word} file of the def")), 1, {})
        for word in ("open", "read", "naïve 42")
    ]
    return scored_texts(local.tokenizer, said, closing=True)


def serving(local: LocalBackend, **settings: Any) -> Any:
    return chat_server(scorer=Scorer(local.model, local.tokenizer), **settings)


def opened(server: ChatServer, local: LocalBackend) -> EndpointBackend:
    client = Client(Address(server.url, "tiny"), sleep=lambda wait: None)
    return open_endpoint(client, tokenizer=local.tokenizer)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_log_likelihoods_of_the_model_behind_it(
    route: str, local: LocalBackend, texts: list[ScoredText]
) -> None:
    with serving(local, routes=frozenset({route})) as server:
        backend = opened(server, local)
        assert backend.found.likelihood == route
        assert backend.found.likelihood_difference == pytest.approx(0, abs=1e-4)
        require(backend, Request.LOGLIKELIHOODS, "the paired bank")
        seen: list[tuple[int, int]] = []
        found = backend.loglikelihoods(texts, lambda done, total: seen.append((done, total)))
        for one, other in zip(found, local.loglikelihoods(texts), strict=True):
            assert one.tokens == other.tokens
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert seen[-1] == (len(texts), len(texts))


def test_the_likeliest_next_tokens_are_those_of_the_model_and_said_not_to_be_all(
    local: LocalBackend, texts: list[ScoredText]
) -> None:
    prompts = [text.prompt for text in texts]
    with serving(local, routes=frozenset({"echo"})) as server:
        found = opened(server, local).next_tokens(prompts, 3)
    for one, other in zip(found, local.next_tokens(prompts, 3), strict=True):
        assert not one.whole and one.tokens[0] == other.tokens[0]
        assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=1e-4)


@pytest.mark.parametrize("shift", [-0.5, 0.4])
def test_a_server_that_scores_a_text_otherwise_than_it_wrote_it_is_not_believed(
    shift: float, local: LocalBackend
) -> None:
    with serving(local, routes=frozenset({"prompt_logprobs"}), shift=shift) as server:
        backend = opened(server, local)
        assert backend.found.likelihood is None and backend.can == {Request.GENERATION}
        with pytest.raises(SpecError, match=r"nats per token away|are those sent"):
            require(backend, Request.LOGLIKELIHOODS, "the paired bank")


def test_a_server_that_ignores_logprobs_or_has_no_completions_gives_no_log_likelihoods(local: LocalBackend) -> None:
    with serving(local, routes=frozenset()) as server:
        assert opened(server, local).found.likelihood is None
    with chat_server() as server:
        backend = opened(server, local)
        with pytest.raises(SpecError, match="404"):
            require(backend, Request.LOGLIKELIHOODS, "the paired bank")


def test_a_server_with_another_tokenizer_is_caught_when_it_scores(local: LocalBackend, texts: list[ScoredText]) -> None:
    with serving(local, routes=frozenset({"echo"})) as server:
        backend = opened(server, local)
        decode = local.tokenizer.decode
        server.scorer.tokenizer = type("Other", (), {"decode": staticmethod(lambda ids: decode([5] * len(ids)))})
        with pytest.raises(IntegrityError, match="its log-probabilities are not used"):
            backend.loglikelihoods(texts)
