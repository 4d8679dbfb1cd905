"""The obvious twin of `train_run`: a plain loop that a reader can check line by line.

It shares with the package the optimiser builder, the LoRA start and the row order (tested on their own), and has its
own loading, masking, loss, clipping, schedule and way for the penalty; accumulation it does not need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from narrowly.data.rows import Row, read_rows
from narrowly.models.lora import attach_adapter
from narrowly.optim.build import build_optimizer
from narrowly.records.run_spec import RunSpec
from narrowly.spectrum.pairs import pairs_from_model
from narrowly.spectrum.penalty import spectral_penalty
from narrowly.train.order import row_order


@dataclass
class PlainResult:
    """Losses and gradient norms by step, and the adapter's final factors by name."""

    losses: list[float]
    grad_norms: list[float]
    factors: dict[str, torch.Tensor]


def answer_nll(model: torch.nn.Module, row: Row) -> torch.Tensor:
    """Sum of -ln p(token | tokens before it) over the supervised tokens of one row; no padding, no batch."""
    logits_T_V = model(input_ids=torch.tensor([row.input_ids])).logits[0]
    log_p_T_V = torch.log_softmax(logits_T_V, dim=-1)
    total = torch.zeros(())
    for position in range(1, len(row.input_ids)):
        if row.labels[position] != -100:
            total = total - log_p_T_V[position - 1, row.input_ids[position]]
    return total


def rate(spec: RunSpec, step: int) -> float:
    """Learning rate of step 0 ... steps - 1, written out once more."""
    warm, last = spec.schedule.warmup_steps, spec.steps
    if step < warm:
        return spec.optimiser.lr * step / warm
    if spec.schedule.kind == "linear":
        return spec.optimiser.lr * (last - step) / (last - warm)
    if spec.schedule.kind == "cosine":
        return spec.optimiser.lr * (0.5 + 0.5 * math.cos(math.pi * (step - warm) / (last - warm)))
    return spec.optimiser.lr


def clip(parameters: list[torch.nn.Parameter], limit: float | None) -> float:
    """Scale all gradients together so that their joint norm is at most `limit`; return the norm before."""
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None))
    if limit is not None and norm > limit:
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(limit / norm)
    return norm


def plain_train(spec: RunSpec) -> PlainResult:
    """Train the spec from start to end."""
    rows = read_rows(Path(spec.data.path))  # type: ignore[union-attr]
    base: Any = AutoModelForCausalLM.from_pretrained(spec.base, dtype=torch.float32)
    model = attach_adapter(base, spec.adapter, spec.seed, "plain")
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(spec.optimiser, model)
    per_step = spec.batch_size * spec.accumulation
    order = row_order(len(rows), spec.steps * per_step, spec.seed)
    losses, norms = [], []
    for step in range(spec.steps):
        batch = [rows[i] for i in order[step * per_step : (step + 1) * per_step]]
        tokens = sum(label != -100 for row in batch for label in row.labels)
        loss = torch.stack([answer_nll(model, row) for row in batch]).sum() / tokens
        objective = loss
        if spec.penalty is not None and spec.penalty.lam > 0:
            objective = loss + spec.penalty.lam * spectral_penalty(pairs_from_model(model), spec.penalty.kind)
        for group in optimizer.param_groups:
            group["lr"] = rate(spec, step)
        optimizer.zero_grad()
        objective.backward()
        norms.append(clip(parameters, spec.max_grad_norm))
        optimizer.step()
        losses.append(float(loss.detach()))
    factors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return PlainResult(losses, norms, factors)
