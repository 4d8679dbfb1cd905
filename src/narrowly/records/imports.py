"""Import large libraries without the garbage collector, which would walk every class that is there after every few."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Switch the garbage collector off, and on again where it was on: for imports, which leave little to collect.

    A quarter of the CPU time of importing torch, transformers and peft is the collector's (LOG.md, 29 November 2026).
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
