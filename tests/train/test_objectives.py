"""Another objective than the supervised one: the trainer asks the protocol, and knows no labels and no tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from narrowly.data.rows import Row, read_rows
from narrowly.records.files import read_jsonl
from narrowly.train import steps
from narrowly.train.objectives.protocol import Batch, Objective
from narrowly.train.objectives.supervised import Supervised
from narrowly.train.order import micro_batches
from narrowly.train.run import train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]

STEPS = 3
LENGTH = 4


def pair(index: int) -> tuple[list[int], list[int]]:
    """Tokens of a chosen and a rejected text of equal length; in even pairs the chosen one comes first."""
    one, other = ([4 + (7 * index + offset + place) % 50 for place in range(LENGTH)] for offset in (0, 3))
    return (one, other) if index % 2 == 0 else (other, one)


def log_likelihood(model: nn.Module, ids_B_T: Tensor) -> Tensor:
    logits_B_T_V = model(input_ids=ids_B_T)["logits"][:, :-1].float()
    return torch.log_softmax(logits_B_T_V, -1).gather(-1, ids_B_T[:, 1:, None]).sum((1, 2))


class Preference:
    """The chosen text shall be likelier than the rejected one: -ln sigmoid of the difference, averaged over pairs."""

    def __init__(self, batch_size: int, accumulation: int) -> None:
        self.size, self.per_step = batch_size * accumulation, accumulation
        self.micro_batches = [
            self.batch(range(start, start + batch_size)) for start in range(0, STEPS * self.size, batch_size)
        ]

    @staticmethod
    def batch(pairs: range) -> Batch:
        chosen, rejected = zip(*map(pair, pairs), strict=True)
        return {"chosen": torch.tensor(chosen), "rejected": torch.tensor(rejected)}

    def rows_of_step(self, step: int) -> list[int]:
        return list(range(step * self.size, (step + 1) * self.size))

    def tokens_of_step(self, step: int) -> int:
        return 2 * LENGTH * self.size

    def items_of_step(self, step: int) -> int:
        return self.size

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, model: nn.Module, batch: Batch, items: Tensor | int) -> Tensor:
        margin_B = log_likelihood(model, batch["chosen"]) - log_likelihood(model, batch["rejected"])
        return -nn.functional.logsigmoid(margin_B).sum() / items


def losses(
    tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, accumulation: int
) -> list[float]:
    def build(*_: Any) -> Objective:
        return Preference(batch_size, accumulation)

    monkeypatch.setattr(steps, "build_objective", build)
    run = train_run(make_spec(*tiny, steps=STEPS, batch_size=batch_size, accumulation=accumulation), folder)
    assert {row["tokens"] for row in read_jsonl(run / "speed.jsonl")} == {2 * LENGTH * batch_size * accumulation}
    return [row["loss"] for row in read_jsonl(run / "trajectory.jsonl")[1:]]


def test_a_loss_on_pairs_is_trained_with_nothing_but_the_protocol(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = losses(tiny, tmp_path / "whole", monkeypatch, 4, 1)
    base = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    # a fresh adapter changes nothing
    expected = float(Preference(4, 1).loss(base, Preference.batch(range(4)), 4).detach())
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert all(math.isfinite(loss) for loss in found)
    split = losses(tiny, tmp_path / "split", monkeypatch, 2, 2)
    assert split == pytest.approx(found, rel=1e-4)


def test_the_supervised_objective_counts_tokens_and_labels_of_all_processes(tiny: Tiny) -> None:
    rows = read_rows(tiny[1])
    settings: dict[str, Any] = {"seed": 0, "steps": 2, "first_step": 0, "batch_size": 2, "accumulation": 2, "pad_id": 0}
    base = AutoModelForCausalLM.from_pretrained(tiny[0])
    for rank in (0, 1):
        objective = Supervised(base, micro_batches(rows, rank=rank, processes=2, **settings))
        of_step: list[Row] = [rows[row] for row in objective.rows_of_step(1)]
        assert len(of_step) == 4
        assert objective.per_step == 1 and len(objective.micro_batches) == 2
        assert objective.tokens_of_step(1) == sum(len(row.input_ids) for row in of_step)
        assert objective.items_of_step(1) == sum(row.supervised for row in of_step)
