"""Cache pulled files: downloads resume, are held to their hash and are never fetched twice.

The folder is that of the variable NARROWLY_CACHE, or the platform's usual place. A file is put there whole or not at
all; the part of an interrupted download stays beside it under a name of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from narrowly.records.canonical import sha256_file, sha256_text
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.files import atomic_path, read_record, write_json
from narrowly.records.install import FORMER_NAME, PACKAGE

try:
    import fcntl
except ImportError:  # not POSIX: two pulls of one file at once are then not kept apart, the hash still is checked
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

BLOCK = 2**18
ATTEMPTS = 4
WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the bytes of the whole file (None where unknown)."""


def cache_folder() -> Path:
    """Return the folder of the cache: NARROWLY_CACHE, or `narrowly` in the platform's folder for caches."""
    if chosen := os.environ.get("NARROWLY_CACHE"):
        return Path(chosen).expanduser()
    return _platform_folder(PACKAGE)


def _platform_folder(name: str) -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / name
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / name / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / name


def note_on_old_cache() -> str | None:
    """Return one line on a cache from before the rename, which is not searched, or None where there is none."""
    variable, folder = f"{FORMER_NAME.upper()}_CACHE", _platform_folder(FORMER_NAME)
    if old := os.environ.get(variable):
        return f"{variable} is set and no longer read; to go on with its files, set NARROWLY_CACHE to {old}"
    if folder.is_dir():
        new = cache_folder() / "data"
        return f"{folder} is the cache of the former name and not searched; to keep its files, move its data to {new}"
    return None


def cached(name: str, file_name: str) -> Path:
    """Return where the file of a source lies, or would lie, in the cache."""
    folder = name if name.isidentifier() else sha256_text(name)[:16]
    return cache_folder() / "data" / folder / file_name


def record_of(path: Path) -> dict[str, Any]:
    """Return what was recorded when a file was pulled: url, sha256, size. Empty where there is no record."""
    record = path.with_name(f"{path.name}.pulled.json")
    return read_record(record) if record.is_file() else {}


def git_blob_id(path: Path) -> str:
    """Return git's id of a file's content: sha1 of `blob <size>`, NUL and the bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_content(path: Path, what: str, sha256: str | None, git_blob: str | None) -> str:
    """Return the sha256 of a file that is what it should be.

    Raises:
        IntegrityError: names both hashes.
    """
    found = sha256_file(path)
    if sha256 is not None and found != sha256:
        raise IntegrityError(f"{what} has sha256 {found}, expected {sha256}: it is another file, or was changed")
    if sha256 is None and git_blob is not None and not git_blob_id(path).startswith(git_blob):
        raise IntegrityError(f"{what} has the git blob id {git_blob_id(path)}, expected {git_blob}: it is another file")
    return found


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    git_blob: str | None = None,
    size: int | None = None,
    resumable: bool = True,
    progress: Progress | None = None,
) -> str:
    """Fetch a file into the cache and return its sha256; a file already there and right is left as it is.

    Args:
        url: http or https.
        target: where the file goes; its part lies beside it until it is whole and checked.
        sha256: of the content; None accepts what comes, and records it.
        git_blob: git's id of the content or its beginning, checked where `sha256` is None.
        size: bytes of the file; None where unknown.
        resumable: whether the content under `url` can never change, so that the rest of a part belongs to it.
        progress: told of the bytes on disk.

    Raises:
        SpecError: where the file is missing, gated, or cannot be reached; what has come is kept.
        IntegrityError: where what came is another file; it is deleted.
        RunDirectoryError: where the disk is full or another process is fetching the same file.
    """
    if target.is_file():
        return check_content(target, str(target), sha256 or record_of(target).get("sha256"), git_blob)
    part = target.with_name(f".{target.name}.{sha256_text(f'{url} {sha256}')[:12]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream, alone(stream, target):
            if not resumable:
                stream.truncate(0)
            found = _whole(url, part, stream, sha256, git_blob, size, progress)
            part.replace(target)
    except (SpecError, IntegrityError, RunDirectoryError):
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()
    write_json(
        target.with_name(f"{target.name}.pulled.json"), {"url": url, "sha256": found, "size": target.stat().st_size}
    )
    return found


@contextlib.contextmanager
def alone(stream: BinaryIO, target: Path) -> Iterator[None]:
    """Hold the lock of an open file; RunDirectoryError where another process holds it, because it pulls `target`."""
    if fcntl is not None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(f"another process is pulling {target.name}; wait for it") from error
    yield


def _have(stream: BinaryIO) -> int:
    stream.flush()
    return os.fstat(stream.fileno()).st_size


def _whole(
    url: str,
    part: Path,
    stream: BinaryIO,
    sha256: str | None,
    git_blob: str | None,
    size: int | None,
    progress: Progress | None,
) -> str:
    """Fetch until the part is whole, and check it; a part that turns out wrong after a resume is fetched anew once."""
    resumed = _have(stream) > 0
    if size is not None and shutil.disk_usage(part.parent).free < size - _have(stream):
        raise RunDirectoryError(f"no space for {part.parent}: {size} bytes needed")
    if size is None or _have(stream) != size:
        _with_retries(url, stream, size, progress)
    os.fsync(stream.fileno())
    try:
        return check_content(part, url, sha256, git_blob)
    except IntegrityError:
        stream.truncate(0)
        if not resumed:
            part.unlink(missing_ok=True)
            raise
        return _whole(url, part, stream, sha256, git_blob, size, progress)


def _with_retries(url: str, stream: BinaryIO, size: int | None, progress: Progress | None) -> None:
    host = urlsplit(url).hostname
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _fetch(url, stream, size, progress)
        except urllib.error.HTTPError as error:
            if error.code not in (408, 429) and error.code < 500:
                raise SpecError(_refusal(url, error.code)) from error
            reason: object = f"HTTP {error.code}"
        except urllib.error.URLError as error:
            reason = error.reason
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
        if attempt < ATTEMPTS:
            time.sleep(WAIT * 2 ** (attempt - 1))
    have = _have(stream)
    kept = f"{have} bytes are kept and the next pull goes on from there; " if have else ""
    raise SpecError(
        f"cannot fetch {url}: {host} did not deliver in {ATTEMPTS} attempts ({reason}); {kept}without a network, pull "
        f"--from a copy of the file"
    )


def _refusal(url: str, code: int) -> str:
    if code in (401, 403):
        return (
            f"{url} is gated or private (HTTP {code}): accept its terms in a browser and set HF_TOKEN to a token that "
            f"may read it"
        )
    return f"{url} is not there (HTTP {code})"


def _fetch(url: str, stream: BinaryIO, size: int | None, progress: Progress | None) -> None:
    """Fetch once, from the end of what is there; raises `ConnectionError` where the connection ends too early."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise SpecError(f"{url!r} found, accepted: an address that begins with https://")
    have = _have(stream)
    request = urllib.request.Request(url, headers={"User-Agent": "narrowly", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    token = os.environ.get("HF_TOKEN")
    if token and urlsplit(url).hostname == "huggingface.co":
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # never sent on to a storage host
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is as long as the file, or longer: begin again
            stream.truncate(0)
            raise ConnectionError("the part did not fit the file") from error
        raise
    with response:
        if have and not (response.status == 206 and _starts_at(response.headers.get("Content-Range"), have)):
            stream.truncate(0)  # the server sends everything
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else size
        while block := response.read(BLOCK):
            stream.write(block)
            have += len(block)
            if size is not None and have > size:
                stream.truncate(0)
                raise IntegrityError(f"{url} is longer than {size} bytes: it is another file")
            if progress is not None:
                progress(have, total)
        stream.flush()
        if total is not None and have < total:
            raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _starts_at(content_range: str | None, have: int) -> bool:
    return content_range is not None and content_range.startswith(f"bytes {have}-")


def adopt(origin: Path, target: Path, *, sha256: str | None, git_blob: str | None, size: int | None) -> str | None:
    """Copy a file of this machine into the cache where its content is the one expected, and return its sha256.

    `origin` is a file, or a folder whose files are looked through: the content decides, the names do not. None where
    no file has the content.

    Raises:
        SpecError: for a source without any known hash, which a copy cannot be checked against.
    """
    if sha256 is None and git_blob is None:
        raise SpecError(f"{target.name}: no hash of this source is known, so a copy cannot be checked; pull it")
    candidates = sorted(path for path in origin.rglob("*") if path.is_file()) if origin.is_dir() else [origin]
    for path in candidates:
        if size is not None and path.stat().st_size != size:
            continue
        try:
            found = check_content(path, str(path), sha256, git_blob)
        except IntegrityError:
            continue
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
        write_json(
            target.with_name(f"{target.name}.pulled.json"),
            {"copied_from": path.name, "sha256": found, "size": target.stat().st_size},
        )
        return found
    return None
