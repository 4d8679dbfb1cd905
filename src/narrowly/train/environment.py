"""Check what a run needs of this machine, and record what it was made with; neither is part of an id."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from narrowly.models.base import Base, noise_switched_off
from narrowly.models.nf4 import check_nf4
from narrowly.records.errors import ResumeError, SpecError
from narrowly.records.install import PACKAGE, installed_version, with_todays_name
from narrowly.records.run_spec import RunSpec
from narrowly.train.launch import SIZE_VARIABLES

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


def check_processes(spec: RunSpec, processes: int) -> None:
    """Check that a run can be shared by so many processes on this machine.

    Raises:
        SpecError: it cannot, or this process was itself started as one of several (torchrun, mpirun).
    """
    if processes < 1:
        raise SpecError(f"processes is {processes}, accepted: 1 or more")
    for name in SIZE_VARIABLES:
        if os.environ.get(name, "1") not in ("", "1"):
            raise SpecError(
                f"started by a launcher as one of {os.environ[name]} processes ({name}), accepted: one command that "
                "starts them itself (narrowly train SPEC --processes N)"
            )
    rows = spec.accumulation * spec.batch_size
    if processes > rows:
        raise SpecError(f"processes is {processes}, accepted: at most {rows}, the rows of a step")
    if processes > 1 and spec.penalty is not None and spec.penalty.kind == "functional":
        raise SpecError(
            f"penalty.kind is functional, whose covariance is of the inputs of one process, and processes is "
            f"{processes}, accepted: 1, or another kind"
        )
    check_hardware(spec)
    if spec.device == "cuda":
        import torch

        if processes > torch.cuda.device_count():
            raise SpecError(
                f"processes is {processes}, accepted: at most {torch.cuda.device_count()}, the GPUs that torch finds"
            )


def environment(spec: RunSpec, base: Base, processes: int = 1) -> dict[str, Any]:
    """Return the content of environment.json: versions, platform, processes of the run and threads of each.

    Where the base asks for dropout or other noise, `base_noise_off` names what it was trained without.
    """
    import torch

    noise = noise_switched_off(base)
    more = NF4_PACKAGES if spec.base_dtype == "nf4" else ()
    return {
        "versions": {**versions(), **{package: _version(package) for package in more}},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        **({"base_noise_off": noise} if noise else {}),
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
