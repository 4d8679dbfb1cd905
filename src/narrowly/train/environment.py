"""What a run was made with: versions, platform, processes, threads. Beside the results, never part of an id."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from narrowly.models.nf4 import check_nf4
from narrowly.records.errors import ResumeError, SpecError
from narrowly.records.install import PACKAGE, installed_version, with_todays_name
from narrowly.records.run_spec import RunSpec

PACKAGES = (
    PACKAGE,
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "pytorch-optimizer",
    "numpy",
)
"""Packages whose version can move a number of a run."""

NF4_PACKAGES = ("bitsandbytes", "kernels")
"""Further ones of a run on a base in 4 bits: where the second is installed, the first multiplies with it."""


def _version(package: str) -> str:
    return installed_version(package) or "not installed"


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package in `PACKAGES`."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def check_hardware(spec: RunSpec) -> None:
    """Refuse a run on a GPU where there is none, and a base in 4 bits where nothing can quantise it.

    Raises:
        SpecError: torch finds no GPU, or bitsandbytes does not support the device.
        MissingExtraError: a base in 4 bits without bitsandbytes.
    """
    if spec.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SpecError("device is cuda, but torch finds no GPU; accepted: cpu, or a machine with one")
    if spec.base_dtype == "nf4":
        check_nf4(spec.device)


def environment(spec: RunSpec, processes: int = 1) -> dict[str, Any]:
    """Return the content of environment.json: versions, platform, processes of the run and threads of each."""
    import torch

    more = NF4_PACKAGES if spec.base_dtype == "nf4" else ()
    return {
        "versions": {**versions(), **{package: _version(package) for package in more}},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "processes": processes,
        "threads": torch.get_num_threads(),
    }


def check_versions(recorded: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Check that a resume would not mix versions; the product's own is one version, whatever its name was.

    Raises:
        ResumeError: naming every package that differs, with both versions.
    """
    recorded, now = with_todays_name(recorded), with_todays_name(now)
    changed = [
        f"{package} {recorded.get(package, 'not recorded')} -> {now.get(package, 'not recorded')}"
        for package in sorted({*recorded, *now})
        if recorded.get(package) != now.get(package)
    ]
    if changed:
        raise ResumeError(
            f"this run was begun with other versions ({', '.join(changed)}); accepted: the same versions, or "
            "a resume that is asked to mix them (allow_version_change=True)"
        )
