"""The Python of a rival, in a virtual environment of its own that is made from nothing and of pinned packages."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
"""What both sides share is held to the same versions, torch and transformers above all."""

SHARED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def rival_python(folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of a virtual environment with these packages, made where it is not there yet.

    Args:
        folder: of the environment; one of other packages is made anew.
        packages: pinned, as pip takes them.
    """
    python, ready = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join([*packages, CONSTRAINTS.read_text(encoding="utf-8")])
    if not ready.is_file() or ready.read_text(encoding="utf-8") != wanted:
        print(f"installing {', '.join(packages)} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(CONSTRAINTS), *packages], check=True)
        ready.write_text(wanted, encoding="utf-8")
    return python


def versions(python: Path | str, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages that a Python imports."""
    program = (
        f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(packages)!r}}}))"
    )
    found: dict[str, str] = json.loads(subprocess.run([str(python), "-c", program], capture_output=True, text=True,
                                                      check=True).stdout)  # fmt: skip
    return found


def check_same_versions(ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Stop where the two sides compute with different libraries."""
    if dict(ours) != dict(theirs):
        raise SystemExit(f"versions differ, ours {dict(ours)}, the rival's {dict(theirs)}: nothing was measured")


def run_child(python: Path | str, program: str, *arguments: str) -> dict[str, Any]:
    """Run a program in a fresh process and return the JSON of the last line that it prints."""
    done = subprocess.run([str(python), "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
