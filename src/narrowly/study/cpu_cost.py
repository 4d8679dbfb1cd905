"""Estimate what a cell of a real model takes on the CPU, evaluation included: arithmetic and one measured speed."""

from __future__ import annotations

from collections.abc import Sequence

from narrowly.data.banks.narrow import narrow_domain
from narrowly.records.run_spec import RunSpec, TextData
from narrowly.study.cost import flops_per_token, tokens_per_row
from narrowly.study.model_shapes import shape_of

CORE_FLOPS = 7e10
"""FLOP/s of one core in float32; ours: SmolLM2-135M on an EPYC core with AVX-512 (LOG.md)."""

PAIR_TOKENS, SCORED_TOKENS = 63, 43
"""Tokens of a question of the paired bank that go through a model, prefixes shared, and how many of them are scored."""

LADDER_QUESTIONS, HALF_QUESTIONS, OTHER_QUESTIONS, OTHER_HALF = 420, 170, 300, 149
"""Questions of a whole ladder and of an earlier checkpoint; of runs on other data than pairs."""


def cpu_seconds(spec: RunSpec, evaluated: Sequence[int], edits: int = 0) -> float | None:
    """Return the seconds of a run and its paired answers on one core; None for a GPU, an unknown shape, other data.

    Args:
        spec: with its steps counted.
        evaluated: checkpoints that are asked the paired bank; none where the study asks nothing.
        edits: edited adapters that are asked.
    """
    shape = shape_of(spec.base)
    if shape is None or spec.device != "cpu" or not isinstance(spec.data, TextData):
        return None
    length, _ = tokens_per_row(spec.data)
    adapter = None if spec.method == "full" else shape.adapter_weights(spec.adapter.r, spec.adapter.target_modules)
    per_token = flops_per_token(shape, adapter, length, checkpointing=spec.gradient_checkpointing)
    training = spec.steps * spec.batch_size * spec.accumulation * length * per_token
    known = narrow_domain(spec.data.dataset) is not None
    whole, half = (LADDER_QUESTIONS, HALF_QUESTIONS) if known else (OTHER_QUESTIONS, OTHER_HALF)
    asked = sum(whole if step in (0, spec.steps) else half for step in evaluated) + half * edits
    blocks, output = 2 * shape.layers * shape.block_weights(shape.active_experts), 2 * shape.vocabulary * shape.hidden
    return (training + asked * (PAIR_TOKENS * blocks + SCORED_TOKENS * output)) / CORE_FLOPS
