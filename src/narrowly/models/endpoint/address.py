"""Say where a server is and which key it gets: what an address may hold, and when text leaves this machine."""

from __future__ import annotations

import ipaddress
import os
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from narrowly.records.errors import SpecError

DEFAULT_KEY = "OPENAI_API_KEY"
"""Environment variable that holds the key of a hosted server, as in OpenAI's own client."""


class Address(NamedTuple):
    """Hold where a model is served.

    Attributes:
        url: root of the API without a slash at its end, for instance http://127.0.0.1:8000/v1.
        model: its name there.
        key: sent as a bearer token; None sends none. It is never written anywhere.
        key_name: environment variable that the key came from.
    """

    url: str
    model: str
    key: SecretStr | None = None
    key_name: str | None = None

    @property
    def host(self) -> str:
        """Return scheme, host and port, as a user is asked about them."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def is_loopback(self) -> bool:
        """Return whether it is on this machine, so that no text leaves it."""
        return is_loopback(urlsplit(self.url).hostname or "")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name or its address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(url: str, model: str | None, key_env: str | None = None) -> Address:
    """Return the address that a user gives, with its key from the environment.

    Args:
        url: root of the API, http or https.
        model: name of the model there.
        key_env: environment variable with the key. None takes `DEFAULT_KEY` where it is set, but only for a server
            elsewhere: one on this machine gets a key only where its variable is named.

    Raises:
        SpecError: no such URL, one that holds a secret, no model, or a variable that is not set.
    """
    parts = _parts(url)
    if model is None or not model.strip():
        raise SpecError("--endpoint needs the model's name there; give it with --model NAME")
    address = Address(url.rstrip("/"), model)
    if key_env is None:
        if is_loopback(parts.hostname or "") or not os.environ.get(DEFAULT_KEY):
            return address
        key_env = DEFAULT_KEY
    return address._replace(key=SecretStr(_key(key_env)), key_name=key_env)


def _parts(url: str) -> SplitResult:
    accepted = "accepted: the root of its API, for instance http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port  # refuses a port that is none
    except ValueError as error:
        raise SpecError(f"--endpoint is no URL ({error}); {accepted}") from None
    if parts.username is not None or parts.password is not None:
        raise SpecError(f"--endpoint holds a name or a password; keys are given with --key-env NAME; {accepted}")
    if parts.query or parts.fragment:
        raise SpecError(f"--endpoint has a query or a fragment, which may be a key and would be recorded; {accepted}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"--endpoint is {url!r}; {accepted}")
    if parts.path.rstrip("/").endswith(("/completions", "/models", "/responses")):
        raise SpecError(f"--endpoint is {url!r}, one request of an API; {accepted}")
    return parts


def _key(name: str) -> str:
    key = os.environ.get(name, "").strip()
    if not key:
        raise SpecError(f"the environment variable {name} is not set; put the server's key there (--key-env {name})")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SpecError(f"the environment variable {name} holds no key (a blank or a character that is not ASCII)")
    return key


def what_leaves(address: Address, texts: str) -> str:
    """Return in words what would be sent where, for the user's consent; empty where nothing leaves this machine.

    Args:
        address: of the server.
        texts: what is sent, in words, such as "96 questions".
    """
    if address.is_loopback:
        return ""
    plain = ", unencrypted" if urlsplit(address.url).scheme == "http" else ""
    key = f", with the key in {address.key_name}" if address.key_name else ""
    return f"{texts} would be sent to {address.host} (model {address.model}){plain}{key}"
