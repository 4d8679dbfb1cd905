"""Two processes that train one spec after the other together, without the launcher: started by test_processes.py."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from narrowly.records.errors import TrainingError
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import load_inputs
from narrowly.train.process_group import ProcessGroup, join_group
from narrowly.train.run import run_directory
from narrowly.train.share import Job, train_share


def job_of(spec: RunSpec, out: Path) -> Job:
    inputs = load_inputs(spec)
    return Job(spec, inputs, run_directory(spec, out, inputs.resolved), (), False)


def main(rank: int, rendezvous: Path, specs: dict[str, RunSpec], tight: RunSpec, out: Path) -> None:
    """Train every spec in OUT/name, then `tight` where only the second process runs out of memory."""
    torch.set_num_threads(1)
    group = join_group(rank, 2, rendezvous, "cpu")
    for name, spec in specs.items():
        train_share(job_of(spec, out / name), nullcontext(), print, group)
    _run_out_of_memory(group)
    train_share(job_of(tight, out / "tight"), nullcontext(), print, group)
    sums = _sums(group)
    parameters = [torch.zeros(3), torch.ones(9, dtype=torch.bfloat16)]
    group.check_equal(parameters, 6)
    parameters[1][7] += group.rank / 128  # one unit in the last place, in the second piece of four
    try:
        group.check_equal(parameters, 7)
    except TrainingError as error:
        (out / f"apart-{rank}").write_text(str(error))
    (out / f"sums-{rank}.json").write_text(json.dumps(sums))
    group.barrier()
    os._exit(0)


def _run_out_of_memory(group: ProcessGroup) -> None:
    original = Trainer.training_step

    def limited(self: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss: torch.Tensor = original(self, model, inputs, num_items_in_batch)
        if group.rank == 1 and len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("the gradients are there already")
        return loss

    Trainer.training_step = limited


def _sums(group: ProcessGroup) -> list[Any]:
    """Sum gradients that only one process, both and none have; the second bucket begins in the middle."""
    from narrowly.train import process_group as module

    module.BUCKET_ELEMENTS = 4
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    parameters[group.rank].grad = torch.full((3,), 1.0 + group.rank)
    parameters[2].grad = torch.full((3,), 10.0 + group.rank)
    summed = group.sum_step(parameters, 0.5 + group.rank, 4 - group.rank)
    return [*summed, *(None if one.grad is None else one.grad.tolist() for one in parameters)]
