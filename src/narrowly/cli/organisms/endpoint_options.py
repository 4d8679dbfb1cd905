"""Options of the commands that ask a model behind an endpoint, and the question before text leaves this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.terminal import complain, error_console, safe
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


OF_ENDPOINT = {
    "served": "--model",
    "tokenizer": "--tokenizer",
    "key_env": "--key-env",
    "yes": "--yes",
    "arithmetic": "--arithmetic",
    "concurrency": "--concurrency",
    "timeout": "--timeout",
}
"""Options that only a server has, by the parameter of a command."""


def given_options(context: typer.Context, options: Mapping[str, str]) -> list[str]:
    """Return which options stand on the command line, also those with the value of their default.

    Args:
        context: of the command.
        options: name by parameter of the command.
    """
    sources = {name: context.get_parameter_source(name) for name in options}
    return [options[name] for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def refuse_without_endpoint(context: typer.Context) -> None:
    """Refuse options of an endpoint in a command where none is named.

    Args:
        context: of the command.

    Raises:
        SpecError: naming the first.
    """
    for option in given_options(context, OF_ENDPOINT):
        raise SpecError(f"{option} belongs to --endpoint URL, which is not given; accepted only beside it")


def refuse_with_endpoint(context: typer.Context, options: Mapping[str, str]) -> None:
    """Refuse options of models that are loaded here in a command that asks an endpoint.

    Args:
        context: of the command.
        options: name by parameter of the command.

    Raises:
        SpecError: naming the first that was given.
    """
    for option in given_options(context, options):
        raise SpecError(f"{option} does not fit --endpoint; accepted only without it, for a model that is loaded here")


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
    """Probe a server, saying what is tried; later too each request that is tried again is said on standard error.

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
            Client(address, timeout=timeout, notice=lambda words: complain(safe(words, 500))),
            step=lambda words: status.update(f"probing the server: {words}"),
            **settings,
        )
