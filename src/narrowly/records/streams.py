"""Derive the seeds of named random streams from one run seed."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed for one named stream of random numbers of a run, 0 ... 2^63 - 1.

    Streams (LoRA init, row order, dropout of step n) are independent of each other, so that drawing more from
    one moves no other.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]) >> 1
