"""Find the reader of an adapter: by what its files hold, because several tools use one file name for two contents."""

from __future__ import annotations

from pathlib import Path

from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, GGUF_SUFFIX, MLX_WEIGHTS
from narrowly.records.errors import AdapterError
from narrowly.spectrum.folder.gguf import read_gguf
from narrowly.spectrum.folder.layout import Layout
from narrowly.spectrum.folder.mlx import is_mlx, read_mlx
from narrowly.spectrum.folder.peft import read_peft
from narrowly.spectrum.folder.tensor_files import PICKLE_SUFFIXES, json_object, refuse_pickle


def layout_of(path: Path) -> Layout:
    """Return where the factors of an adapter lie, whichever tool wrote it.

    Args:
        path: a folder of PEFT, torchtune, Tinker or mlx-lm, a folder with one GGUF file, or a GGUF file.

    Raises:
        AdapterError: no adapter there, a pickle, a broken config or file, a kind that is refused as a whole.
        MissingExtraError: safetensors is not installed.
    """
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return read_gguf(path)
    if not path.is_dir():
        if path.suffix in PICKLE_SUFFIXES and path.exists():
            raise AdapterError(refuse_pickle(path))
        found = "a file" if path.exists() else "nothing"
        raise AdapterError(
            f"{path}: found {found}, accepted: an adapter folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} (or "
            f"mlx-lm's {MLX_WEIGHTS}), or a {GGUF_SUFFIX} file"
        )
    file = path / ADAPTER_CONFIG
    if file.is_file():
        config = json_object(file)
        return read_mlx(path, config) if is_mlx(config) else read_peft(path, config)
    served = sorted(path.glob(f"*{GGUF_SUFFIX}"))
    if len(served) == 1:
        return read_gguf(served[0])
    if served:
        raise AdapterError(f"{path} holds {len(served)} {GGUF_SUFFIX} files, accepted: one of them by its own name")
    pickles = sorted(path.glob("adapter*"))  # what torchtune writes for models whose names it does not convert
    for entry in pickles:
        if entry.suffix in PICKLE_SUFFIXES:
            raise AdapterError(refuse_pickle(entry))
    raise AdapterError(f"{path}: {ADAPTER_CONFIG} is missing, so this is no adapter folder{_inside(path)}")


def _inside(path: Path) -> str:
    """Return where adapters lie one folder deeper, as torchtune's epochs and a Trainer's checkpoints do."""
    found = sorted(entry.parent.name for entry in path.glob(f"*/{ADAPTER_CONFIG}"))
    return f"; adapters lie in {', '.join(found[:3])} inside it" if found else ""
