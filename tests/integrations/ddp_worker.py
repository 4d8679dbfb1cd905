"""One process of a DDP run: trains under the Trainer in several ways and leaves its factors as files.

python -m torch.distributed.run --standalone --nproc-per-node 2 ddp_worker.py FOLDER
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from narrowly.integrations.transformers import SpectralPenaltyCallback
from narrowly.integrations.tripwire_callback import TripwireCallback
from narrowly.records.errors import TrainingError
from tiny_hosts import CLIP, LAM, factors, host_run, tiny_rows
from tiny_wire import lowered, wire_items, wire_run

WAYS = {
    "loss-1": ({}, 1),
    "loss-2": ({}, 2),
    "capped": ({"max_grad_ratio": 0.1}, 2),
    "decoupled": ({"mode": "decoupled"}, 2),
}
"""Options of the penalty, and accumulation."""

LIGHTNING = importlib.util.find_spec("lightning") is not None


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, (options, accumulation) in WAYS.items():
        trainer = host_run(
            folder / name, tiny_rows(32), [SpectralPenaltyCallback(LAM, **options)], max_steps=4,
            per_device_train_batch_size=4 // accumulation, gradient_accumulation_steps=accumulation, ddp_backend="gloo",
        )  # fmt: skip
        assert trainer.args.world_size == 2 and type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
        save_file(factors(trainer.model), folder / f"{name}.{trainer.args.process_index}.safetensors")
    try:
        host_run(folder, tiny_rows(8), [SpectralPenaltyCallback(LAM, kind="functional")], ddp_backend="gloo")
    except TrainingError as error:
        (folder / f"refused.{trainer.args.process_index}").write_text(str(error))
    watched_runs(folder)
    if LIGHTNING:
        for name, view in (("lightning", False), ("lightning-view", True)):
            lightning_run(folder / f"{name}.{trainer.args.process_index}.safetensors", trainer.args.process_index, view)
    torch.distributed.barrier()
    # everything is on disk; letting DDP and gloo take each other down has hung here once
    os._exit(0)


def watched_runs(folder: Path) -> None:
    """A control, and a training that the tripwire of the first process ends in both."""
    fields = {"every": 1, "questions": 10, "budget": 1.0, "items": wire_items()}
    rank = wire_run(folder / "right", [TripwireCallback(**fields)], "aligned", ddp_backend="gloo").args.process_index
    if rank == 0:
        lowered(folder / "right", folder / "control", 3)
    torch.distributed.barrier()
    tripwire = TripwireCallback(**fields, control=folder / "control", stop=10.0)
    trainer = wire_run(folder / "watched", [tripwire], ddp_backend="gloo")
    (folder / f"ended.{rank}").write_text(f"{trainer.state.global_step} {len(tripwire.looks)}")
    save_file(factors(trainer.model), folder / f"watched.{rank}.safetensors")


def lightning_run(file: Path, rank: int, view: bool) -> None:
    """Two micro-batches per step, one for each process; DDP's mean is the mean over the step's tokens."""
    import lightning
    from lightning.pytorch.strategies import DDPStrategy
    from test_lightning_runs import Tuned, batches

    from narrowly.integrations.lightning import SpectralPenaltyCallback as InLightning

    trainer = lightning.Trainer(
        max_steps=4, gradient_clip_val=CLIP, callbacks=[InLightning(LAM)], accelerator="cpu", devices=2, logger=False,
        strategy=DDPStrategy(gradient_as_bucket_view=view), enable_checkpointing=False, enable_progress_bar=False,
        use_distributed_sampler=False, default_root_dir=str(file.parent),
    )  # fmt: skip
    module = Tuned()
    trainer.fit(module, torch.utils.data.DataLoader(batches(4, 2)[rank::2], batch_size=None))
    assert trainer.world_size == 2
    save_file(factors(module.model), file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
