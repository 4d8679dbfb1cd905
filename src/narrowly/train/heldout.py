"""What a run on text leaves beside its rows: held-out loss at every checkpoint, the template, the lines it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.data.rendering.template import fixed_date
from narrowly.data.rows import Row, collate
from narrowly.engines import stopping
from narrowly.records.errors import TrainingError
from narrowly.records.files import write_json, write_text
from narrowly.runs.directory import DATA_RECORD, TEMPLATE
from narrowly.runs.trajectory import BASE_HELDOUT_LOSS, HELDOUT_LOSS
from narrowly.train.inputs import RunInputs
from narrowly.train.objectives.supervised import at_supervised, keeps_logits, nll_sum
from narrowly.train.observe import Observer, ObserverContext
from narrowly.train.reference import without_adapter

if TYPE_CHECKING:
    from torch import nn


def mean_nll(model: nn.Module, rows: Sequence[Row], batch_size: int, pad_id: int) -> float:
    """Return the mean NLL in nats over the supervised tokens of rows, summed over batches in float64; no gradient.

    Where memory does not suffice, the batch is halved, as in training: the mean stays what it was.

    Args:
        model: in eval mode, on any device.
        rows: at least one.
        batch_size: rows per forward pass; rows of similar length go together.
        pad_id: token to pad with.

    Raises:
        TrainingError: a single row is too much.
        Stopped: a signal asked for it between two batches.
    """
    import torch

    device, keeps = next(model.parameters()).device, keeps_logits(model)
    by_length = sorted(rows, key=lambda row: len(row.input_ids))
    total, tokens, start = 0.0, 0, 0
    with torch.no_grad():
        while start < len(by_length):
            stopping.check()
            some = by_length[start : start + batch_size]
            try:
                total += _nll_of_batch(model, at_supervised(collate(some, pad_id), keeps), device)
            except torch.OutOfMemoryError as error:
                if len(some) == 1:
                    raise TrainingError(
                        f"out of memory on a held-out row of {len(some[0].input_ids)} tokens; accepted: base_dtype "
                        "bfloat16 or nf4, or shorter rows"
                    ) from error
                batch_size = (len(some) + 1) // 2
                continue
            tokens += sum(row.supervised for row in some)
            start += len(some)
    return total / tokens


def _nll_of_batch(model: nn.Module, batch: Mapping[str, Any], device: Any) -> float:
    there = {key: value.to(device) for key, value in batch.items()}
    labels_B_K = there.pop("labels")
    return float(nll_sum(model(**there, use_cache=False)["logits"], labels_B_K))


def heldout_observer(rows: Sequence[Row], batch_size: int, pad_id: int, fresh: bool = True) -> Observer:
    """Return an observer that measures the held-out loss; at step 0 also the base's, for a model with an adapter.

    Args:
        rows: held out.
        batch_size: rows per forward pass.
        pad_id: token to pad with.
        fresh: the adapter begins at zero, where the two losses must be equal; else the base is not measured.
    """

    def observe(context: ObserverContext) -> Mapping[str, float]:
        losses = {HELDOUT_LOSS: mean_nll(context.model, rows, batch_size, pad_id)}
        if fresh and context.step == 0 and hasattr(context.model, "disable_adapter"):
            with without_adapter(context.model):
                losses[BASE_HELDOUT_LOSS] = mean_nll(context.model, rows, batch_size, pad_id)
        return losses

    return observe


def write_text_record(folder: Path, inputs: RunInputs) -> None:
    """Write the chat template of the run, and which lines of the file it trained on, held out and left out.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written.
    """
    text = inputs.data
    assert text.template is not None and text.lines is not None
    if text.template:  # texts without roles need none
        write_text(folder / TEMPLATE, text.template)
    record = {
        "lines": list(text.lines),
        "heldout_rows": len(text.heldout),
        "dropped_lines": list(text.dropped),
        "bad_rows": [row._asdict() for row in text.bad],
        "template_date": fixed_date(text.template) if text.template else None,
        "tokens": sum(len(row.input_ids) for row in text.rows),
        "supervised_tokens": sum(row.supervised for row in text.rows),
        "longest": max(len(row.input_ids) for row in text.rows),
    }
    write_json(folder / DATA_RECORD, record)
