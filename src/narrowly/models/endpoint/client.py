"""Send requests to a server, and try them again where that may help: time-outs, failures and broken answers.

Safe to be used by several threads. A server that asks to be left alone is left alone by all of them. A server that was
never reached is not waited for: its address is wrong, or it does not run.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import httpx2

from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.waiting import PATIENCE, back_off, retry_after
from narrowly.records.errors import EndpointError

Parsed = TypeVar("Parsed")

TRIES = 8
"""Times that a request may fail; the waits between them add up to two minutes or less. A 429 does not count: it ends
when its waits add up to `PATIENCE`."""

TIMEOUT = 600.0
"""Seconds without a byte of the answer. Servers send a whole answer at its end, so that it must be long."""

LONGEST_CONNECT = 20.0
"""Seconds to wait for a connection."""

LARGEST = 64 * 1024 * 1024
"""Bytes of an answer; the log-probabilities of the longest prompts take a few of these megabytes."""

_TRIED_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Status codes that may pass: time-outs, too many requests, and failures of the server or of what is before it."""

_LACKING = frozenset({500, 501})
"""Status codes with which some servers answer a field that they do not have."""

BETWEEN_NOTICES = 5.0
"""Seconds between two notices of tries, so that many requests that fail together do not each say so."""

SHORTEST_HIDDEN = 8
"""Characters of a key from which on it is taken out of everything that a server says."""


class Failure(NamedTuple):
    """Hold what became of one try: in words, whether another may help, the status, and how long the server asks for."""

    words: str
    again: bool
    status: int | None = None
    wait: float | None = None


class Client:
    """A connection to one server.

    Args:
        address: of the server.
        timeout: seconds without a byte before a try is given up.
        tries: times that a request is sent at most.
        sleep: waits for some seconds; tests give one that does not.
        notice: told in words that a request is tried again, at most every `BETWEEN_NOTICES` seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float = TIMEOUT,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
        notice: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.address, self.timeout, self._tries, self._sleep = address, timeout, tries, sleep
        self._notice, self._noticed = notice, -math.inf
        self._reached = False
        self.sent = 0
        """Requests sent, every try counted."""
        self._lock = threading.Lock()
        self._alone_until = 0.0
        headers = {"User-Agent": "narrowly"}
        if address.key is not None:
            headers["Authorization"] = f"Bearer {address.key.get_secret_value()}"
        self._connecting = min(timeout, LONGEST_CONNECT)
        # no redirects: text and key go to the host that was named; no proxy in front of this machine
        self._http = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=self._connecting),
            follow_redirects=False,
            trust_env=not address.is_loopback,
            limits=httpx2.Limits(max_connections=None),
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def post(
        self, path: str, body: Mapping[str, Any], parse: Callable[[Any], Parsed], *, optional: bool = False
    ) -> Parsed:
        """Send a request and return what its answer is parsed to.

        Args:
            path: behind the root of the API, with a slash in front.
            body: sent as JSON.
            parse: takes the answer's JSON; a ValueError means that it is broken, and the request is sent again.
            optional: whether the server may lack what is asked for; it then has two tries to say so with a failure.

        Raises:
            EndpointError: no try gave an answer that can be used.
        """
        return self._request("POST", path, body, parse, optional)

    def get(self, path: str, parse: Callable[[Any], Parsed]) -> Parsed:
        """Ask for something that needs no body, as `post` does."""
        return self._request("GET", path, None, parse, True)

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, parse: Callable[[Any], Parsed], optional: bool
    ) -> Parsed:
        failures, counted, waited = 0, 0, 0.0
        while True:
            self._wait_for_the_server()
            found = self._once(method, path, body, parse)
            if not isinstance(found, Failure):
                return found
            failures += 1
            counted += found.status != 429  # too many requests is no failure of this one: only the waits add up
            wait = back_off(failures, random.random()) if found.wait is None else found.wait
            waited += wait
            tries = min(2, self._tries) if optional and found.status in _LACKING else self._tries
            if not found.again or counted >= tries or waited > PATIENCE:
                raise EndpointError(self._in_words(path, found, failures), status=found.status)
            if found.status in (429, 503):
                with self._lock:
                    self._alone_until = max(self._alone_until, time.monotonic() + wait)
            self._tell(path, found, f"failure {counted} of {tries}" if counted else "too many requests", wait)
            self._sleep(wait)

    def _tell(self, path: str, failure: Failure, count: str, wait: float) -> None:
        """Say that a request is tried again, unless that was just said of another."""
        now = time.monotonic()
        with self._lock:
            if now - self._noticed < BETWEEN_NOTICES:
                return
            self._noticed = now
        status = "" if failure.status is None else f"{failure.status} "
        self._notice(f"{self._where(path)}: {status}{failure.words}; trying again in {wait:.1f} s ({count})")

    def _wait_for_the_server(self) -> None:
        with self._lock:
            left = self._alone_until - time.monotonic()
        if left > 0:
            self._sleep(left)

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None, parse: Callable[[Any], Parsed]
    ) -> Parsed | Failure:
        with self._lock:
            self.sent += 1
        try:
            with self._http.stream(method, self.address.url + path, json=body) as reply:
                self._reached = True
                text = self._hidden(_body(reply).decode("utf-8"))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:  # a server that was there may come back
            slow = isinstance(error, httpx2.ConnectTimeout)
            words = f"no connection within {self._connecting:g} s" if slow else self._failed(error)
            return Failure(words, self._reached)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            self._reached = True
            slow = isinstance(error, httpx2.TimeoutException)
            return Failure(f"no answer within {self.timeout:g} s" if slow else self._failed(error), True)
        except UnicodeDecodeError:
            return Failure("an answer that is no UTF-8", True)
        except _TooLargeError:
            return Failure(f"an answer of more than {LARGEST} bytes", False)
        if reply.status_code != 200:
            wait = retry_after(reply.headers.get("retry-after"))
            return Failure(_said(text), reply.status_code in _TRIED_AGAIN, reply.status_code, wait)
        try:
            return parse(_json(text))
        except (ValueError, RecursionError) as error:
            return Failure(f"an answer that cannot be used ({self._hidden(str(error))})", True)

    def _failed(self, error: Exception) -> str:
        return f"the connection failed ({self._hidden(str(error)) or type(error).__name__})"

    def _hidden(self, text: str) -> str:
        """Return a text of the server without the key, which some servers repeat."""
        key = None if self.address.key is None else self.address.key.get_secret_value()
        return text.replace(key, "[key]") if key is not None and len(key) >= SHORTEST_HIDDEN else text

    def _where(self, path: str) -> str:
        return f"{self.address.host}{path_of(self.address.url)}{path}"

    def _in_words(self, path: str, failure: Failure, failures: int) -> str:
        """Return one line: where, what happened, and what a user can do."""
        where = self._where(path)
        times = "" if failures == 1 else f" ({failures} tries)"
        if failure.status is None:
            return f"{where}: {failure.words}{times}; is the server running, and is this the root of its API?"
        name = self.address.key_name
        advice = {
            401: f"the key in {name} is not accepted" if name else "it wants a key; name its variable with --key-env",
            403: f"the key in {name} may not do this" if name else "it wants a key; name its variable with --key-env",
            404: f"there is no such request, or no model {self.address.model!r}",
            429: "too many requests, or the quota is used up; fewer at a time with --concurrency",
        }.get(failure.status, "the server failed" if failure.status >= 500 else "it refuses the request")
        if failure.wait is not None and failure.wait > PATIENCE:
            advice += f"; it asks to come back in {failure.wait:.0f} s"
        return f"{where}: {failure.status}{times}, {advice}; it says: {failure.words or '(nothing)'}"


def path_of(url: str) -> str:
    """Return the path of a URL."""
    return httpx2.URL(url).path.rstrip("/")


class _TooLargeError(Exception):
    """An answer is larger than any that is asked for."""


def _body(reply: httpx2.Response) -> bytes:
    """Read an answer whole, up to `LARGEST` bytes."""
    parts, size = [], 0
    for part in reply.iter_bytes():
        size += len(part)
        if size > LARGEST:
            raise _TooLargeError
        parts.append(part)
    return b"".join(parts)


def _json(text: str) -> Any:
    if text.startswith(("data:", "event:")):
        raise ValueError("it is streamed, which was not asked for")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error}") from None
    if isinstance(value, dict) and value.get("error") and "choices" not in value:
        raise ValueError(f"it says: {_said(text)}")
    return value


def _said(text: str) -> str:
    """Return the message in a server's answer to a refused request, shortened."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        inner = value.get("error", value)
        found = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
        if found is not None:
            text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return " ".join(text.split())[:300]
