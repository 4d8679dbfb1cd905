"""Real runs of `transformers.Trainer` with the penalty's callback, against the penalty written into the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from narrowly.integrations.transformers import (
    TENSORS,
    EvalModeCallback,
    SpectralPenaltyCallback,
    optimizer_factory,
    put_first,
)
from narrowly.optim.build import build_optimizer
from narrowly.records.errors import NarrowlyError, ResumeError
from narrowly.records.optimisers.registry import OPTIMISERS, MuonSpec
from narrowly.spectrum.pairs import pairs_from_model
from narrowly.spectrum.penalty import SpectralPenalty, spectral_penalty
from tiny_hosts import CLIP, LAM, arguments, collate, distance, factors, host_run, plain_run, tiny_adapted, tiny_rows
from ulps import ulps_of_largest

ROWS = tiny_rows(32)


class PenaltyInTheLoss(Trainer):  # type: ignore[misc]
    """The penalty as one would write it by hand: right at accumulation 1, counted once per micro-batch beyond."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, *args, **kwargs) + LAM * spectral_penalty(pairs_from_model(model))


class TooLate(TrainerCallback):  # type: ignore[misc]
    """The penalty at the hook that looks right: after clipping."""

    def on_pre_optimizer_step(self, *_: Any, model: Any, **kwargs: Any) -> None:
        SpectralPenalty(model, LAM).seed_gradients()


IN_THE_LOSS_ULPS = 8.0
"""Units in the last place of a factor's largest entry after 4 steps; 0 was measured under four instruction sets.

The callback multiplies in batches, the loss one pair at a time, which a library may sum in another order.
"""


def test_at_accumulation_one_the_callback_is_the_penalty_in_the_loss_but_for_the_last_place(tmp_path: Path) -> None:
    by_callback = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(LAM)])
    by_hand = host_run(tmp_path, ROWS, [], trainer_class=PenaltyInTheLoss)
    near = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(LAM * 1.001)])
    expected = factors(by_hand.model)
    apart = [
        max(ulps_of_largest(factors(run.model)[name], tensor) for name, tensor in expected.items())
        for run in (by_callback, near)
    ]
    assert apart[0] <= IN_THE_LOSS_ULPS < apart[1]  # a lambda that is off by 1e-3 is seen
    norms = [row["grad_norm"] for row in by_callback.state.log_history if "grad_norm" in row]
    assert len(norms) == 4 and min(norms) > CLIP, "clipping must bite, or its order is not tested"


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_trainer_goes_the_way_of_the_plain_loop(accumulation: int, bf16: bool, tmp_path: Path) -> None:
    steps = 4
    trainer = host_run(
        tmp_path, ROWS, [SpectralPenaltyCallback(LAM)], max_steps=steps, bf16=bf16,
        per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    expected = plain_run(ROWS, steps=steps, per_step=8, autocast=bf16, micro=accumulation if bf16 else 1)
    assert distance(factors(trainer.model), expected) < 1e-5


def test_under_autocast_the_penalty_is_the_float32_one(tmp_path: Path) -> None:
    plain, half = (host_run(tmp_path, ROWS, [SpectralPenaltyCallback(LAM)], bf16=bf16) for bf16 in (False, True))
    values = [[row["penalty"] for row in run.state.log_history if "penalty" in row] for run in (plain, half)]
    assert len(values[0]) == 4
    assert values[0][0] == values[1][0] == float(SpectralPenalty(tiny_adapted(), LAM).value())
    assert values[0][1:] != values[1][1:], "the runs themselves must differ, or autocast was off"


@pytest.mark.parametrize("accumulation", [2, 4])
def test_in_the_loss_the_penalty_would_count_once_per_micro_batch(accumulation: int, tmp_path: Path) -> None:
    wrong = host_run(
        tmp_path, ROWS, [], trainer_class=PenaltyInTheLoss, per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    assert distance(factors(wrong.model), plain_run(ROWS, steps=4, per_step=8)) > 1e-2
    assert distance(factors(wrong.model), plain_run(ROWS, steps=4, per_step=8, lam=LAM * accumulation)) < 1e-5


def test_before_the_optimiser_step_the_penalty_would_escape_clipping(tmp_path: Path) -> None:
    wrong = host_run(tmp_path, ROWS, [TooLate()], per_device_train_batch_size=8)
    assert distance(factors(wrong.model), plain_run(ROWS, steps=4, per_step=8)) > 1e-2


def test_decoupled_moves_each_factor_by_its_own_rate_whatever_the_clipping(tmp_path: Path) -> None:
    trainer = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(LAM, mode="decoupled")], max_steps=1)
    without = host_run(tmp_path, ROWS, [], max_steps=1)
    by_hand = tiny_adapted()
    penalty = spectral_penalty(pairs_from_model(by_hand))
    penalty.backward()
    found, base = factors(trainer.model), factors(without.model)
    for name, parameter in by_hand.named_parameters():
        if parameter.requires_grad:
            expected = base[name] - 0.3 * LAM * parameter.grad
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_lambda_zero_is_no_penalty_bit_for_bit(tmp_path: Path) -> None:
    zero = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(0.0)], gradient_accumulation_steps=2)
    none = host_run(tmp_path, ROWS, [], gradient_accumulation_steps=2)
    found, expected = factors(zero.model), factors(none.model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


RESUMED = {
    "paper": {},
    "warm-up": {"warmup_steps": 5},
    "capped": {"max_grad_ratio": 0.1},
    "functional": {"kind": "functional", "decay": 0.5},
    "project": {"kind": "project", "every": 2},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_ends_where_the_whole_one_does_bit_for_bit(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lam": LAM, **RESUMED[name]}
    fields: dict[str, Any] = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 5}
    whole = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(**options)], **fields)
    assert (tmp_path / "checkpoint-3" / TENSORS).is_file() == (name == "functional")
    resumed = host_run(
        tmp_path, ROWS, [SpectralPenaltyCallback(**options)], resume=str(tmp_path / "checkpoint-3"), **fields
    )
    found, expected = factors(resumed.model), factors(whole.model)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    rows = [[row for row in run.state.log_history if row["step"] > 3 and "penalty" in row] for run in (whole, resumed)]
    assert len(rows[0]) == 2 and [row["penalty"] for row in rows[0]] == [row["penalty"] for row in rows[1]]


def test_a_resume_that_lets_the_trainer_restore_callbacks_goes_the_same_way(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    options: dict[str, Any] = {"lam": LAM, "warmup_steps": 3}
    whole = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(**options)], **fields)
    resumed = host_run(
        tmp_path, ROWS, [SpectralPenaltyCallback(**options)], resume=str(tmp_path / "checkpoint-2"),
        restore_callback_states_from_checkpoint=True, **fields,
    )  # fmt: skip
    assert distance(factors(resumed.model), factors(whole.model)) == 0.0


def test_a_resume_that_cannot_find_its_penalty_is_an_error(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    options: dict[str, Any] = {"lam": LAM, "kind": "functional"}
    host_run(tmp_path, ROWS, [SpectralPenaltyCallback(**options)], **fields)
    folder = tmp_path / "checkpoint-2"

    def resume(**penalty: Any) -> None:
        host_run(tmp_path, ROWS, [SpectralPenaltyCallback(**penalty)], resume=str(folder), **fields)

    with pytest.raises(ResumeError, match=r"has lam 0.5 instead of 0.1; accepted"):
        resume(**options | {"lam": 0.1})
    tensors = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(tensors[:-1] + bytes([tensors[-1] ^ 1]))
    with pytest.raises(ResumeError, match="sha256"):
        resume(**options)
    (folder / TENSORS).unlink()
    with pytest.raises(ResumeError, match=TENSORS):
        resume(**options)
    record = json.loads((folder / "trainer_state.json").read_text())
    del record["stateful_callbacks"]["SpectralPenaltyCallback"]
    (folder / "trainer_state.json").write_text(json.dumps(record))
    with pytest.raises(ResumeError, match="holds no state of the penalty"):
        resume(**options)


def test_the_log_holds_value_and_lambda_at_the_users_logging_steps(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *_: Any, logs: Any, **kwargs: Any) -> None:
            seen.append(dict(logs))

    run = host_run(
        tmp_path, ROWS, [SpectralPenaltyCallback(LAM, warmup_steps=8), Reporter()], logging_steps=2, max_steps=6
    )
    rows = [row for row in run.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    # lambda of the step just done: its index over the steps of warm-up
    assert [row["penalty_lambda"] for row in rows] == pytest.approx([LAM * 1 / 8, LAM * 3 / 8, LAM * 5 / 8])
    assert [row["penalty"] for row in rows] == [row["penalty"] for row in seen if "penalty" in row]


def test_put_first_lets_reporters_that_were_there_before_see_the_penalty(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def on_log(self, *_: Any, logs: Any, **kwargs: Any) -> None:
            seen.append("penalty" in logs)

    trainer = host_run(tmp_path, ROWS, [Reporter()], max_steps=1)
    assert not any(seen)
    put_first(trainer, SpectralPenaltyCallback(LAM))
    trainer.train()
    assert any(seen)


def test_the_factory_builds_from_the_model_that_is_trained(tmp_path: Path) -> None:
    model = tiny_adapted()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments(tmp_path)),
        train_dataset=ROWS,
        data_collator=collate,
        optimizer_cls_and_kwargs=optimizer_factory({"kind": "muon", "lr": 1e-2}),
    )
    trainer.train()
    other = host_run(tmp_path, ROWS, [], optimizer=lambda model: build_optimizer(MuonSpec(lr=1e-2), model))
    assert distance(factors(model), factors(other.model)) == 0.0
    with pytest.raises(NarrowlyError, match="optimiser"):
        optimizer_factory({"kind": "moun", "lr": 1e-2})


def schedule_free(model: torch.nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(OPTIMISERS["schedulefree_adamw"](lr=0.05), model)


class Weights(TrainerCallback):  # type: ignore[misc]
    """Keeps the factors as a checkpoint would find them, and as the step left them."""

    def __init__(self) -> None:
        self.saved: list[Any] = []
        self.left: list[Any] = []

    def on_optimizer_step(self, *_: Any, model: Any, **kwargs: Any) -> None:
        self.left.append(factors(model))

    def on_save(self, *_: Any, model: Any, **kwargs: Any) -> None:
        self.saved.append(factors(model))


def test_schedule_free_is_saved_as_its_average_and_trains_on_undisturbed(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optimizer": schedule_free}
    with_penalty = SpectralPenaltyCallback(LAM)
    weights = Weights()
    saving = host_run(tmp_path / "a", ROWS, [with_penalty, EvalModeCallback(), weights], **fields)
    quiet = host_run(
        tmp_path / "b", ROWS, [SpectralPenaltyCallback(LAM), EvalModeCallback()], **fields | {"save_steps": 4}
    )
    assert all(not torch.equal(weights.saved[0][name], weights.left[1][name]) for name in weights.saved[0])
    assert distance(factors(saving.model), factors(quiet.model)) < 1e-5
    naive = Weights()
    host_run(tmp_path / "c", ROWS, [SpectralPenaltyCallback(LAM), naive], **fields)
    assert all(torch.equal(naive.saved[0][name], naive.left[1][name]) for name in naive.saved[0])
