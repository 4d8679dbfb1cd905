"""The part of `narrowly eval` that measures models behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowly.cli.organisms.ask_endpoint import EndpointArguments
from narrowly.cli.organisms.endpoint_options import agree, opened
from narrowly.cli.progress import StepProgress
from narrowly.cli.terminal import complain, need_extra


def served_result(
    arguments: EndpointArguments, models: Sequence[str], controls: Sequence[str], tokenizer: str | None, **settings: Any
) -> Any:
    """Measure models behind an endpoint, once the user agrees that the questions are sent.

    Args:
        arguments: of the endpoint.
        models: names on the server.
        controls: names of their controls there.
        tokenizer: of all of them.
        **settings: of `served_request`.

    Returns:
        The result; None where it was stopped.

    Raises:
        SpecError, EndpointError: as `served_request`, `agree` and `run_served_eval`.
    """
    need_extra("lab", "evaluating a model")
    from narrowly.models.endpoint.address import address_of
    from narrowly.models.endpoint.backend import EndpointBackend
    from narrowly.workbench.evaluate_endpoint import run_served_eval, served_request

    addresses = {name: address_of(arguments.url, name, arguments.key_env) for name in [*models, *controls]}
    first = next(iter(addresses.values()), None) or address_of(arguments.url, None)
    request = served_request(models, controls, tokenizer, arithmetic=arguments.arithmetic, **settings)
    agree(first, f"{len(request.items)} questions with two answers each", arguments.yes)

    def open_model(name: str, tokenizer: Any) -> EndpointBackend:
        return opened(
            addresses[name],
            arguments.timeout,
            arithmetic=arguments.arithmetic,
            tokenizer=tokenizer,
            thinking=request.thinking,
            system=request.system,
            concurrency=arguments.concurrency,
        )

    try:
        with StepProgress("measuring") as progress:
            return run_served_eval(request, open_model, progress.on_step)
    except KeyboardInterrupt as stop:
        out: Path | None = request.out
        complain(
            f"narrowly: {str(stop) or 'stopped'}" + ("" if out is None else f"; domains that are done are in {out}")
        )
        return None
