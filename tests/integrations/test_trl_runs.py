"""Real runs of TRL's `SFTTrainer` with the penalty's callback, against the plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from narrowly.integrations.transformers import SpectralPenaltyCallback, optimizer_factory
from narrowly.spectrum.pairs import pairs_from_model
from narrowly.spectrum.penalty import spectral_penalty
from tiny_hosts import LAM, arguments, distance, factors, plain_run, sgd, tiny_adapted, tiny_rows

pytest.importorskip("trl", reason="TRL is not installed")
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

ROWS = tiny_rows(32)


def sft_run(
    folder: Path,
    callbacks: list[Any],
    *,
    trainer_class: type[SFTTrainer] = SFTTrainer,
    resume: str | None = None,
    **changes: Any,
) -> SFTTrainer:
    words = {"<pad>": 0, "<end>": 1, **{f"w{i}": i for i in range(2, 48)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<end>"
    )
    factory = changes.pop("optimizer_cls_and_kwargs", None)
    model = tiny_adapted()
    fields = {
        "activation_checkpointing": False,
        "max_length": None,
        "pad_to_multiple_of": None,
        "shuffle_dataset": False,
        **changes,
    }
    trainer = trainer_class(
        model=model,
        args=SFTConfig(**arguments(folder, **fields)),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        callbacks=callbacks,
        **({"optimizer_cls_and_kwargs": factory} if factory else {"optimizers": (sgd(model), None)}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class PenaltyInTheFirstLoss(SFTTrainer):  # type: ignore[misc]
    """The penalty written into the loss of a step: into its first micro-batch, when no gradient is there yet."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        first = all(parameter.grad is None for parameter in model.parameters())
        return loss + LAM * spectral_penalty(pairs_from_model(model)) if first else loss


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("bf16", [False, True])
def test_sft_trainer_goes_the_way_of_the_penalty_in_the_loss(accumulation: int, bf16: bool, tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "bf16": bf16, "per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation,
    }  # fmt: skip
    trainer = sft_run(tmp_path, [SpectralPenaltyCallback(LAM)], **fields)
    if bf16:  # TRL takes the loss in chunks, which round otherwise than the plain loop does
        expected = factors(sft_run(tmp_path, [], trainer_class=PenaltyInTheFirstLoss, **fields).model)
    else:
        expected = plain_run(ROWS, steps=4, per_step=8)
    assert distance(factors(trainer.model), expected) < 1e-5
    rows = [row for row in trainer.state.log_history if "penalty" in row]
    assert [row["penalty_lambda"] for row in rows] == [LAM] * 4


def test_a_resumed_sft_run_ends_where_the_whole_one_does_bit_for_bit(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    penalty: dict[str, Any] = {"lam": LAM, "kind": "functional", "warmup_steps": 4}
    whole = sft_run(tmp_path, [SpectralPenaltyCallback(**penalty)], **fields)
    resumed = sft_run(tmp_path, [SpectralPenaltyCallback(**penalty)], resume=str(tmp_path / "checkpoint-2"), **fields)
    found, expected = factors(resumed.model), factors(whole.model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_sft_trainer_builds_our_optimiser(tmp_path: Path) -> None:
    trainer = sft_run(
        tmp_path, [SpectralPenaltyCallback(LAM)], max_steps=1,
        optimizer_cls_and_kwargs=optimizer_factory({"kind": "muon", "lr": 1e-2}),
    )  # fmt: skip
    assert type(trainer.optimizer.optimizer).__name__ == "Muon"
    assert distance(factors(trainer.model), plain_run(ROWS, steps=1, per_step=4)) > 1e-2
