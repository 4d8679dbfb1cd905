"""What the processes of one run tell each other: where to begin, and in every step a sum.

Each process computes the gradient of its share of a step's rows, divided by the tokens of the whole step; the sum is
the gradient of the run. It is taken once per optimiser step, when all micro-batches are through. DDP's own wrapper
would sum while the last one is still going, which hides the wait, but only where every process has equally many
micro-batches: not with uneven shares, and not where one has just halved its own for want of memory. LoRA's gradients
are small enough for the wait not to matter.

What is said beside the gradients goes through gloo, which blocks without keeping a GPU busy, and may take as long as
an observer of the first process wants.
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

LONGEST_WAIT = timedelta(days=7)
"""Between two messages: evaluations at a checkpoint may take hours. The parent sees at once when one dies."""

BUNCH = 2**24
"""Elements of gradients that are summed together (64 MiB): few calls, little memory."""


class LostPeerError(RuntimeError):
    """Another process of the run has gone; why, it has said itself."""


class StepSum(NamedTuple):
    """What all processes have together in one step: the loss, and the smallest micro-batch that one came down to."""

    loss: float
    micro_batch: int


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # NCCL's messages have several lines
        raise LostPeerError(" ".join(str(error).split())) from error


class Ranks:
    """This process among those of its run; alone, it has nobody to tell.

    Attributes:
        rank: of this process; 0 is the one that writes the run directory.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1, words: Any = None) -> None:
        self.rank, self.size, self._words = rank, size, words

    @property
    def first(self) -> bool:
        """Return whether this process writes the run directory."""
        return self.rank == 0

    def from_first(self, number: int) -> int:
        """Return the number that the first process gives here."""
        import torch

        if self.size == 1:
            return number
        told = torch.tensor([number])
        with _talking():
            torch.distributed.broadcast(told, 0, group=self._words)
        return int(told)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self._sum_words([0.0])

    def sum_step(self, parameters: Sequence[nn.Parameter], loss: float, micro_batch: int) -> StepSum:
        """Replace every gradient by its sum over the processes, the same bits everywhere.

        A parameter that got no gradient in any process keeps none.

        Args:
            parameters: the trained ones, in the same order in every process.
            loss: this process's share of the step's loss.
            micro_batch: rows that this process takes at once.
        """
        import torch

        mine = [float(micro_batch) if rank == self.rank else 0.0 for rank in range(self.size)]
        have = [float(parameter.grad is not None) for parameter in parameters]
        found = self._sum_words([loss, *mine, *have])
        moved = [one for one, holders in zip(parameters, found[1 + self.size :], strict=True) if holders]
        for bunch in _bunches(moved):
            pieces = [torch.zeros_like(one) if one.grad is None else one.grad for one in bunch]
            flats = [piece.detach().flatten().float() for piece in pieces]
            flat = flats[0] if len(flats) == 1 else torch.cat(flats)  # an embedding's is summed where it lies
            with _talking():
                torch.distributed.all_reduce(flat)
            for one, piece, total in zip(bunch, pieces, torch.split(flat, [one.numel() for one in bunch]), strict=True):
                piece.copy_(total.view_as(piece))
                one.grad = piece
        return StepSum(found[0], int(min(found[1 : 1 + self.size])))

    def check_equal(self, parameters: Sequence[Tensor], step: int) -> None:
        """Check that every process holds the same parameters, bit for bit.

        Raises:
            TrainingError: they have come apart.
        """
        import torch

        if self.size == 1:
            return
        kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        here = torch.zeros(len(parameters), dtype=torch.int64)
        for index, one in enumerate(parameters):
            bits = one.detach().contiguous().view(kinds[one.element_size()]).flatten()
            # in pieces: a sum of another dtype copies what it sums, of an embedding several GiB
            here[index] = torch.stack([piece.sum(dtype=torch.int64) for piece in torch.split(bits, BUNCH)]).sum().cpu()
        most = torch.stack([here, -here])
        with _talking():
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=self._words)
        apart = int((most[0] != -most[1]).sum())
        if apart:
            raise TrainingError(
                f"the {self.size} processes differ in {apart} of {len(parameters)} trained tensors after step {step}, "
                "accepted: the same bits in all (GPUs of one model; or one process)"
            )

    def _sum_words(self, numbers: Sequence[float]) -> list[float]:
        import torch

        told = torch.tensor(numbers, dtype=torch.float64)
        with _talking():
            torch.distributed.all_reduce(told, group=self._words)
        return told.tolist()


ALONE = Ranks()
"""The one process of a run."""


def _bunches(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bunch: list[nn.Parameter] = []
    for parameter in parameters:
        if bunch and sum(one.numel() for one in bunch) + parameter.numel() > BUNCH:
            yield bunch
            bunch = []
        bunch.append(parameter)
    if bunch:
        yield bunch


def connect(rank: int, size: int, meeting: Path, device: Literal["cpu", "cuda"]) -> Ranks:
    """Meet the other processes of this run on this machine.

    Args:
        rank: of this process.
        size: number of processes.
        meeting: a file that none of them has made yet; only this user should be able to write it.
        device: gradients are summed by NCCL on a GPU (of which this process should see its own only), else by gloo.
    """
    import torch

    # by default gloo asks what the host's own name stands for, which not every machine knows
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    with _talking():
        # of a file:// address torch takes the path as it is written, with %20 for a blank, and waits there for ever
        store = torch.distributed.FileStore(str(meeting), size)  # type: ignore[attr-defined]
        store.set_timeout(LONGEST_WAIT)
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            device_id=torch.device("cuda", 0) if device == "cuda" else None,
        )
        return Ranks(rank, size, torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT))
