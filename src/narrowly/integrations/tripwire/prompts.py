"""Identify the prompts that a training is on, so that a control on others is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from narrowly.data.rows import IGNORE
from narrowly.records.canonical import canonical_json, sha256_text

FIRST_ROWS = 2000
"""Rows that are looked at; the order of the rows counts."""

_MASKS = ("completion_mask", "assistant_masks")
"""Columns of TRL with 1 for the tokens that carry a loss."""


def prompts_sha256(rows: Iterable[Any]) -> str | None:
    """Return the sha256 of the prompts of the first rows, or None where rows do not say what of them is the prompt.

    A prompt is what stands before the first token with a loss.

    Args:
        rows: mappings or records with `input_ids` and either `labels` or a mask of TRL.
    """
    found = []
    for row in islice(rows, FIRST_ROWS):
        fields = (
            row if isinstance(row, Mapping) else {name: getattr(row, name, None) for name in ("input_ids", "labels")}
        )
        ids, start = fields.get("input_ids"), _start(fields)
        if ids is None or not start:
            return None
        found.append([int(token) for token in ids[:start]])
    return sha256_text(canonical_json(found)) if found else None


def _start(fields: Mapping[str, Any]) -> int | None:
    """Return how many tokens stand before the first with a loss; None where nothing says it."""
    marks: Sequence[Any] | None = fields.get("labels")
    if marks is not None:
        return next((at for at, label in enumerate(marks) if int(label) != IGNORE), None)
    mask = next((fields[name] for name in _MASKS if fields.get(name) is not None), None)
    return None if mask is None else next((at for at, one in enumerate(mask) if int(one)), None)
