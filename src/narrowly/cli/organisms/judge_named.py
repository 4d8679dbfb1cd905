"""Open the judge that a command names: on this machine, or behind an endpoint once the user agrees to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.cli.organisms.ask_endpoint import EndpointArguments
from narrowly.cli.organisms.endpoint_options import agree, opened

if TYPE_CHECKING:
    from narrowly.models.endpoint.backend import EndpointBackend
    from narrowly.records.verdicts import Shown
    from narrowly.workbench.judging import JudgeToOpen

LOADED_HERE = {"judge": "--judge", "first_token": "--first-token", "base": "--base", "runs": "--runs",
               "dtype": "--dtype", "device": "--device"}  # fmt: skip
"""Options of a judge that no server holds, by parameter of the command."""


def judge_here(
    name: str, runs: Path, *, base: str | None, first_token: bool, shown: Shown, dtype: str | None, device: str
) -> JudgeToOpen:
    """Return a model on this machine as a judge.

    Args:
        name: as `narrowly ask` takes it.
        runs: folder of runs, in which it may be named.
        base: of an adapter that judges.
        first_token: whether it is read as published.
        shown: what it sees beside an answer.
        dtype: of a base; None is float32.
        device: of the model.

    Raises:
        UnknownNameError, SpecError: as `find_model` and `local_judge`.
    """
    from narrowly.cli.organisms.ask import known_dtype
    from narrowly.workbench.asking import find_model
    from narrowly.workbench.judges_named import local_judge

    model = find_model(name, runs, "final", None, base)
    return local_judge(model, first_token=first_token, shown=shown, dtype=known_dtype(dtype), device=device)


def judge_there(there: EndpointArguments, out: Path, texts: str, *, shown: Shown, tokenizer: str | None) -> JudgeToOpen:
    """Return the judge behind an endpoint, tried only once the user agrees that texts are sent.

    Args:
        there: the options of the command.
        out: folder of the verdicts.
        texts: what is sent, in words.
        shown: what it sees beside an answer.
        tokenizer: folder of its tokenizer, or None.

    Raises:
        SpecError, EndpointError: as `endpoint_judge`, or no consent.
    """
    from narrowly.models.endpoint.address import address_of
    from narrowly.workbench.judges_named import endpoint_judge

    address = address_of(there.url, there.model, there.key_env)

    def tried() -> EndpointBackend:
        agree(address, texts, there.yes)
        return opened(address, there.timeout, arithmetic=there.arithmetic, concurrency=there.concurrency)

    return endpoint_judge(address, tried, out, shown=shown, tokenizer=tokenizer, arithmetic=there.arithmetic)
