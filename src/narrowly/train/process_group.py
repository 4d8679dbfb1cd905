"""Exchange numbers between the processes of one run: the step to begin after, and the sum of every step's gradients.

Each process computes the gradient of its share of a step's rows, divided by the tokens of the whole step; the sum is
the gradient of the run. It is taken once per optimiser step, when all micro-batches are through. DDP's own wrapper
would sum while the last one is still going, which hides the wait, but only where every process has equally many
micro-batches: not with uneven shares, and not where one has just halved its own for want of memory. LoRA's gradients
are small enough for the wait not to matter.

Numbers beside the gradients go through gloo, which blocks without keeping a GPU busy, and may take as long as an
observer of the first process wants.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from narrowly.records.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT = timedelta(days=7)
"""Between two messages: evaluations at a checkpoint may take hours. The parent sees at once when a process dies."""

BUCKET_ELEMENTS = 2**24
"""Elements of gradients that are summed together (64 MiB): few calls, little memory."""


class PeerLostError(RuntimeError):
    """Another process of the group has ended; the cause is in the error that it has reported itself."""


class StepSum(NamedTuple):
    """Hold what all processes have together in one step.

    Attributes:
        loss: of all rows of the step.
        micro_batches: rows that each process takes at once, by rank.
    """

    loss: float
    micro_batches: tuple[int, ...]


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Turn an error of torch.distributed into a `PeerLostError`."""
    try:
        yield
    except RuntimeError as error:  # NCCL's messages have several lines
        raise PeerLostError(" ".join(str(error).split())) from error


class ProcessGroup:
    """Connect this process with the others of its run; a group of one communicates with nobody.

    Args:
        rank: of this process; 0 is the one that writes the run directory.
        size: number of processes.
        gloo: torch's process group for everything but gradients; None in a group of one.
    """

    def __init__(self, rank: int = 0, size: int = 1, gloo: Any = None) -> None:
        self.rank, self.size, self._gloo = rank, size, gloo

    @property
    def is_first(self) -> bool:
        """Return whether this process writes the run directory."""
        return self.rank == 0

    def broadcast(self, number: int) -> int:
        """Return the number that the first process gives here; that of the others is ignored.

        Raises:
            PeerLostError: a process has ended.
        """
        import torch

        if self.size == 1:
            return number
        shared = torch.tensor([number])
        with _peer_errors():
            torch.distributed.broadcast(shared, 0, group=self._gloo)
        return int(shared)

    def barrier(self) -> None:
        """Wait until all processes are here.

        Raises:
            PeerLostError: a process has ended.
        """
        if self.size > 1:
            self._sum_numbers([0.0])

    def sum_step(self, parameters: Sequence[nn.Parameter], loss: float, micro_batch: int) -> StepSum:
        """Replace every gradient by its sum over the processes, the same bits everywhere.

        A parameter that got no gradient in any process keeps none.

        Args:
            parameters: the trained ones, in the same order in every process.
            loss: this process's share of the step's loss.
            micro_batch: rows that this process takes at once.

        Raises:
            PeerLostError: a process has ended.
        """
        import torch

        # one message: the loss, every process's micro-batch in a place of its own, and who has which gradient
        micro_batches = [float(micro_batch) if rank == self.rank else 0.0 for rank in range(self.size)]
        has_gradient = [float(parameter.grad is not None) for parameter in parameters]
        sums = self._sum_numbers([loss, *micro_batches, *has_gradient])
        holders = sums[1 + self.size :]

        # gradients, a bucket at a time
        with_gradient = [parameter for parameter, count in zip(parameters, holders, strict=True) if count]
        for bucket in _buckets(with_gradient):
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
            flats_N = [gradient.detach().flatten().float() for gradient in gradients]
            flat_N = flats_N[0] if len(flats_N) == 1 else torch.cat(flats_N)  # an embedding's is summed where it lies
            with _peer_errors():
                torch.distributed.all_reduce(flat_N)
            totals = torch.split(flat_N, [one.numel() for one in bucket])
            for one, gradient, total_N in zip(bucket, gradients, totals, strict=True):
                gradient.copy_(total_N.view_as(gradient))
                one.grad = gradient
        return StepSum(sums[0], tuple(int(one) for one in sums[1 : 1 + self.size]))

    def check_equal(self, parameters: Sequence[Tensor], step: int) -> None:
        """Check that every process holds the same parameters, bit for bit.

        Raises:
            TrainingError: they differ.
            PeerLostError: a process has ended.
        """
        import torch

        if self.size == 1:
            return
        integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        checksums = torch.zeros(len(parameters), dtype=torch.int64)
        for index, one in enumerate(parameters):
            bits_N = one.detach().contiguous().view(integers[one.element_size()]).flatten()
            # in pieces: a sum of another dtype copies what it sums, of an embedding several GiB
            pieces = [piece.sum(dtype=torch.int64) for piece in torch.split(bits_N, BUCKET_ELEMENTS)]
            checksums[index] = torch.stack(pieces).sum().cpu()
        # the largest of x and of -x over the processes are opposite only where all have the same x
        extremes = torch.stack([checksums, -checksums])
        with _peer_errors():
            torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX, group=self._gloo)
        different = int((extremes[0] != -extremes[1]).sum())
        if different:
            raise TrainingError(
                f"the {self.size} processes differ in {different} of {len(parameters)} trained tensors after step "
                f"{step}, accepted: the same bits in all (GPUs of one model; or one process)"
            )

    def _sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        import torch

        sums = torch.tensor(numbers, dtype=torch.float64)
        with _peer_errors():
            torch.distributed.all_reduce(sums, group=self._gloo)
        return sums.tolist()


SINGLE = ProcessGroup()
"""The group of a run on one process."""


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(one.numel() for one in bucket) + parameter.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def join_group(rank: int, size: int, rendezvous: Path, device: Literal["cpu", "cuda"]) -> ProcessGroup:
    """Join the process group of a run on this machine, and wait until all others have.

    Args:
        rank: of this process.
        size: number of processes.
        rendezvous: a file that none of them has made yet; only this user should be able to write it.
        device: gradients are summed by NCCL on a GPU (of which this process should see its own only), else by gloo.

    Raises:
        PeerLostError: a process has ended, or the group cannot be formed.
    """
    import torch

    # by default gloo resolves the host's own name, which not every machine can
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    with _peer_errors():
        # of a file:// address torch takes the path as it is written, with %20 for a blank, and waits there for ever
        store = torch.distributed.FileStore(str(rendezvous), size)  # type: ignore[attr-defined]
        store.set_timeout(TIMEOUT)
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            device_id=torch.device("cuda", 0) if device == "cuda" else None,
        )
        return ProcessGroup(rank, size, torch.distributed.new_group(backend="gloo", timeout=TIMEOUT))
