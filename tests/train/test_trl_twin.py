"""Our training path against TRL's `SFTTrainer`: the same rows, order, adapter start and optimiser give the same losses.

Base, tokenizer and conversations are made here. Both compute in float32 on one thread and differ in the order of sums
only (TRL takes its loss in another layout), so that losses agree to rounding, some 1e-7 per sum, which twelve steps of
Adam lift a little: `RTOL`. Every mistake that the twin is for moves a loss by more than `MISTAKE`, a hundred times as
much, and each is made here on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from narrowly.data.rows import IGNORE
from narrowly.models.base import load_model, load_tokenizer
from narrowly.models.lora import attach_adapter
from narrowly.records.files import read_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.train import order as order_module
from narrowly.train.inputs import load_inputs
from narrowly.train.objectives import supervised
from narrowly.train.order import row_order
from narrowly.train.run import train_run
from small_chat_base import TEMPLATE, conversations, make_chat_base, text_spec, write_jsonl
from tiny_base import only_run

pytest.importorskip("trl", reason="TRL is not installed")
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

RTOL, MISTAKE = 1e-5, 1e-3
STEPS = 12
BATCHES = {"batch 8": (8, 1), "4 x accumulation 2": (4, 2)}
CLOSED = TEMPLATE.replace("'<|im_end|>\n' }}", "'<|im_end|>' }}")
"""Nothing behind the end of a turn: TRL counts a line break there as part of the answer, we do not."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Qwen3 with a tokenizer trained on the spot, and conversations with answers of 1 to 12 words."""
    folder = tmp_path_factory.mktemp("twin")
    return make_chat_base(folder / "base", template=CLOSED), write_jsonl(folder / "rows.jsonl", conversations(40))


def run_spec(files: tuple[Path, Path], batch: str, **fields: Any) -> RunSpec:
    size, accumulation = BATCHES[batch]
    return text_spec(
        *files, {"holdout": 0}, steps=STEPS, batch_size=size, accumulation=accumulation, checkpoints=2, **fields
    )


class Watched(SFTTrainer):  # type: ignore[misc]
    """Keeps every step's loss unrounded: the sum of what its micro-batches return for the record."""

    losses: list[float]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.losses[-1] += float(loss)
            self.losses.append(0.0)
        else:
            self.losses[-1] += float(loss)
        return loss


def sft_run(spec: RunSpec, folder: Path, dataset: list[dict[str, Any]]) -> Watched:
    """Train what the spec says with TRL, on a dataset in the order it comes in."""
    base = load_inputs(spec).base
    model = attach_adapter(load_model(base), spec.adapter, spec.seed, base.name)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser: Any = spec.optimiser
    trainer = Watched(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=spec.steps,
            per_device_train_batch_size=spec.batch_size,
            gradient_accumulation_steps=spec.accumulation,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            shuffle_dataset=False,
            max_length=None,
            activation_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list(dataset),
        processing_class=load_tokenizer(base),
        optimizers=(
            torch.optim.Adam(parameters, lr=optimiser.lr, betas=(optimiser.beta1, optimiser.beta2), eps=optimiser.eps),
            None,
        ),
    )
    trainer.losses = [0.0]
    trainer.train()
    assert trainer.losses.pop() == 0.0
    return trainer


def our_rows(spec: RunSpec) -> list[dict[str, Any]]:
    """The rows of a run in the order in which it reads them, for `Dataset.from_list`."""
    rows = load_inputs(spec).rows
    order = row_order(len(rows), spec.steps * spec.batch_size * spec.accumulation, spec.seed)
    return [{"input_ids": rows[index].input_ids, "labels": rows[index].labels} for index in order]


@pytest.fixture(scope="module")
def theirs(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    """TRL's run of each way to make a batch of 8."""
    torch.set_num_threads(1)
    specs = {batch: run_spec(files, batch) for batch in BATCHES}
    return {name: sft_run(spec, tmp_path_factory.mktemp("trl"), our_rows(spec)) for name, spec in specs.items()}


def our_losses(spec: RunSpec, folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(train_run(spec, folder) / "trajectory.jsonl")[1:]]


def largest_difference(found: list[float], expected: list[float]) -> float:
    """Relative, over all steps."""
    assert len(found) == len(expected) == STEPS
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("packing", [False, True])
def test_our_losses_are_those_of_sft_trainer_step_by_step(
    batch: str, packing: bool, files: tuple[Path, Path], theirs: dict[str, Watched], tmp_path: Path
) -> None:
    spec, trainer = run_spec(files, batch, packing=packing), theirs[batch]
    found = our_losses(spec, tmp_path)
    assert largest_difference(found, trainer.losses) < RTOL
    assert found[0] - found[-1] > 0.1  # there was something to agree about
    run = only_run(tmp_path)
    ours = load_file(run / "checkpoints" / f"step-{STEPS}" / "adapter_model.safetensors")
    expected = {
        name.replace(".default.weight", ".weight"): parameter.detach()
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():  # Adam divides by the gradient's size, which lifts rounding where it is tiny
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("batch", BATCHES)
def test_our_masks_are_those_that_trl_makes_itself_from_prompt_and_completion(
    batch: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = run_spec(files, batch)
    talks = [row["messages"] for row in read_jsonl(files[1])]
    order = row_order(len(talks), spec.steps * spec.batch_size * spec.accumulation, spec.seed)
    dataset = [{"prompt": talks[index][:-1], "completion": talks[index][-1:]} for index in order]
    trainer = sft_run(spec, tmp_path / "trl", dataset)
    assert largest_difference(our_losses(spec, tmp_path), trainer.losses) < RTOL


Loss = Callable[..., torch.Tensor]
Collate = Callable[..., dict[str, torch.Tensor]]


def not_shifted(loss: Loss) -> Loss:
    """Logits and labels of the same position: one shift too few."""

    def wrong(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        return loss({"logits": outputs["logits"].roll(1, dims=1)}, labels, num_items_in_batch)

    return wrong


def shifted_twice(loss: Loss) -> Loss:
    def wrong(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        return loss({"logits": outputs["logits"][:, :-1]}, labels[:, 1:], num_items_in_batch)

    return wrong


def mean_of_micro_batch_means(loss: Loss) -> Loss:
    def wrong(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        return loss(outputs, labels, 2 * (labels[:, 1:] != IGNORE).sum())

    return wrong


def mean_over_all_tokens(loss: Loss) -> Loss:
    def wrong(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        return loss(outputs, labels, 2 * labels.numel())

    return wrong


def loss_on_prompts(collate: Collate) -> Collate:
    def wrong(rows: Any, pad_id: int) -> dict[str, torch.Tensor]:
        batch = collate(rows, pad_id)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
        return {**batch, "labels": labels}

    return wrong


def no_loss_on_the_end_of_turn(collate: Collate) -> Collate:
    def wrong(rows: Any, pad_id: int) -> dict[str, torch.Tensor]:
        return collate([row._replace(labels=[*row.labels[:-1], IGNORE]) for row in rows], pad_id)

    return wrong


def padding_attended_and_learnt(collate: Collate) -> Collate:
    def wrong(rows: Any, pad_id: int) -> dict[str, torch.Tensor]:
        batch = collate(rows, pad_id)
        labels = batch["labels"].masked_fill(batch["attention_mask"] == 0, pad_id)
        return {**batch, "labels": labels}

    return wrong


@pytest.mark.parametrize("mistake", [not_shifted, shifted_twice, mean_of_micro_batch_means, mean_over_all_tokens])
def test_a_mistake_in_the_loss_is_seen_by_the_twin(
    mistake: Callable[[Loss], Loss],
    files: tuple[Path, Path],
    theirs: dict[str, Watched],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = run_spec(files, "4 x accumulation 2")
    monkeypatch.setattr(supervised, "token_mean_loss", mistake(supervised.token_mean_loss))
    assert largest_difference(our_losses(spec, tmp_path), theirs["4 x accumulation 2"].losses) > MISTAKE


@pytest.mark.parametrize("mistake", [loss_on_prompts, no_loss_on_the_end_of_turn, padding_attended_and_learnt])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_mistake_in_the_masks_is_seen_by_the_twin(
    mistake: Callable[[Collate], Collate],
    batch: str,
    files: tuple[Path, Path],
    theirs: dict[str, Watched],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = run_spec(files, batch)
    monkeypatch.setattr(order_module, "collate", mistake(order_module.collate))
    assert largest_difference(our_losses(spec, tmp_path), theirs[batch].losses) > MISTAKE


def test_the_end_of_a_turn_is_supervised_and_nothing_behind_it_is(files: tuple[Path, Path]) -> None:
    spec = run_spec(files, "batch 8")
    end = load_tokenizer(load_inputs(spec).base).eos_token_id
    for row in our_rows(spec):
        assert row["labels"][-1] == row["input_ids"][-1] == end
