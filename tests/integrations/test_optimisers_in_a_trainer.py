"""Every optimiser of ours through the Trainer's factory: it learns, and a resumed run is the whole one bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainingArguments

from narrowly.integrations.transformers import EvalModeCallback, SpectralPenaltyCallback, optimizer_factory
from narrowly.records.errors import TrainingError
from narrowly.records.optimisers.registry import OPTIMISERS
from tiny_hosts import LAM, arguments, collate, distance, factors, tiny_adapted, tiny_rows

FIELDS: dict[str, dict[str, Any]] = {"prodigy": {"lr": 1.0}, "sgd": {"lr": 0.3}}
"""Fields where an lr of 0.01 is no usual one."""


def run(folder: Path, kind: str, resume: str | None = None) -> Trainer:
    trainer = Trainer(
        model=tiny_adapted(),
        args=TrainingArguments(**arguments(folder, max_steps=4, save_strategy="steps", save_steps=2)),
        train_dataset=tiny_rows(8) * 2,
        data_collator=collate,
        callbacks=[SpectralPenaltyCallback(LAM), EvalModeCallback()],
        optimizer_cls_and_kwargs=optimizer_factory({"kind": kind, "lr": 0.01, **FIELDS.get(kind, {})}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_an_optimiser_learns_and_resumes_in_the_trainer(kind: str, tmp_path: Path) -> None:
    whole = run(tmp_path, kind)
    losses = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert losses[2] < losses[0], "the same rows come again after two steps"
    resumed = run(tmp_path, kind, resume=str(tmp_path / "checkpoint-2"))
    assert distance(factors(resumed.model), factors(whole.model)) == 0.0


@pytest.mark.parametrize(
    ("callbacks", "schedule", "message"),
    [
        ([], "constant", r"accepted: EvalModeCallback\(\) among the Trainer's callbacks"),
        ([EvalModeCallback()], "linear", "lr_scheduler_type is 'linear' with ScheduleFreeAdamW"),
    ],
)
def test_schedulefree_is_refused_where_it_would_save_other_weights_or_be_another_optimiser(
    callbacks: list[Any], schedule: str, message: str, tmp_path: Path
) -> None:
    trainer = Trainer(
        model=tiny_adapted(),
        args=TrainingArguments(**arguments(tmp_path, lr_scheduler_type=schedule)),
        train_dataset=tiny_rows(8) * 2,
        data_collator=collate,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_factory({"kind": "schedulefree_adamw", "lr": 0.01}),
    )
    with pytest.raises(TrainingError, match=message):
        trainer.train()
