"""Requests to a server: what is tried again and how often, what is said of a refusal, where a key may go."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from chat_server import ChatServer, chat_server
from narrowly.data.messages import Message
from narrowly.models.endpoint import client as client_module
from narrowly.models.endpoint.address import Address, address_of, what_leaves
from narrowly.models.endpoint.chat import CHAT, chat_body, read_chat, sampling_fields
from narrowly.models.endpoint.client import Client
from narrowly.models.endpoint.waiting import LONGEST_WAIT, PATIENCE, back_off, retry_after
from narrowly.records.answers import Sampling
from narrowly.records.errors import EndpointError, SpecError

KEY = "sk-test-0123456789abcdef"


def ask(client: Client, question: str = "why") -> Any:
    fields = sampling_fields("full", Sampling(max_new_tokens=8), 1)
    return client.post(CHAT, chat_body(client.address.model, (Message("user", question),), fields), read_chat)


def opened(server: ChatServer, **settings: Any) -> tuple[Client, list[float]]:
    """Return a client that notes its waits and does not wait."""
    waits: list[float] = []
    return Client(Address(server.url, "tiny"), sleep=waits.append, **settings), waits


FAULTS = ["429", "500", "502", "503", "504", "408", "malformed", "truncated", "cut-chunks", "drop", "no-choices",
          "error-in-200", "streamed", "not-utf8"]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again_until_it_is_answered(fault: str) -> None:
    with chat_server(fault=lambda number, body: fault if number <= 3 else None) as server:
        client, waits = opened(server)
        assert ask(client).text
        assert (len(server.calls), len(server.answered), client.sent) == (4, 1, 4)
        assert len(waits) >= 3 and all(wait > 0 for wait in waits)  # a 429 or 503 also holds back the next request


@pytest.mark.parametrize("fault", ["400", "401", "403", "404", "422"])
def test_what_will_not_pass_is_asked_once(fault: str) -> None:
    with chat_server(fault=lambda number, body: fault) as server:
        client, waits = opened(server)
        with pytest.raises(EndpointError, match=f"{fault}.*it says: try later") as caught:
            ask(client)
        assert (len(server.calls), waits, caught.value.status) == (1, [], int(fault))
        assert "\n" not in str(caught.value)


def test_the_tries_end_and_the_error_says_how_many_there_were() -> None:
    with chat_server(fault=lambda number, body: "malformed") as server:
        client, waits = opened(server, tries=5)
        with pytest.raises(EndpointError, match=r"no JSON.*\(5 tries\)"):
            ask(client)
        assert (len(server.calls), len(waits)) == (5, 4)


def test_too_many_requests_end_when_their_waits_add_up_to_our_patience() -> None:
    with chat_server(fault=lambda number, body: "429:50") as server:
        client, _ = opened(server, tries=2)
        with pytest.raises(EndpointError, match=r"429 \(13 tries\), too many requests"):
            ask(client)
        assert len(server.calls) == PATIENCE / 50 + 1


def test_what_a_server_may_lack_has_two_tries_to_fail_and_as_many_as_anything_for_the_connection() -> None:
    for fault, tries in (("500", 2), ("501", 1), ("drop", 4), ("502", 4)):
        with chat_server(fault=lambda number, body, fault=fault: fault) as server:
            client, _ = opened(server, tries=4)
            with pytest.raises(EndpointError):
                client.post(CHAT, chat_body("tiny", (Message("user", "a"),), {}), read_chat, optional=True)
            assert len(server.calls) == tries


def test_waits_double_up_to_a_minute_and_are_never_less_than_half() -> None:
    assert [back_off(failures, 0.0) for failures in (1, 2, 3, 7, 40)] == [1, 2, 4, LONGEST_WAIT, LONGEST_WAIT]
    assert back_off(3, 0.999) == pytest.approx(2, rel=1e-3)


def test_a_wait_that_the_server_names_is_kept_to() -> None:
    now = datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert retry_after("7") == 7 and retry_after("0.5") == 0.5 and retry_after("-3") == 0
    assert retry_after("Sun, 29 Nov 2026 12:01:00 GMT", now) == 60
    assert [retry_after(text) for text in (None, "soon", "nan", "inf")] == [None] * 4
    with chat_server(fault=lambda number, body: "429:7" if number == 1 else None) as server:
        client, waits = opened(server)
        ask(client)
        assert 7.0 in waits and max(waits) == 7.0


def test_a_server_that_wants_to_be_left_alone_for_long_ends_the_run_with_its_words() -> None:
    with chat_server(fault=lambda number, body: "429:86400") as server:
        client, waits = opened(server)
        with pytest.raises(EndpointError, match=r"86400 s.*try later"):
            ask(client)
        assert (len(server.calls), waits) == (1, [])


def test_after_a_429_other_requests_wait_too() -> None:
    with chat_server(fault=lambda number, body: "429:5" if number == 1 else None) as server:
        client, waits = opened(server)
        ask(client)
        before = len(waits)
        ask(client, "another")
        assert waits[before:] and waits[before] == pytest.approx(5, abs=0.5)


def test_nothing_listening_and_a_slow_server_are_told_apart() -> None:
    with chat_server() as server:
        url = server.url
    with pytest.raises(EndpointError, match=r"connection failed.*is the server running"):
        ask(Client(Address(url, "tiny"), tries=2))
    with (
        chat_server(slow=1.0) as server,
        pytest.raises(EndpointError, match=r"no answer within 0\.1 s \(2 tries\)"),
    ):
        ask(Client(Address(server.url, "tiny"), timeout=0.1, tries=2, sleep=lambda wait: None))


def test_a_server_that_was_never_reached_is_not_tried_again_and_one_that_was_is_waited_for() -> None:
    waits: list[float] = []
    notices: list[str] = []
    with chat_server() as server:
        port = server.server_port
    client = Client(Address(server.url, "tiny"), sleep=waits.append, notice=notices.append)
    with pytest.raises(EndpointError, match=r"^http://127\.0\.0\.1:\d+/v1/chat/completions: the connection") as caught:
        ask(client)
    assert (client.sent, waits, notices) == (1, [], []) and "\n" not in str(caught.value)
    with ExitStack() as stack:  # it drops a request, and is gone while the client waits
        stack.enter_context(chat_server(port, fault=lambda number, body: "drop"))
        client = Client(Address(server.url, "tiny"), sleep=lambda wait: (waits.append(wait), stack.close())[0],
                        notice=notices.append)  # fmt: skip
        with pytest.raises(EndpointError, match=r"\(8 tries\); is the server running"):
            ask(client)
    assert (client.sent, len(waits)) == (8, 7)
    assert len(notices) == 1 and notices[0].startswith(
        f"http://127.0.0.1:{port}/v1/chat/completions: the connection failed"
    )
    assert re.search(r"; trying again in [\d.]+ s \(failure 1 of 8\)$", notices[0])


def test_a_notice_says_what_the_server_said_and_hides_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setattr(client_module, "BETWEEN_NOTICES", 0.0)
    faults = {1: "429:3", 2: "503", 3: "malformed"}
    notices: list[str] = []
    with chat_server(answer=lambda body: KEY, fault=lambda number, body: faults.get(number)) as server:
        address = address_of(server.url, "tiny", "MY_KEY")
        assert ask(Client(address, sleep=lambda wait: None, notice=notices.append)).text == "[key]"
    first, second, third = notices
    assert first.endswith("429 try later; trying again in 3.0 s (too many requests)")
    assert "503 try later; trying again in" in second and second.endswith("(failure 1 of 8)")
    assert "an answer that cannot be used" in third and third.endswith("(failure 2 of 8)")
    assert KEY not in "".join(notices)


def test_a_redirect_takes_neither_text_nor_key_to_another_host() -> None:
    with chat_server() as other, chat_server(fault=lambda number, body: "307") as server:
        client, _ = opened(server)
        with pytest.raises(EndpointError, match="307"):
            ask(client)
        assert other.calls == []


def test_a_key_goes_only_into_the_header_and_out_of_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with chat_server(key="another-key-altogether") as server:
        address = address_of(server.url, "tiny", "MY_KEY")
        assert KEY not in repr(address) and KEY not in str(address)
        with pytest.raises(EndpointError, match=r"401.*the key in MY_KEY is not accepted.*\[key\]") as caught:
            ask(Client(address))
        assert KEY not in str(caught.value)
        assert server.calls[0].authorization == f"Bearer {KEY}"
    with chat_server(key=KEY, answer=lambda body: f"you sent {KEY}") as server:
        reply = ask(Client(address_of(server.url, "tiny", "MY_KEY")))
        assert reply.text == "you sent [key]"


def test_the_usual_key_goes_to_no_server_on_this_machine_and_elsewhere_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    here = address_of("http://localhost:8000/v1/", "m")
    assert here.key is None and here.is_loopback and what_leaves(here, "9 questions") == ""
    there = address_of("http://api.example.org/v1", "m")
    assert there.key is not None and not there.is_loopback
    said = what_leaves(there, "9 questions")
    assert said == (
        "9 questions would be sent to http://api.example.org (model m), unencrypted, with the key in OPENAI_API_KEY"
    )
    monkeypatch.delenv("OPENAI_API_KEY")
    assert address_of("https://api.example.org/v1", "m").key is None
    assert (
        what_leaves(address_of("https://[2001:db8::1]:8/v1", "m"), "1 question").count("https://[2001:db8::1]:8") == 1
    )
    assert address_of("http://[::1]:8/v1", "m").is_loopback and address_of("http://127.8.0.1/v1", "m").is_loopback
    assert not address_of("http://127.0.0.1.example.org/v1", "m").is_loopback


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:secret@example.org/v1", "a name or a password"),
        ("https://example.org/v1?key=secret", "a query"),
        ("https://example.org/v1#secret", "a fragment"),
        ("ftp://example.org", "'ftp://example.org'; accepted: the root"),
        ("example.org/v1", "accepted: the root of its API"),
        ("http://example.org:port/v1", "no URL"),
        ("http://127.0.0.1:8000/v1/chat/completions", "one request of an API"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_the_secret(
    url: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        address_of(url, "m")
    assert "secret" not in str(caught.value)


def test_a_variable_that_is_not_set_or_holds_no_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(SpecError, match="NO_SUCH is not set"):
        address_of("http://127.0.0.1/v1", "m", "NO_SUCH")
    monkeypatch.setenv("BROKEN", "two words")
    with pytest.raises(SpecError, match="BROKEN holds no key") as caught:
        address_of("http://127.0.0.1/v1", "m", "BROKEN")
    assert "two words" not in str(caught.value)
    with pytest.raises(SpecError, match="--model NAME"):
        address_of("http://127.0.0.1/v1", " ")
