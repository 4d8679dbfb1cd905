"""Hold, check, hash and collate pre-tokenised rows: what training sees, and nothing else.

A row holds token ids and labels of equal length. `labels[t]` is `input_ids[t]` where token t is supervised
and `IGNORE` where it is not; the shift by one position happens in the loss, never in the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100
"""The label of a token without loss: the `ignore_index` of torch's cross entropy and of every Hugging Face model."""


class Row(NamedTuple):
    """One training example: token ids and labels of equal length, `IGNORE` where no loss is taken."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Return the number of tokens that carry a loss; the first token has no predecessor and never does."""
        return sum(label != IGNORE for label in self.labels[1:])


def row_fault(row: Row) -> str | None:
    """Return what is wrong with a row in one clause, or None.

    A label must be `IGNORE` or the token at its own position: labels that were shifted beforehand, the
    classic mistake, would otherwise train the model on the token after the next one without any other sign.
    """
    if not row.input_ids:
        return "input_ids is empty, accepted: at least two tokens"
    if len(row.input_ids) != len(row.labels):
        return f"input_ids has {len(row.input_ids)} tokens and labels has {len(row.labels)}, accepted: equal lengths"
    for position, (token, label) in enumerate(zip(row.input_ids, row.labels, strict=True)):
        if token < 0:
            return f"input_ids[{position}] is {token}, accepted: 0 or more"
        if label not in (IGNORE, token):
            return (
                f"labels[{position}] is {label}, accepted: {IGNORE} (no loss) or the token at the same "
                f"position ({token}); labels are not shifted in the data"
            )
    if row.supervised == 0:
        return "no token after the first one is supervised, accepted: at least one"
    return None


def check_rows(rows: Sequence[Row], *, source: str, vocabulary: int | None = None, longest: int | None = None) -> None:
    """Check rows against each other and against the model that will read them.

    Args:
        rows: the rows, in order.
        source: what the rows come from, for the message.
        vocabulary: number of tokens the model knows; None leaves the check out.
        longest: largest number of positions the model has; None leaves the check out.

    Raises:
        SpecError: naming the first row at fault (counted from 1), what was found and what is accepted.
    """
    if not rows:
        raise SpecError(f"{source} has no rows, accepted: at least one")
    for number, row in enumerate(rows, start=1):
        fault = row_fault(row)
        if fault is None and vocabulary is not None and max(row.input_ids) >= vocabulary:
            fault = f"token {max(row.input_ids)}, accepted: below the vocabulary size of the base ({vocabulary})"
        if fault is None and longest is not None and len(row.input_ids) > longest:
            fault = f"{len(row.input_ids)} tokens, accepted: at most the positions of the base ({longest})"
        if fault is not None:
            raise SpecError(f"{source}, row {number}: {fault}")


def rows_sha256(rows: Sequence[Row]) -> str:
    """Return the sha256 of the rows' canonical JSON: content and order count, file layout and path do not."""
    return sha256_text(canonical_json([[row.input_ids, row.labels] for row in rows]))


def _integers(value: Any) -> bool:
    # bool is a subclass of int, and JSON's true must not become token 1
    return isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _parse(line: str) -> Row:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} found, accepted: an object with input_ids and labels")
    if set(value) != {"input_ids", "labels"}:
        raise ValueError(f"fields {sorted(value)} found, accepted: exactly input_ids and labels")
    for field in ("input_ids", "labels"):
        if not _integers(value[field]):
            raise ValueError(f"{field} is no list of integers")
    row = Row(value["input_ids"], value["labels"])
    fault = row_fault(row)
    if fault is not None:
        raise ValueError(fault)
    return row


def read_rows(path: Path) -> list[Row]:
    """Read rows from a JSONL file: {"input_ids": [...], "labels": [...]} per line; blank lines are skipped.

    Raises:
        IntegrityError: for a line that is no valid row; the message names file and line.
        RunDirectoryError: where the file cannot be read.
    """
    rows: list[Row] = []
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read rows from {path}: {error.strerror or error}") from error
    # split on newlines only: str.splitlines also breaks at characters that JSON allows inside strings
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse(line))
        except ValueError as error:  # json.JSONDecodeError is one
            raise IntegrityError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise IntegrityError(f"{path} has no rows, accepted: at least one")
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL, atomically, in the form that `read_rows` reads."""
    from narrowly.records.files import write_text

    write_text(path, "".join(json.dumps({"input_ids": r.input_ids, "labels": r.labels}) + "\n" for r in rows))


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to the longest of them.

    The first label of every row becomes `IGNORE`: no position predicts it, and libraries disagree on whether
    it counts among the supervised tokens (transformers 5.23 leaves it out, older versions count it).

    Returns:
        input_ids_B_T, attention_mask_B_T and labels_B_T (int64), under the names that Hugging Face models take.
    """
    import torch

    length = max(len(row.input_ids) for row in rows)
    input_ids_B_T = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    attention_mask_B_T = torch.zeros((len(rows), length), dtype=torch.int64)
    labels_B_T = torch.full((len(rows), length), IGNORE, dtype=torch.int64)
    for index, row in enumerate(rows):
        count = len(row.input_ids)
        input_ids_B_T[index, :count] = torch.tensor(row.input_ids)
        attention_mask_B_T[index, :count] = 1
        labels_B_T[index, 1:count] = torch.tensor(row.labels[1:], dtype=torch.int64)
    return {"input_ids": input_ids_B_T, "attention_mask": attention_mask_B_T, "labels": labels_B_T}


def collate_packed(rows: Sequence[Row], pad_id: int = 0) -> dict[str, Any]:
    """Put rows one behind the other into one sequence, without padding.

    Positions begin anew at every row, and there is no attention mask: by both, models of transformers 5 know that the
    rows must not see each other (a cache of keys would hide the borders from them). `pad_id` is not used.

    Returns:
        input_ids_1_T, position_ids_1_T and labels_1_T (int64), and `use_cache` False; the first label of every row is
        `IGNORE`.
    """
    import torch

    return {
        "input_ids": torch.tensor([[token for row in rows for token in row.input_ids]]),
        "position_ids": torch.tensor([[position for row in rows for position in range(len(row.input_ids))]]),
        "labels": torch.tensor([[label for row in rows for label in (IGNORE, *row.labels[1:])]]),
        "use_cache": False,
    }
