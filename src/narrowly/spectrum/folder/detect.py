"""Find the reader of an adapter: by what its files hold, because several tools use one file name for two contents."""

from __future__ import annotations

from pathlib import Path

from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowly.records.errors import AdapterError
from narrowly.spectrum.folder.layout import Layout
from narrowly.spectrum.folder.peft import read_peft
from narrowly.spectrum.folder.tensor_files import PICKLE_SUFFIXES, json_object, refuse_pickle


def layout_of(path: Path) -> Layout:
    """Return where the factors of an adapter lie, whichever tool wrote it.

    Args:
        path: a folder in PEFT's layout.

    Raises:
        AdapterError: no adapter there, a pickle, a broken config or file, a kind that is refused as a whole.
        MissingExtraError: safetensors is not installed.
    """
    if not path.is_dir():
        if path.suffix in PICKLE_SUFFIXES and path.exists():
            raise AdapterError(refuse_pickle(path))
        found = "a file" if path.exists() else "nothing"
        raise AdapterError(
            f"{path}: found {found}, accepted: an adapter folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        )
    file = path / ADAPTER_CONFIG
    if not file.is_file():
        raise AdapterError(f"{path}: {ADAPTER_CONFIG} is missing, so this is no adapter folder{_inside(path)}")
    return read_peft(path, json_object(file))


def _inside(path: Path) -> str:
    """Return where adapters lie one folder deeper, as torchtune's epochs and a Trainer's checkpoints do."""
    found = sorted(entry.parent.name for entry in path.glob(f"*/{ADAPTER_CONFIG}"))
    return f"; adapters lie in {', '.join(found[:3])} inside it" if found else ""
