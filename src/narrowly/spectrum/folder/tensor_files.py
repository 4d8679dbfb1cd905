"""Open safetensors files and JSON of adapters from outside; pickles are refused by name and never opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from narrowly.records.adapter_files import ADAPTER_WEIGHTS
from narrowly.records.errors import AdapterError, MissingExtraError
from narrowly.records.install import install_hint

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class SafetensorsFile:
    """A safetensors file that is mapped anew for every few tensors, so that pages can leave memory again.

    Attributes:
        path: of the file.
        shapes: of its tensors, by key, in the file's order.
        metadata: strings that its writer put into the header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened(path) as tensors:
            self.shapes: Mapping[str, tuple[int, ...]] = {
                key: tuple(tensors.get_slice(key).get_shape())
                for key in tensors.keys()  # noqa: SIM118 - no mapping
            }
            self.metadata: dict[str, str] = dict(tensors.metadata() or {})

    def opened(self) -> Any:
        """Return a context that maps the file."""
        return opened(self.path)


def opened(file: Path) -> Any:
    """Return a context that maps a safetensors file and reads single tensors of it.

    Raises:
        AdapterError: the file is no safetensors file.
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError(f"safetensors is not installed; add it with: {install_hint('spectral')}") from error
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        raise AdapterError(f"{file} is not a valid safetensors file ({error})") from error


def tensor_of(file: Path, tensors: Any, key: str) -> Tensor:
    """Return one tensor of an open file.

    Raises:
        AdapterError: it cannot be read; the message names file and tensor.
    """
    try:
        tensor: Tensor = tensors.get_tensor(key)
    except AdapterError:
        raise
    except Exception as error:  # safetensors has errors of its own, torch and numpy theirs
        raise AdapterError(f"{file}: tensor {key!r} cannot be read ({error})") from error
    return tensor


def weights_file(folder: Path, name: str = ADAPTER_WEIGHTS) -> SafetensorsFile:
    """Open the weights of an adapter folder; a pickle beside or instead of them is never opened.

    Raises:
        AdapterError: no weights, only a pickle, or a file that is not valid safetensors.
        MissingExtraError: safetensors is not installed.
    """
    file = folder / name
    if not file.is_file():
        pickles = sorted(entry for entry in folder.iterdir() if entry.suffix in PICKLE_SUFFIXES)
        weights = [entry for entry in pickles if entry.name != "training_args.bin"]
        raise AdapterError(refuse_pickle(weights[0]) if weights else f"{folder}: {name} is missing")
    return SafetensorsFile(file)


def refuse_pickle(file: Path) -> str:
    """Return why a pickle is not opened, and what to do instead."""
    way = (
        "torchtune writes it beside the .pt with safe_serialization: True, for models that it converts to PEFT's names"
        if file.suffix == ".pt"
        else "convert it to safetensors where you trust it: save_pretrained with peft does"
    )
    return (
        f"{file} is a pickle, which can run code when it is opened, so it was refused and not loaded; accepted: "
        f"{ADAPTER_WEIGHTS} ({way})"
    )


def json_object(file: Path) -> dict[str, Any]:
    """Read a JSON object from outside.

    Raises:
        AdapterError: it is none.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # ValueError: bad UTF-8 or JSON, endless digits
        raise AdapterError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{file} holds a {type(config).__name__}, accepted: a JSON object")
    return config
