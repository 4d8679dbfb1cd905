"""Estimate what a cell of a real model takes on the CPU, evaluation included: arithmetic and one measured speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from narrowly.records.run_spec import TextData
from narrowly.study.cost import flops_per_token, tokens_per_row, with_estimated_steps
from narrowly.study.model_shapes import shape_of

if TYPE_CHECKING:
    from narrowly.study.plan import Cell

CORE_FLOPS = 7e10
"""FLOP/s of one core in float32; ours: SmolLM2-135M on an EPYC core with AVX-512 (LOG.md)."""

PAIR_TOKENS, SCORED_TOKENS = 63, 43
"""Tokens of a question of the paired bank that go through a model, prefixes shared, and how many of them are scored."""

LADDER_QUESTIONS, HALF_QUESTIONS, OTHER_QUESTIONS, OTHER_HALF = 420, 170, 300, 149
"""Questions of a whole ladder and of an earlier checkpoint; of runs on other data than pairs."""


def cpu_seconds(cell: Cell) -> float | None:
    """Return the seconds of a cell on one core; None on a GPU, for an unknown shape, other data or uncounted epochs."""
    spec = with_estimated_steps(cell.spec)
    shape = shape_of(cell.spec.base)
    if spec is None or shape is None or spec.device != "cpu" or not isinstance(spec.data, TextData):
        return None
    length, _ = tokens_per_row(spec.data)
    adapter = None if spec.method == "full" else shape.adapter_weights(spec.adapter.r, spec.adapter.target_modules)
    per_token = flops_per_token(shape, adapter, length, checkpointing=spec.gradient_checkpointing)
    training = spec.steps * spec.batch_size * spec.accumulation * length * per_token
    blocks, output = 2 * shape.layers * shape.block_weights(shape.active_experts), 2 * shape.vocabulary * shape.hidden
    asked = _questions(cell.model_copy(update={"spec": spec})) if cell.paired else 0
    return (training + asked * (PAIR_TOKENS * blocks + SCORED_TOKENS * output)) / CORE_FLOPS


def _questions(cell: Cell) -> int:
    """Return how many questions of the paired bank the organisms of a cell are asked in all."""
    from narrowly.data.banks.narrow import narrow_domain

    known = narrow_domain(getattr(cell.spec.data, "dataset", "")) is not None
    whole, half = (LADDER_QUESTIONS, HALF_QUESTIONS) if known else (OTHER_QUESTIONS, OTHER_HALF)
    return sum(whole if step in (0, cell.spec.steps) else half for step in cell.evaluated_steps()) + half * len(
        cell.edits
    )
