"""Whether a model keeps packed rows apart: asked of the model itself, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from narrowly.data.rows import Row, collate, collate_packed
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    import torch
    from torch import nn

LONGEST_CHECKED = 64
"""Tokens of each row that are compared."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest difference of two logits that rounding explains, relative to the largest logit; a leak changes far more."""


def check_packing(model: nn.Module, rows: Sequence[Row], base_name: str) -> None:
    """Compare the logits of two rows in one sequence with those of the second row alone.

    Raises:
        SpecError: the second row sees the first one.
    """
    import torch

    first, second = (Row(row.input_ids[:LONGEST_CHECKED], row.labels[:LONGEST_CHECKED]) for row in (rows[0], rows[-1]))
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = {key: _on(value, device) for key, value in collate_packed([first, second]).items()}
            alone = {key: _on(value, device) for key, value in collate([second], 0).items()}
            del packed["labels"], alone["labels"]
            together_T_V = model(**packed)["logits"][0, len(first.input_ids) :].float()
            apart_T_V = model(**alone, use_cache=False)["logits"][0].float()
    finally:
        model.train(training)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    difference = float((together_T_V - apart_T_V).abs().max() / apart_T_V.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"]):
        raise SpecError(
            f"packing is true, but in base {base_name} packed rows see each other (logits differ by {difference:.2g} "
            "of the largest); accepted: packing false"
        )


def _on(value: object, device: torch.device) -> object:
    import torch

    return value.to(device) if isinstance(value, torch.Tensor) else value
