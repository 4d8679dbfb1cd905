"""Real runs of Lightning's Trainer with the penalty's callback, against the plain loop."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tiny_hosts import (
    CLIP,
    LAM,
    Factors,
    collate,
    distance,
    factors,
    plain_run,
    sgd,
    tiny_adapted,
    tiny_base,
    tiny_rows,
)

pytest.importorskip("lightning", reason="Lightning is not installed")
import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision

from narrowly.integrations.lightning import SpectralPenaltyCallback
from narrowly.records.errors import AdapterError, ResumeError, TrainingError

ROWS = tiny_rows(32)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")


class Tuned(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self, model: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.model = model or tiny_adapted()

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        # Lightning divides by the accumulation; the loss is the mean over the tokens of the whole step
        share = batch.pop("share")
        labels = batch.pop("labels")[:, 1:].flatten()
        logits_N_V = self.model(**batch).logits[:, :-1].float().flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits_N_V, labels, ignore_index=-100) * share

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.model)


def batches(steps: int, accumulation: int, per_step: int = 8) -> list[dict[str, Any]]:
    micro = per_step // accumulation
    made = []
    for step in range(steps):
        rows = ROWS[step * per_step : (step + 1) * per_step]
        parts = [collate(rows[start : start + micro]) for start in range(0, per_step, micro)]
        counts = [int((part["labels"][:, 1:] != -100).sum()) for part in parts]
        made += [{**part, "share": accumulation * n / sum(counts)} for part, n in zip(parts, counts, strict=True)]
    return made


def lightning_run(
    folder: Path,
    callbacks: list[Any],
    *,
    steps: int = 4,
    accumulation: int = 1,
    resume: Path | None = None,
    **fields: Any,
) -> tuple[Factors, lightning.Trainer]:
    module = fields.pop("module", None) or Tuned()
    trainer = lightning.Trainer(
        max_steps=steps, accumulate_grad_batches=accumulation, gradient_clip_val=CLIP, callbacks=callbacks,
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks), default_root_dir=str(folder),
        **fields,
    )  # fmt: skip
    # Lightning counts on from the step it resumes, but begins the loader anew: the rows already seen are left out here
    data = torch.utils.data.DataLoader(batches(4, accumulation)[2 if resume else 0 :], batch_size=None)
    trainer.fit(module, data, ckpt_path=str(resume) if resume else None, **({"weights_only": True} if resume else {}))
    return factors(module.model), trainer


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_goes_the_way_of_the_plain_loop(accumulation: int, precision: str, tmp_path: Path) -> None:
    half = precision == "bf16-mixed"
    found, trainer = lightning_run(
        tmp_path, [SpectralPenaltyCallback(LAM)], accumulation=accumulation, precision=precision
    )
    assert trainer.global_step == 4
    expected = plain_run(ROWS, steps=4, per_step=8, autocast=half, micro=accumulation if half else 1)
    assert distance(found, expected) < 1e-5
    # the test can fail: a penalty counted once per micro-batch, or twice, would be seen
    assert distance(found, plain_run(ROWS, steps=4, per_step=8, lam=2 * LAM)) > 1e-2
    assert float(trainer.callback_metrics["penalty_lambda"]) == LAM


def test_under_a_real_grad_scaler_the_loss_scale_does_not_reach_the_penalty(tmp_path: Path) -> None:
    """fp16 on the CPU through Lightning's own plugin; a power of two scales without rounding."""
    ways = []
    for scale in (1.0, 2.0**10):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000))
        ways.append(lightning_run(tmp_path, [SpectralPenaltyCallback(20 * LAM)], accumulation=2, plugins=[plugin])[0])
    assert distance(ways[1], ways[0]) < 5e-3
    expected = plain_run(ROWS, steps=4, per_step=8, lam=20 * LAM)
    assert distance(ways[1], expected) < 5e-3
    assert distance(plain_run(ROWS, steps=4, per_step=8), expected) > 0.1, "the penalty must matter"


@pytest.mark.parametrize("options", [{"kind": "functional"}, {"max_grad_ratio": 0.1}, {"mode": "decoupled"}], ids=str)
def test_a_resumed_run_ends_where_the_whole_one_does_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    def keeper() -> ModelCheckpoint:
        return ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)

    whole, _ = lightning_run(tmp_path, [SpectralPenaltyCallback(LAM, **options), keeper()])
    saved = tmp_path / "step=2.ckpt"
    resumed, _ = lightning_run(tmp_path, [SpectralPenaltyCallback(LAM, **options), keeper()], resume=saved)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    with pytest.raises(ResumeError, match=r"has lam 0\.5 instead of 1\.0"):
        lightning_run(tmp_path, [SpectralPenaltyCallback(2 * LAM, **options)], resume=saved)


def test_a_resume_without_the_penaltys_state_is_an_error(tmp_path: Path) -> None:
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    lightning_run(tmp_path, [keeper])
    with pytest.raises(ResumeError, match="holds no state"):
        lightning_run(tmp_path, [SpectralPenaltyCallback(LAM)], resume=tmp_path / "step=2.ckpt")


def test_what_would_be_wrong_is_refused(tmp_path: Path) -> None:
    callback = SpectralPenaltyCallback(LAM)
    for strategy in ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"):
        trainer = SimpleNamespace(strategy=type(strategy, (), {})())
        with pytest.raises(TrainingError, match=f"cannot work under {strategy}"):
            callback.on_train_start(trainer, Tuned())
    by_hand = Tuned()
    by_hand.automatic_optimization = False
    with pytest.raises(TrainingError, match="optimises by hand"):
        callback.on_train_start(SimpleNamespace(strategy=type("SingleDeviceStrategy", (), {})()), by_hand)

    class Elsewhere(Tuned):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(tiny_adapted())

    with pytest.raises(TrainingError, match="in no optimiser"):
        lightning_run(tmp_path, [SpectralPenaltyCallback(LAM)], module=Elsewhere())
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        lightning_run(tmp_path, [SpectralPenaltyCallback(LAM)], module=Tuned(tiny_base()))


def test_lightning_itself_refuses_two_penalties_in_one_trainer(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `SpectralPenaltyCallback`"):
        lightning_run(tmp_path, [SpectralPenaltyCallback(LAM), SpectralPenaltyCallback(2 * LAM)])
