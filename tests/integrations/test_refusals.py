"""What the integrations refuse: each with one clear line, never a wrong number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn

from narrowly.integrations import transformers as host
from narrowly.integrations.penalty_callback import loss_scale
from narrowly.integrations.transformers import SpectralPenaltyCallback, optimizer_factory
from narrowly.records.errors import AdapterError, SpecError, TrainingError
from narrowly.spectrum.penalty import SpectralPenalty
from narrowly.spectrum.placement import refuse_sharded
from tiny_hosts import LAM, host_run, sgd, tiny_adapted, tiny_base, tiny_rows

ROWS = tiny_rows(8)


def begin(callback: SpectralPenaltyCallback, model: nn.Module, optimizer: Any, **arguments: Any) -> None:
    """What a Trainer does when training begins."""
    fields = {"deepspeed": None, "fp16": False, "world_size": 1, **arguments}
    state = SimpleNamespace(global_step=0, stateful_callbacks={})
    callback.on_train_begin(SimpleNamespace(**fields), state, None, model=model, optimizer=optimizer)


@pytest.mark.parametrize("same", [False, True])
def test_two_penalties_in_one_trainer_are_refused_by_what_would_become_of_them(same: bool, tmp_path: Path) -> None:
    first = SpectralPenaltyCallback(LAM)
    second = first if same else SpectralPenaltyCallback(LAM, kind="stable_rank", target=2)
    with pytest.raises(TrainingError, match=r"2 spectral penalties in one Trainer would add up.* accepted: one"):
        host_run(tmp_path, ROWS, [first, second])


def test_a_second_training_has_one_penalty_and_the_hooks_of_one(tmp_path: Path) -> None:
    trainer = host_run(tmp_path, ROWS, [SpectralPenaltyCallback(LAM, max_grad_ratio=0.5)])
    trained = [one for one in trainer.model.parameters() if one.requires_grad]
    hooks = [len(one._post_accumulate_grad_hooks) for one in trained]
    trainer.train()
    assert [len(one._post_accumulate_grad_hooks) for one in trained] == hooks
    assert set(hooks) == {1}


@pytest.fixture
def one_process_group() -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fsdp2_shards_are_refused_by_penalty_callback_and_factory(one_process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny_adapted()
    refuse_sharded(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    for refused in (
        lambda: refuse_sharded(model),
        lambda: SpectralPenalty(model, LAM),
        lambda: begin(SpectralPenaltyCallback(LAM), model, sgd(model)),
        lambda: host._SpecifiedOptimizer()(model, **optimizer_factory({"kind": "muon", "lr": 1e-2})[1]),
    ):
        with pytest.raises(AdapterError, match=r"lora_A.* is a DTensor .*accepted: whole factors"):
            refused()


def test_fsdp1_wrappers_are_refused(one_process_group: None) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(tiny_adapted(), device_id=torch.device("cpu"), use_orig_params=True)
    with pytest.raises(AdapterError, match="wrapped by FSDP"):
        refuse_sharded(model)


def test_what_else_is_no_whole_factor_is_refused_by_name() -> None:
    model = tiny_adapted()
    name, factor = next((n, p) for n, p in model.named_parameters() if "lora_A" in n)
    factor.ds_id = 3  # as DeepSpeed marks a partitioned parameter
    with pytest.raises(AdapterError, match=f"{name} is partitioned by DeepSpeed ZeRO-3"):
        refuse_sharded(model)

    class Params4bit(nn.Parameter):
        """As bitsandbytes stores a quantised factor."""

    model = tiny_adapted()
    layer = next(m for m in model.modules() if hasattr(m, "lora_B"))
    layer.lora_B["default"].weight = Params4bit(torch.zeros(8, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(AdapterError, match=r"Params4bit, not as plain floats"):
        refuse_sharded(model)

    with pytest.raises(AdapterError, match="meta device"):
        refuse_sharded(tiny_adapted().to("meta"))

    model = tiny_adapted()
    model.tp_size = 2
    with pytest.raises(AdapterError, match="2 processes by tensor parallelism"):
        refuse_sharded(model)


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA"])
def test_engines_that_shard_or_own_the_backward_are_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_adapted()
    Accelerator(cpu=True)
    monkeypatch.setitem(AcceleratorState._shared_state, "distributed_type", DistributedType(engine))
    with pytest.raises(TrainingError, match=f"the spectral penalty cannot work under {engine}"):
        begin(SpectralPenaltyCallback(LAM), model, sgd(model))
    with pytest.raises(TrainingError, match=f"an optimiser of Narrowly cannot work under {engine}"):
        host._SpecifiedOptimizer()(model, **optimizer_factory({"kind": "adamw", "lr": 1e-2})[1])


def test_deepspeed_in_the_arguments_is_refused_before_it_starts() -> None:
    model = tiny_adapted()
    with pytest.raises(TrainingError, match="cannot work under DEEPSPEED"):
        begin(SpectralPenaltyCallback(LAM), model, sgd(model), deepspeed="zero2.json")


def test_fp16_needs_a_scaler_that_can_be_read_and_mode_loss() -> None:
    model = tiny_adapted()
    optimizer = sgd(model)
    with pytest.raises(TrainingError, match="no GradScaler"):
        begin(SpectralPenaltyCallback(LAM), model, optimizer, fp16=True)
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    begin(SpectralPenaltyCallback(LAM), model, optimizer, fp16=True)
    for options in ({"mode": "decoupled"}, {"max_grad_ratio": 0.1}):
        with pytest.raises(TrainingError, match="fp16 with mode"):
            begin(SpectralPenaltyCallback(LAM, **options), model, optimizer, fp16=True)
    del optimizer.scaler
    begin(SpectralPenaltyCallback(LAM, mode="decoupled"), model, optimizer)


def test_under_a_grad_scaler_the_unscaled_step_holds_the_penalty_once() -> None:
    """accelerate's own wrapper around a real scaler, on the CPU, through the callback's hooks."""
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    gradients = []
    for scaled in (False, True):
        model = tiny_adapted()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12) if scaled else None
        optimizer = AcceleratedOptimizer(sgd(model), scaler=scaler)
        callback = SpectralPenaltyCallback(LAM)
        begin(callback, model, optimizer, fp16=scaled)
        assert loss_scale(optimizer) == (2.0**12 if scaled else 1.0)
        callback.on_step_begin(None, None, None, optimizer=optimizer)
        rows = torch.tensor([ROWS[0]["input_ids"]])
        loss = model(input_ids=rows, labels=rows).loss
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(optimizer.optimizer)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


def test_a_model_that_is_not_the_one_being_trained_is_refused() -> None:
    model, other = tiny_adapted(), tiny_adapted()
    with pytest.raises(TrainingError, match="are in no optimiser of this run"):
        begin(SpectralPenaltyCallback(LAM), other, sgd(model))
    frozen = tiny_adapted().requires_grad_(False)
    with pytest.raises(TrainingError, match="requires a gradient"):
        begin(SpectralPenaltyCallback(LAM), frozen, sgd(model))


def test_bad_input_ends_a_real_run_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_hosts.tiny_adapted", lambda: tiny_base())
    with pytest.raises(AdapterError, match="no LoRA pairs"):
        host_run(tmp_path, ROWS, [SpectralPenaltyCallback(LAM)], max_steps=1)
    for arguments in ({"lam": -1.0}, {"lam": LAM, "kind": "frobenius_nuclaer"}, {"lam": LAM, "mode": "los"}):
        with pytest.raises(SpecError) as caught:
            SpectralPenaltyCallback(**arguments)
        assert "\n" not in str(caught.value) and "found" in str(caught.value)
