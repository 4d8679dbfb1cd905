"""Read each file once, as data; what cannot be read is skipped with its reason.

A file is offered to the detectors as a SourceFile. What stands beside it (a DeepSpeed JSON, a base YAML, a lock file)
comes from the Repository. Nothing is imported, executed or unpickled. `folders.walk` lists the files.
"""

from __future__ import annotations

import ast
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from narrowly.audit.record import Skip
from narrowly.audit.trees import Document, UnreadableError, read_json, read_toml, read_yaml

Kind = Literal["python", "yaml", "json", "toml", "shell", "notebook", "card", "pickle"]

KINDS: dict[str, Kind] = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".jsonc": "json",
    ".toml": "toml",
    ".sh": "shell",
    ".bash": "shell",
    ".slurm": "shell",
    ".sbatch": "shell",
    ".job": "shell",
    ".sub": "shell",
    ".ipynb": "notebook",
}
"""Kind by ending; files named Makefile, Justfile or Dockerfile are read as shell."""

SHELL_NAMES = frozenset({"makefile", "justfile", "dockerfile", "procfile"})
PICKLES = frozenset({"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt"})
"""Artefacts of a run that only unpickling could read: they are reported and never opened."""

LARGEST = {"python": 2_000_000, "yaml": 1_000_000, "json": 4_000_000, "toml": 1_000_000, "shell": 1_000_000,
           "notebook": 40_000_000, "card": 1_000_000}  # fmt: skip
"""Bytes of a file of each kind that are read; what is larger is skipped."""

LARGEST_MANIFEST = 20_000_000

NEEDS = {
    b"Trainer(": b"Train", b"TrainingArguments": b"Train", b"Train": b"rain",
    b"inetun": b"tun", b"ine_tun": b"tun", b"/fine-tun": b"tun",
    b"tunings.tune": b"tun", b"create_tuned_model": b"tun",
    b"_main(": b"main(", b"@hydra.main(": b"main(", b"def configure_optimizers": b"optim",
    b"sft.train(": b"tun",  # Vertex AI's module is `tuning`
    b".jobs.create(": b"rain",  # Mistral's client takes `training_files=`
    b"FineTun": b"rain",  # OpenAI's first clients ask for `training_file=`
    b"foundation_model": b"rain",  # Databricks' module is `model_training`, and takes `train_data_path=`
    b"run_exp(": b"tun",  # LLaMA-Factory's is `tuner`, that of its first versions `llmtuner`
    b"default_adamw(": b"optim",  # torchtitan's is given as `optimizer=`
}  # fmt: skip
"""Literals that stand in no script without another, mostly a part that several share. A search walks all bytes."""


@dataclass
class SourceFile:
    """Hold one file: its bytes, and lazily its text, lines, syntax tree and documents.

    Attributes:
        name: of the file, without folders.
        shown: path for people and records, with `/`.
        kind: see `KINDS`.
        data: its bytes; empty for a pickle, which is never read.
    """

    name: str
    shown: str
    kind: Kind
    data: bytes = field(repr=False)
    _held: dict[bytes, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def has(self, *words: bytes) -> bool:
        """Tell whether the bytes hold one of these literals; each is looked for once, whoever asks."""
        held = self._held
        for word in words:
            found = held.get(word)
            if found is None:
                need = NEEDS.get(word)
                found = held[word] = (need is None or self.has(need)) and word in self.data
            if found:
                return True
        return False

    @cached_property
    def text(self) -> str:
        """Return the text: UTF-8 with or without mark, or what the first lines of a Python file name.

        Raises:
            UnreadableError: binary, or in no encoding that is read.
        """
        data = self.data
        if b"\0" in data[:8192]:
            raise UnreadableError("binary data")
        if self.kind == "python" and (named := re.match(rb"(?:[^\n]*\n)?[^\n]*coding[:=]\s*([\w.-]+)", data[:400])):
            return _decoded(data, named.group(1).decode("ascii", "replace"))
        return _decoded(data, "utf-8-sig")

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines of the text."""
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """Return the syntax tree of a Python file.

        Raises:
            UnreadableError: not Python of this interpreter's version.
        """
        return parse_python(self.text)

    @cached_property
    def documents(self) -> list[Document]:
        """Return the documents of a YAML, JSON or TOML file; usually one.

        Raises:
            UnreadableError: not what its name says, or beyond the bounds of `trees`.
        """
        if self.kind == "json":
            return read_json(self.text, self.shown)
        return read_toml(self.text, self.shown) if self.kind == "toml" else read_yaml(self.text, self.shown)

    def at(self, line: int) -> str:
        """Return `file:line`."""
        return f"{self.shown}:{line}"


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except (UnicodeDecodeError, LookupError):
        raise UnreadableError(f"not {encoding.removesuffix('-sig').upper()} text") from None


def parse_python(text: str) -> ast.Module:
    """Return the syntax tree of Python source.

    Raises:
        UnreadableError: not Python of this interpreter's version, or nested too deep for it.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(text)
    except SyntaxError as error:
        raise UnreadableError(f"not valid Python: {error.msg} at line {error.lineno}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"not valid Python: {type(error).__name__} {error}"[:160]) from None


class Repository:
    """Show a detector what stands beside a file: paths under the PATH that was given, read on demand.

    Args:
        root: the folder given, or that of the file given.
        files: every regular file found below it, relative to it, with `/`.
        label: what stands before relative paths when shown.
    """

    KEPT = 64

    def __init__(self, root: Path, files: Sequence[str] = (), label: str = "") -> None:
        self.root = root
        self.label = label
        self.files = frozenset(files)
        self._read: OrderedDict[str, SourceFile | None] = OrderedDict()
        self.versions: Any = None  # filled by `audit.versions`, once
        self.written: dict[str, SourceFile] = {}

    def shown(self, relative: str) -> str:
        """Return a path below the root as it is shown."""
        return f"{self.label}{relative}"

    def relative(self, file: SourceFile) -> str:
        """Return the path of a file below the root."""
        return file.shown.removeprefix(self.label)

    def find(self, name: str, beside: SourceFile | None = None) -> SourceFile | None:
        """Return the file that a config or script names, or None where it lies outside, is missing or unreadable.

        Looked for beside the file that names it, then in each folder above it up to the root.

        Args:
            name: a relative path, as written; absolute paths and those that climb out of the root are not followed.
            beside: the file that names it.
        """
        if self.written and name.removeprefix("./") in self.written:
            return self.written[name.removeprefix("./")]
        if not name or len(name) > 500 or "\0" in name or name.startswith(("/", "~")) or "://" in name:
            return None
        name, folder = name.replace("\\", "/"), self.relative(beside).rpartition("/")[0] if beside is not None else ""
        odd = name[0] == "." or "/." in name or "//" in name
        while True:
            candidate = f"{folder}/{name}" if folder else name
            if odd:
                candidate = os.path.normpath(candidate)
            if candidate in self.files:
                return self.open(candidate)
            if not folder:
                return None
            folder = folder.rpartition("/")[0]

    def find_mounted(self, path: str, beside: SourceFile) -> SourceFile | None:
        """Return the file that an absolute path names where the repository is mounted: by its folder and name."""
        parts = [part for part in path.split("/") if part]
        if not path.startswith("/") or ".." in parts or len(path) > 500:
            return None
        ends = ("/".join(parts[start:]) for start in range(1, len(parts) - 1))
        return next((found for end in ends if (found := self.find(end, beside)) is not None), None)

    def with_written(self, written: dict[str, SourceFile]) -> Repository:
        """Return a view in which files that a shell script writes itself are found by the names it gives them."""
        view = copy(self)
        view.written = written
        return view

    def named(self, *names: str) -> list[str]:
        """Return relative paths of files with one of these names, those nearest to the root first."""
        found = [path for path in self.files if path.rsplit("/", 1)[-1] in names]
        return sorted(found, key=lambda path: (path.count("/"), path))

    def open(self, relative: str) -> SourceFile | None:
        """Return a file of the repository, None where it cannot be read; a few are kept."""
        if relative not in self._read:
            found = read_source(f"{self.root}/{relative}", self.shown(relative), any_kind=True)
            self._read[relative] = found if isinstance(found, SourceFile) else None
            if len(self._read) > self.KEPT:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(relative)
        return self._read[relative]

    def manifest(self, relative: str) -> str | None:
        """Return the text of a lock file or a list of requirements; None where it cannot be read as text."""
        try:
            with (self.root / relative).open("rb") as stream:
                return stream.read(LARGEST_MANIFEST).decode("utf-8", "replace").replace("\r\n", "\n")
        except OSError:
            return None


def kind_of(name: str) -> Kind | None:
    """Return the kind of a file by its name, None for what is not read."""
    lower = name.lower()
    if lower in PICKLES:
        return "pickle"
    if lower == "readme.md":
        return "card"
    return "shell" if lower in SHELL_NAMES else KINDS.get(lower[lower.rfind(".") :])


def read_source(path: str, shown: str, any_kind: bool = False) -> SourceFile | Skip | None:
    """Read one file: the file, the reason why not, or None where its name is of no kind that is read.

    Args:
        path: where it is.
        shown: path for people and records.
        any_kind: read what has no known ending as well, as text without a kind of its own (YAML).
    """
    name = path.rsplit("/", 1)[-1]
    kind = kind_of(name) or ("yaml" if any_kind else None)
    if kind is None:
        return None
    if kind == "pickle":
        return SourceFile(name, shown, kind, b"")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        return Skip(shown, f"cannot be read: {error.strerror or error}")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Skip(shown, "not a regular file")
        if status.st_size > LARGEST[kind]:
            return Skip(shown, f"{status.st_size:,} bytes; {kind} is read up to {LARGEST[kind]:,}")
        # room for what the file has, not for the limit: a buffer of 2 MB per file was a quarter of a scan
        data = os.read(descriptor, status.st_size + 1)
        while 0 < len(data) <= LARGEST[kind] and (more := os.read(descriptor, 65_536)):
            data += more
    except OSError as error:
        return Skip(shown, f"cannot be read: {error.strerror or error}")
    finally:
        os.close(descriptor)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16: literals of detectors are looked for in UTF-8
        try:
            data = data.decode("utf-16").encode()
        except UnicodeError:
            return Skip(shown, "not UTF-16 text")
    return SourceFile(name, shown, kind, data)
