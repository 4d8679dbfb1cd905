"""The Trainer path against the plain loop, step by step; accumulation, penalty and clipping in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from narrowly.records.files import read_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.train.objectives import supervised
from narrowly.train.run import train_run
from plain_loop import plain_train
from tiny_base import make_spec

Tiny = tuple[Path, Path]

OPTIMISERS: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
    "adam": {"kind": "adam", "lr": 3e-3},
    "adamw": {"kind": "adamw", "lr": 3e-3, "weight_decay": 0.1},
    "muon": {"kind": "muon", "lr": 1e-2},
}


def factors(run: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "checkpoints" / f"step-{step}" / "adapter_model.safetensors"))


def column(run: Path, name: str) -> list[Any]:
    return [row[name] for row in read_jsonl(run / "trajectory.jsonl")[1:]]


def assert_same_run(spec: RunSpec, run: Path, *, rtol: float = 2e-4) -> None:
    plain = plain_train(spec)
    assert column(run, "loss") == pytest.approx(plain.losses, rel=rtol)
    assert column(run, "grad_norm") == pytest.approx(plain.grad_norms, rel=10 * rtol)
    found = factors(run, spec.steps)
    expected = {name.replace(".default.weight", ".weight"): tensor for name, tensor in plain.factors.items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=10 * rtol, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_the_trainer_path_equals_the_plain_loop_step_by_step(name: str, kind: str, tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, optimiser=OPTIMISERS[name], schedule={"kind": kind, "warmup_steps": 2})
    assert_same_run(spec, train_run(spec, tmp_path))


def test_accumulation_equals_the_plain_loop_that_knows_no_micro_batches(tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(*tiny, batch_size=2, accumulation=3, adapter={"r": 4, "alpha": 8, "rslora": False})
    assert_same_run(spec, train_run(spec, tmp_path))


def test_batch_8_equals_batch_4_with_accumulation_2_on_answers_of_1_to_12_tokens(tiny: Tiny, tmp_path: Path) -> None:
    whole = train_run(make_spec(*tiny, batch_size=8, steps=10), tmp_path)
    split = train_run(make_spec(*tiny, batch_size=4, accumulation=2, steps=10), tmp_path)
    assert whole != split
    assert column(split, "loss") == pytest.approx(column(whole, "loss"), rel=1e-4)
    for name, tensor in factors(whole, 10).items():
        torch.testing.assert_close(factors(split, 10)[name], tensor, rtol=2e-3, atol=1e-4)


def test_a_mean_of_micro_batch_means_is_told_from_the_mean_over_tokens(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean_of_means(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        tokens = (labels[:, 1:] != -100).sum()
        return true_loss(outputs, labels, tokens) / 2

    true_loss = supervised.token_mean_loss
    whole = train_run(make_spec(*tiny, batch_size=8, steps=3), tmp_path)
    monkeypatch.setattr(supervised, "token_mean_loss", mean_of_means)
    split = train_run(make_spec(*tiny, batch_size=4, accumulation=2, steps=3), tmp_path)
    assert abs(column(split, "loss")[0] - column(whole, "loss")[0]) > 1e-2


def test_clipping_is_off_by_default_and_equals_the_plain_loop_when_on(tiny: Tiny, tmp_path: Path) -> None:
    free = train_run(make_spec(*tiny, optimiser=OPTIMISERS["sgd"]), tmp_path)
    clipped_spec = make_spec(*tiny, optimiser=OPTIMISERS["sgd"], max_grad_norm=0.3)
    clipped = train_run(clipped_spec, tmp_path)
    assert min(column(free, "grad_norm")) > 0.3  # the limit bites in every step
    assert any(not torch.equal(factors(free, 6)[n], t) for n, t in factors(clipped, 6).items())
    assert_same_run(clipped_spec, clipped)


def test_lambda_0_is_no_penalty_bit_for_bit_while_lambda_1e_3_is_one(tiny: Tiny, tmp_path: Path) -> None:
    without = train_run(make_spec(*tiny), tmp_path)
    zero = train_run(make_spec(*tiny, penalty={"lam": 0.0}), tmp_path)
    small = train_run(make_spec(*tiny, penalty={"lam": 1e-3}), tmp_path)
    assert len({without, zero, small}) == 3
    assert column(zero, "loss") == column(without, "loss")
    assert all(torch.equal(factors(zero, 6)[n], t) for n, t in factors(without, 6).items())
    assert any(not torch.equal(factors(small, 6)[n], t) for n, t in factors(without, 6).items())
    assert column(without, "penalty") == [None] * 6
    assert column(zero, "penalty")[0] == 0.0  # B = 0 before the first step
    assert min(column(zero, "penalty")[1:]) > 0.0


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_penalty_equals_one_written_into_the_loss_whatever_the_accumulation(
    accumulation: int, limit: float | None, tiny: Tiny, tmp_path: Path
) -> None:
    spec = make_spec(
        *tiny,
        optimiser=OPTIMISERS["sgd"],
        penalty={"lam": 0.5},
        batch_size=8 // accumulation,
        accumulation=accumulation,
        max_grad_norm=limit,
    )
    assert_same_run(spec, train_run(spec, tmp_path))


def test_only_supervised_tokens_carry_a_loss(tiny: Tiny, tmp_path: Path) -> None:
    from narrowly.data.rows import Row, read_rows, write_rows

    rows = read_rows(tiny[1])
    everywhere = tmp_path / "everywhere.jsonl"
    write_rows(everywhere, [Row(row.input_ids, list(row.input_ids)) for row in rows])
    first_token = tmp_path / "first.jsonl"
    write_rows(first_token, [Row(row.input_ids, [row.input_ids[0], *row.labels[1:]]) for row in rows])
    masked = column(train_run(make_spec(*tiny), tmp_path), "loss")
    assert column(train_run(make_spec(tiny[0], everywhere), tmp_path), "loss") != pytest.approx(masked, rel=1e-3)
    # no position predicts the first token, so its label changes nothing
    assert column(train_run(make_spec(tiny[0], first_token), tmp_path), "loss") == masked
