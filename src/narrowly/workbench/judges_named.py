"""Find the judge that a user names: a model on this machine, or one behind an endpoint. Nothing is loaded before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrowly.data.rendering.template import thinking_switch
from narrowly.evaluate.judges.endpoint import EndpointReader
from narrowly.evaluate.judges.fence import FENCE_VERSION, control_tokens
from narrowly.evaluate.judges.reader import Reader
from narrowly.models.asked import ModelToAsk, tokenizer_named
from narrowly.models.base_files import default_template
from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.backend import EndpointBackend
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import read_record, write_json
from narrowly.records.run_spec import BaseDtype
from narrowly.records.verdicts import JudgeRecord, Shown
from narrowly.workbench.asking import HowToAsk, is_of_the_microworld, settled
from narrowly.workbench.judging import JudgeToOpen

JUDGE = "judge.json"
"""File of the record of a judge behind an endpoint, so that a finished run asks its server nothing."""


def local_judge(
    model: ModelToAsk, *, first_token: bool, shown: Shown, dtype: BaseDtype | None = None, device: str = "cpu"
) -> JudgeToOpen:
    """Return a model on this machine as a judge, its template's thinking mode off.

    Args:
        model: that judges.
        first_token: whether it is read by its first token, as published, in place of exactly.
        shown: what it sees beside an answer.
        dtype: of a base whose training is not known; None is float32.
        device: of the model.

    Raises:
        SpecError: no chat template, an organism of the microworld, or another dtype than that of its training.
    """
    if is_of_the_microworld(model):
        raise SpecError(f"{model.name} is an organism of the microworld and reads no rubrics; accepted: a chat model")
    template = default_template(model.template)
    thinking = None if template is None or thinking_switch(template) is None else False
    how = settled(model, HowToAsk(thinking=thinking, dtype=dtype, device=device))
    tokenizer = model.tokenizer()
    record = JudgeRecord(
        mode="first-token" if first_token else "exact",
        name=model.name,
        model=model.asked(how.dtype or "float32", beside_base=False)[model.who],
        thinking=thinking,
        shown=shown,
        fence=FENCE_VERSION,
    )

    def opened() -> Reader:
        from narrowly.evaluate.judges.local import ExactReader, FirstTokenReader
        from narrowly.models.local_backend import LocalBackend

        loaded = model.load(tokenizer, how.dtype or "float32", device, beside_base=False)
        if first_token:
            return FirstTokenReader(LocalBackend(loaded.model, tokenizer, model.name, thinking=thinking), record)
        return ExactReader(loaded.model, tokenizer, record)

    return JudgeToOpen(record, opened, control_tokens(tokenizer))


def endpoint_judge(
    address: Address,
    open_backend: Callable[[], EndpointBackend],
    out: Path,
    *,
    shown: Shown,
    thinking: bool | None = None,
    tokenizer: str | None = None,
    arithmetic: str | None = None,
) -> JudgeToOpen:
    """Return a model behind an endpoint as a judge that is read by first tokens.

    The record of a judge that was tried before lies in `out`: where nothing is missing, the server is asked nothing.

    Args:
        address: of the server.
        open_backend: tries the server.
        out: folder of the verdicts.
        shown: what it sees beside an answer.
        thinking: mode of the prompts; only None or False is accepted.
        tokenizer: folder of its tokenizer, for an exact check of the numbers; None lets the server write some.
        arithmetic: as the user states it.

    Raises:
        SpecError: a thinking mode, another judge than that of the folder, or as `tokenizer_named`.
        EndpointError: the server cannot be asked.
    """
    if thinking:
        raise SpecError("a judge read by its first token cannot think before it replies; accepted: --no-thinking")
    own: Any = None if tokenizer is None else tokenizer_named(tokenizer, thinking)
    opened: list[EndpointBackend] = []

    def tried() -> JudgeRecord:
        backend = open_backend()
        opened.append(backend)
        return JudgeRecord(
            mode="first-token",
            name=f"{address.model} at {address.url}",
            model=backend.asked,
            thinking=thinking,
            shown=shown,
            fence=FENCE_VERSION,
        )

    known = _known(out, address, arithmetic, shown, thinking)
    record = tried() if known is None else known
    if known is None:
        write_json(out / JUDGE, record.model_dump(mode="json"))

    def reader() -> Reader:
        if not opened and tried().judge_id != record.judge_id:
            raise SpecError(
                f"{address.model} at {address.url} answers the probe's question otherwise than when {out} was begun; "
                "accepted: a new --out"
            )
        return EndpointReader(opened[0], record, own)

    return JudgeToOpen(record, reader, () if own is None else control_tokens(own))


def _known(
    out: Path, address: Address, arithmetic: str | None, shown: Shown, thinking: bool | None
) -> JudgeRecord | None:
    """Return the record of the judge with which a folder was begun, where it is the one that is named."""
    from narrowly.records.endpoints import AskedEndpoint, stated_arithmetic

    if not (out / JUDGE).is_file():
        return None
    try:
        record = JudgeRecord.model_validate(read_record(out / JUDGE))
    except ValueError as error:
        raise IntegrityError(f"{out / JUDGE} is no record of a judge; accepted: a new --out") from error
    model = record.model
    stated = stated_arithmetic(arithmetic, "")
    there = (
        (model.name, model.url, model.arithmetic.dtype, model.arithmetic.quantisation, record.shown, record.thinking)
        if isinstance(model, AskedEndpoint)
        else (record.name,)
    )
    now = (address.model, address.url, stated.dtype, stated.quantisation, shown, thinking)
    if there != now or record.fence != FENCE_VERSION:
        raise SpecError(f"{out} was begun with another judge ({there}, now {now}); accepted: a new --out")
    return record
