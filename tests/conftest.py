"""Settings of the whole suite."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tiny_base import write_tiny

# seen, not explained: the processes of `-n 2` have COLUMNS=80, so output would be folded there and nowhere else
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)

# tests are never timed: a busy machine must not fail one
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of a tiny base, and a file of rows."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Take one thread, before fixtures of any scope: bit for bit is promised for one number of threads only."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Keep what is imported by now from the garbage collector: every run would walk it, .3 s each time."""
    gc.freeze()
