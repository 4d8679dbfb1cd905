"""Write the command of one vLLM server for a base and many adapters on it. Nothing is started."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.models.asked import ModelToAsk
from narrowly.models.base_files import read_object
from narrowly.records.adapter_files import ADAPTER_CONFIG
from narrowly.records.errors import SpecError
from narrowly.runs.directory import TEMPLATE, adapter_folder, read_spec

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that --max-lora-rank takes (vLLM 0.26, vllm/config/lora.py)."""

MOST_ADAPTERS = 8
"""Adapters in one batch; more take memory on the GPU and are swapped in from that of the machine."""


class Served(NamedTuple):
    """Hold an adapter that is served: the name by which it is asked, its folder, its rank."""

    name: str
    folder: Path
    rank: int


class VllmCommand(NamedTuple):
    """Hold the arguments of `vllm serve`, and the names by which models are asked: adapters first, the base last."""

    arguments: tuple[str, ...]
    names: tuple[str, ...]
    arithmetic: str

    @property
    def shown(self) -> str:
        """Return the command for a shell, one option a line."""
        lines, rest = [], list(self.arguments)
        while rest:
            line = [rest.pop(0)]
            while rest and not rest[0].startswith("--"):
                line.append(rest.pop(0))
            lines.append(shlex.join(line))
        return " \\\n    ".join(lines)


def vllm_command(models: Sequence[ModelToAsk], *, port: int = 8000, dtype: str | None = None) -> VllmCommand:
    """Return the command that serves adapters and their base on this machine alone.

    `--generation-config vllm` keeps the defaults of the model's own file out of every answer.

    Args:
        models: organisms of runs or adapters from elsewhere, on one base.
        port: on 127.0.0.1.
        dtype: of the base; None takes that of the runs, else bfloat16.

    Raises:
        SpecError: no adapter among them, different bases, dtypes or templates, a rank that vLLM does not take, or
            ranks and alphas by module, which vLLM does not read.
    """
    if not models:
        raise SpecError("no adapter given, accepted: runs, or folders of adapters, on one base")
    served = [_served(model) for model in models]
    first = models[0]
    for model in models[1:]:
        if model.base.sha256 != first.base.sha256:
            raise SpecError(
                f"{model.name} is on base {model.base.name}, {first.name} on {first.base.name}; give one base"
            )
        if model.template != first.template:
            raise SpecError(f"{model.name} and {first.name} have different chat templates; serve them one by one")
    names = [one.name for one in served]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two adapters are called {twice!r}; accepted: different names")
    trained_in = sorted({model.dtype for model in models if model.dtype is not None})
    if dtype is None and (len(trained_in) > 1 or trained_in == ["nf4"]):
        raise SpecError(f"the runs were trained in {' and '.join(trained_in)}; say what vLLM computes in with --dtype")
    chosen = dtype or (trained_in[0] if trained_in else "bfloat16")
    return VllmCommand(tuple(_arguments(first, served, port, chosen)), (*names, str(first.base.folder)), chosen)


def _arguments(first: ModelToAsk, served: Sequence[Served], port: int, dtype: str) -> list[str]:
    template = None if first.run is None else first.run / TEMPLATE
    found = [
        "vllm", "serve", str(first.base.folder), "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype,
        "--generation-config", "vllm", "--enable-lora", "--max-lora-rank", str(_rank_taken(served)),
        "--max-loras", str(min(len(served), MOST_ADAPTERS)),
    ]  # fmt: skip
    if template is not None and template.is_file():
        found += ["--chat-template", str(template.resolve())]
    return [*found, "--lora-modules", *(f"{one.name}={one.folder.resolve()}" for one in served)]


def _rank_taken(served: Sequence[Served]) -> int:
    largest = max(served, key=lambda one: one.rank)
    taken = next((rank for rank in RANKS if rank >= largest.rank), None)
    if taken is None:
        raise SpecError(f"{largest.name} has rank {largest.rank}, and vLLM takes at most {RANKS[-1]}")
    return taken


def _served(model: ModelToAsk) -> Served:
    """Return how an adapter is served.

    Raises:
        SpecError: a model without an adapter, or one whose ranks or alphas differ by module.
    """
    if model.run is not None and model.step is not None:
        if read_spec(model.run).method == "full":
            raise SpecError(f"{model.name} was trained whole, without an adapter; serve its folder by itself")
        folder = adapter_folder(model.run, model.step, model.edit)
        name = "-".join(filter(None, (model.name, f"step{model.step}", model.edit)))
    elif model.adapter is not None:
        folder, name = model.adapter, model.name
    else:
        raise SpecError(f"{model.name} is a model by itself; accepted: runs, or folders of adapters, on one base")
    config = read_object(folder / ADAPTER_CONFIG)
    for field in ("rank_pattern", "alpha_pattern"):
        if config.get(field):
            raise SpecError(f"{folder / ADAPTER_CONFIG}: {field} is set, which vLLM does not read; accepted: one rank")
    return Served(name, folder, int(config["r"]))
