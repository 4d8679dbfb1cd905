"""Read the rows of a run behind those that are wrong, so that all faults are said at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from narrowly.data.conversations import read_conversations
from narrowly.data.raw_rows import BadRow
from narrowly.data.render import render_all
from narrowly.data.rows import Row, read_rows
from narrowly.data.run_rows import RunRows
from narrowly.data.sources import resolve
from narrowly.data.text_rows import fitted, give_template
from narrowly.models.base import Base
from narrowly.records.data_specs import DataSpec, RowsData, TextData
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import checked_rows

NAMED = 3
"""Rows at fault that are named; the rest are counted."""


def read_leniently(spec: RunSpec, base: Base, faults: list[str]) -> RunRows:
    """Return the rows of a run; where some cannot be read, rendered or trained on, note that and return the others.

    Args:
        spec: names data and seed.
        base: renders and checks them.
        faults: gets one line for each kind of fault, with the count and the first rows.

    Raises:
        NarrowlyError: no row at all can be had.
    """
    try:
        return checked_rows(spec, base)
    except NarrowlyError:
        if not isinstance(spec.data, TextData):
            raise
        found = _behind(fitted(spec.data, base), base, faults)
        if not faults:
            raise
        return found


def count_without_base(data: DataSpec) -> int | None:
    """Return how many rows a file has, where no base can render them; None for data that only a base has.

    Raises:
        NarrowlyError: no such file, or one that cannot be read.
    """
    if isinstance(data, RowsData):
        return len(read_rows(Path(data.path).expanduser()))
    if not isinstance(data, TextData):
        return None
    local = resolve(data.dataset)
    return len(read_conversations(local.path, data.row_schema or local.schema))


def _behind(data: TextData, base: Base, faults: list[str]) -> RunRows:
    """Read and render every row by itself, note those that fail, and return the rest, nothing held out.

    Raises:
        NarrowlyError: the fault is not one of single rows.
    """
    local, tokenizer = resolve(data.dataset), base.tokenizer()
    give_template(tokenizer, data.template)
    unread: list[BadRow] = []
    conversations = read_conversations(local.path, data.row_schema or local.schema, unread)
    total = len(conversations) + len(unread)
    rows: list[Row] = []
    long: list[BadRow] = []
    for conversation in conversations:
        try:
            rendered = render_all(
                tokenizer,
                [conversation],
                thinking=data.thinking,
                max_tokens=None,
                turns=data.turns,
                source=data.dataset,
            )
        except SpecError as error:
            at = f"{data.dataset}, line {conversation.line}: "
            if not str(error).startswith(at):  # of the template, not of this row
                raise
            unread.append(BadRow(conversation.line, str(error).removeprefix(at)))
            continue
        for row in rendered.rows:
            if len(row.input_ids) > data.max_tokens:
                long.append(BadRow(conversation.line, f"{len(row.input_ids)} tokens"))
            else:
                rows.append(row)
    if unread and data.bad_rows == "refuse":
        faults.append(f"{data.dataset}: {_named(sorted(unread), total)} bad; accepted: bad_rows: drop, or other data")
    if long and data.longer == "refuse":
        faults.append(
            f"{data.dataset}: {_named(long, total)} longer than data.max_tokens ({data.max_tokens}); accepted: longer: "
            "drop or cut, or a larger max_tokens up to the positions of the base"
        )
    if not rows:
        raise SpecError(f"{data.dataset}: no row of {total} can be trained on")
    return RunRows(data.dataset, tuple(rows))


def _named(found: Sequence[BadRow], total: int) -> str:
    """Return how many of the rows are at fault, and the first of them."""
    first = "; ".join(f"line {line}: {reason}" for line, reason in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{len(found)} of {total} rows ({first}{more}) {'is' if len(found) == 1 else 'are'}"
