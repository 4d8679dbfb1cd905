"""What a server does is found out before it is believed: every kind of server in `chat_server` is told apart."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from chat_server import PLAIN, TRANSFORMERS, ChatServer, chat_server
from narrowly.data.messages import Message
from narrowly.models.backend import ChatPrompt, Request, require
from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.backend import EndpointBackend, open_endpoint
from narrowly.models.endpoint.client import Client
from narrowly.models.endpoint.probe import probe
from narrowly.records.answers import Sampling
from narrowly.records.endpoints import EndpointProbe
from narrowly.records.errors import EndpointError, NarrowlyWarning, SpecError


def client_of(server: ChatServer) -> Client:
    return Client(Address(server.url, server.models[0] if server.models else "tiny"), sleep=lambda wait: None)


def found(**settings: Any) -> EndpointProbe:
    with chat_server(**settings) as server:
        return probe(client_of(server))


def test_a_server_that_does_all_it_says_is_found_to() -> None:
    said = found()
    assert (said.dialect, said.samples, said.seed_repeats, said.greedy_repeats, said.alone) == (
        "full", True, True, True, True,
    )  # fmt: skip
    assert (said.n, said.logprobs, said.top_k, said.engine) == ("yes", "yes", "yes", "fake")
    assert said.likelihood is None and len(said.greedy_sha256) == 64


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"samples": False}, "samples", False),
        ({"samples": False}, "top_k", "not tested"),
        ({"seeds": False}, "seed_repeats", False),
        ({"seeds": False}, "alone", None),
        ({"greedy_repeats": False}, "greedy_repeats", False),
        ({"one_seed": True}, "alone", False),
        ({"one_seed": True}, "seed_repeats", True),
        ({"choices": "ignored"}, "n", "ignored"),
        ({"choices": "refused"}, "n", "refused"),
        ({"logprobs": "ignored"}, "logprobs", "ignored"),
        ({"logprobs": "refused"}, "logprobs", "refused"),
        ({"logprobs": "wrong"}, "logprobs", "wrong"),
        ({"logprobs": "malformed"}, "logprobs", "wrong"),
        ({"top_k": False}, "top_k", "ignored"),
        ({"fields": PLAIN}, "dialect", "plain"),
        ({"fields": PLAIN}, "top_k", "not tested"),
        ({"fields": TRANSFORMERS}, "dialect", "transformers"),
        ({"fields": TRANSFORMERS}, "samples", True),
        ({"fields": PLAIN - {"max_tokens"} | {"max_completion_tokens"}}, "dialect", "completion_tokens"),
        ({"models": None}, "engine", "unknown"),
    ],
)  # fmt: skip
def test_what_a_server_lacks_is_found(settings: dict[str, Any], field: str, value: object) -> None:
    assert getattr(found(**settings), field) == value


def test_another_model_is_refused_with_those_that_are_served() -> None:
    with (
        chat_server(models=["organism-1", "base"]) as server,
        pytest.raises(SpecError, match=r"serves no model 'organism-2'; did you mean 'organism-1'\? \(it serves: org"),
    ):
        probe(Client(Address(server.url, "organism-2")))


def test_a_server_without_chat_says_so_in_one_line() -> None:
    with (
        chat_server(fields=frozenset()) as server,
        pytest.raises(EndpointError, match=r"422.*Unexpected keys") as caught,
    ):
        probe(client_of(server))
    assert "\n" not in str(caught.value)


def test_a_model_that_thinks_must_be_asked_with_a_mode() -> None:
    def thinking(body: dict[str, Any]) -> str:
        mode = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        return ("<think>\nhm\n</think>\n\n" if mode else "") + f"yes {body['seed']}"

    with chat_server(answer=thinking) as server:
        with pytest.raises(SpecError, match="say --thinking or --no-thinking"):
            probe(client_of(server))
        assert probe(client_of(server), thinking=False).samples
        assert probe(client_of(server), thinking=True).samples
    with (
        chat_server(answer=lambda body: "<think>\nhm") as server,
        pytest.raises(SpecError, match="though --no-thinking was sent"),
    ):
        probe(client_of(server), thinking=False)
    with chat_server(fields=PLAIN) as server, pytest.raises(SpecError, match="takes no thinking mode"):
        probe(client_of(server), thinking=False)


def test_a_model_that_writes_nothing_in_the_open_is_not_taken_for_a_greedy_one() -> None:
    with (
        chat_server(answer=lambda body: " ") as server,
        pytest.raises(SpecError, match="wrote nothing within 24 tokens"),
    ):
        probe(client_of(server))


def test_a_server_that_takes_no_temperature_above_one_is_still_tried() -> None:
    def fault(number: int, body: dict[str, Any]) -> str | None:
        return "400" if body["temperature"] > 1 else None

    with chat_server(samples=False, fault=fault) as server:
        assert probe(client_of(server)).samples is False


def backend(server: ChatServer, **settings: Any) -> EndpointBackend:
    return open_endpoint(client_of(server), **settings)


def test_samples_are_refused_of_a_server_that_answers_greedily_and_greedy_answers_are_not() -> None:
    with chat_server(samples=False) as server:
        asked = backend(server)
        before = len(server.calls)
        with pytest.raises(SpecError, match="answers greedily: four seeds gave one text"):
            asked.generate([ChatPrompt((Message("user", "a"),))], Sampling(temperature=0.7))
        assert len(server.calls) == before
        assert len(asked.generate([ChatPrompt((Message("user", "a"),))], Sampling(temperature=0))) == 1


PROMPTS = [ChatPrompt((Message("user", f"question {number}"),)) for number in range(8)]


def test_requests_that_change_each_other_are_sent_one_at_a_time() -> None:
    with chat_server(one_seed=True) as server:
        asked = backend(server, concurrency=4)
        server.most_running = 0
        with pytest.warns(NarrowlyWarning, match="one at a time"):
            written = asked.generate(PROMPTS, Sampling(max_new_tokens=8))
            again = asked.generate(PROMPTS[::-1], Sampling(max_new_tokens=8))
        assert server.most_running == 1
        assert [one.text for one in written] == [one.text for one in again[::-1]]


def test_as_many_requests_run_as_are_allowed_and_no_more() -> None:
    with chat_server() as server:
        asked = backend(server, concurrency=4)
        server.most_running = 0
        four = threading.Barrier(4, timeout=60)  # nobody is answered before four have come
        server.answer = lambda body: f"{four.wait() // 4} {body['seed']}"
        written = asked.generate(PROMPTS, Sampling(max_new_tokens=8))
        assert server.most_running == 4
        seeds = [asked.fields(Sampling(max_new_tokens=8), one.messages, 0)["seed"] for one in PROMPTS]
        assert [one.text for one in written] == [f"0 {seed}" for seed in seeds]


def test_a_seed_that_does_not_repeat_is_told() -> None:
    with chat_server(seeds=False) as server, pytest.warns(NarrowlyWarning, match="two texts for one seed"):
        backend(server).check_sampling(Sampling())
    with (
        chat_server(greedy_repeats=False) as server,
        pytest.warns(NarrowlyWarning, match="two texts for temperature 0"),
    ):
        backend(server).check_sampling(Sampling(temperature=0))


def test_a_measure_that_needs_log_likelihoods_is_refused_before_the_first_request_with_both_names() -> None:
    with chat_server() as server:
        asked = backend(server)
        before = len(server.calls)
        with pytest.raises(SpecError, match=r"the paired bank needs log-likelihoods.*model tiny at http.*--tokenizer"):
            require(asked, Request.LOGLIKELIHOODS, "the paired bank")
        require(asked, Request.GENERATION, "answers")
        assert len(server.calls) == before


def test_arithmetic_is_what_the_user_states_or_unknown_and_nothing_else() -> None:
    with chat_server() as server:
        stated = {text: backend(server, arithmetic=text).arithmetic for text in (None, "bfloat16", "q4_1", "awq")}
        assert [(one.dtype, one.quantisation) for one in stated.values()] == [
            ("unknown", None), ("bfloat16", None), ("unknown", "q4_1"), ("unknown", "awq"),
        ]  # fmt: skip
        before = len(server.calls)
        with pytest.raises(SpecError, match="--arithmetic is 'bflot16'; did you mean 'bfloat16'"):
            backend(server, arithmetic="bflot16")
        assert len(server.calls) == before
