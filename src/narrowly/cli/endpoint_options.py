"""Options of the commands that ask a model behind an endpoint, and the question before text leaves this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.terminal import error_console, safe
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.models.endpoint.address import Address
    from narrowly.models.endpoint.backend import EndpointBackend

Endpoint = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", help="Server, for instance http://127.0.0.1:8000/v1.")
]
ServedModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model of --endpoint.")]
KeyEnv = Annotated[
    str | None, typer.Option("--key-env", metavar="VARIABLE", help="Holds the key of --endpoint (OPENAI_API_KEY).")
]
Yes = Annotated[bool, typer.Option("--yes", help="Send text to a hosted --endpoint without asking.")]
Stated = Annotated[
    str | None, typer.Option("--arithmetic", metavar="NAME", help="Of --endpoint: bfloat16, q4_1 ...; unknown if not.")
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests to --endpoint at a time.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest wait for one answer of --endpoint.")
]

DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT = 8, 600.0


def refuse_without_endpoint(endpoint: str | None, given: Sequence[tuple[str, bool]]) -> None:
    """Refuse options of an endpoint where none is named.

    Args:
        endpoint: as the user gives it.
        given: (option, whether it was given).

    Raises:
        SpecError: naming the first.
    """
    first = next((name for name, is_given in given if is_given), None)
    if endpoint is None and first is not None:
        raise SpecError(f"{first} belongs to --endpoint URL, which is not given")


def agree(address: Address, texts: str, yes: bool) -> None:
    """Ask the user before text leaves this machine; a server on it needs no consent.

    Args:
        address: that would be asked.
        texts: what is sent, in words.
        yes: whether the user has agreed already.

    Raises:
        SpecError: nobody can be asked, or the answer is no.
    """
    from narrowly.models.endpoint.address import what_leaves

    leaves = safe(what_leaves(address, texts), 500)
    if not leaves or yes:
        return
    if not sys.stdin.isatty():
        raise SpecError(f"{leaves}; agree with --yes")
    if not typer.confirm(f"{leaves}. Send?", err=True):
        raise SpecError(f"nothing was sent to {address.host}")


def opened(address: Address, timeout: float, **settings: Any) -> EndpointBackend:
    """Probe a server, saying what is tried.

    Args:
        address: of the server.
        timeout: seconds without a byte of an answer.
        **settings: of `open_endpoint`.

    Raises:
        SpecError, EndpointError: as `open_endpoint`.
    """
    from narrowly.models.endpoint.backend import open_endpoint
    from narrowly.models.endpoint.client import Client

    with error_console().status("probing the server") as status:
        return open_endpoint(
            Client(address, timeout=timeout),
            step=lambda words: status.update(f"probing the server: {words}"),
            **settings,
        )
