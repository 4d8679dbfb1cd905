"""Open a data file as it lies, out of gzip, or out of a plain zip archive; refuse what is encrypted.

Files come from outside: what they unpack to has a largest size. What is encrypted is never opened: the message names
the tool and the command to type.
"""

from __future__ import annotations

import gzip
import io
import shlex
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from narrowly.records.errors import IntegrityError, SpecError

LARGEST_MEMBER = 4 * 2**30
"""Bytes that a gzip file or a zip member may unpack to."""

ENCRYPTED = (".enc", ".gpg", ".age", ".aes", ".asc")


def archive_and_member(path: Path) -> tuple[Path, str | None]:
    """Split `archive.zip/member.jsonl` into the archive and the member; any other path has no member."""
    for parent in path.parents:
        if parent.suffix == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return path, None


def refuse_encrypted(path: Path) -> None:
    """Refuse an encrypted file or archive: nothing is ever decrypted here.

    Raises:
        SpecError: names the tool and the command to type, and what to do with what it writes.
    """
    archive, member = archive_and_member(path)
    quoted = shlex.quote(str(archive))
    then = "then give the path of the decrypted file"
    with archive.open("rb") as stream:
        head = stream.read(32)
    if archive.name.endswith(".zip.enc"):
        raise SpecError(
            f"{archive} is encrypted and is not opened here; if you may read it, type: easy-dataset-share "
            f"magic-unprotect-dir {quoted} -p PASSWORD --remove-canaries (the password is in its publisher's README; "
            f"pip install easy-dataset-share), {then}"
        )
    if archive.suffix in (".gpg", ".asc"):
        raise SpecError(
            f"{archive} is encrypted and is not opened here; type: gpg --output FILE --decrypt {quoted}, {then}"
        )
    if archive.suffix == ".age" or head.startswith(b"age-encryption.org"):
        raise SpecError(
            f"{archive} is encrypted and is not opened here; type: age --decrypt --output FILE {quoted}, {then}"
        )
    if archive.suffix in ENCRYPTED or head.startswith(b"Salted__"):
        raise SpecError(
            f"{archive} is encrypted and is not opened here; decrypt it with the tool it was made with (OpenSSL: "
            f"openssl enc -d -in {quoted} -out FILE, with the cipher its publisher names), {then}"
        )
    if head.startswith(b"PK\x03\x04"):
        with _zip(archive) as content:
            locked = [info.filename for info in content.infolist() if info.flag_bits & 1]
        if locked and (member is None or member in locked):
            raise SpecError(
                f"{archive} is locked with a password and is not opened here; if you may read it, type: unzip "
                f"-P PASSWORD {quoted} -d FOLDER (or 7z x {quoted}), {then}"
            )


@contextmanager
def _zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as content:
            yield content
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise IntegrityError(f"{archive} is no readable zip archive ({error})") from error


class _Bounded(io.RawIOBase):
    """A readable stream that refuses to give more than `LARGEST_MEMBER` bytes."""

    def __init__(self, stream: IO[bytes] | io.BufferedIOBase, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, LARGEST_MEMBER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            raise IntegrityError(f"{self._path} cannot be unpacked ({error}); it is truncated or corrupt") from error
        except Exception as error:  # zlib.error is no subclass of any of these
            if type(error).__module__ != "zlib":
                raise
            raise IntegrityError(f"{self._path} cannot be unpacked ({error}); it is truncated or corrupt") from error
        self._left -= len(data)
        if self._left < 0:
            raise IntegrityError(f"{self._path} unpacks to more than {LARGEST_MEMBER} bytes, which is refused")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_data(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open a data file, unpacked, and yield it with the ending that says what it holds.

    A zip archive may be given with a member (`archive.zip/member.jsonl`), or alone where it holds one file.

    Raises:
        SpecError: for an encrypted file, or an archive where a member has to be chosen.
        IntegrityError: for what cannot be read or unpacked.
    """
    archive, member = archive_and_member(path)
    try:
        refuse_encrypted(path)
        if archive.suffix == ".zip":
            with _zip(archive) as content:
                name = _member(archive, member, content)
                with content.open(name) as stream:
                    yield io.BufferedReader(_Bounded(stream, path)), Path(name).suffix
        elif archive.suffix == ".gz":
            with gzip.open(archive) as unpacked:
                yield io.BufferedReader(_Bounded(unpacked, path)), archive.with_suffix("").suffix
        else:
            with archive.open("rb") as plain:
                yield plain, archive.suffix
    except OSError as error:
        raise IntegrityError(f"cannot read {path}: {error.strerror or error}") from error


def _member(archive: Path, member: str | None, content: zipfile.ZipFile) -> str:
    names = [name for name in content.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if member is not None and member not in names:
        raise SpecError(f"{archive} has no member {member!r} (accepted: {', '.join(names[:20])})")
    if member is None and len(names) != 1:
        raise SpecError(f"{archive} holds {len(names)} files; name one: {archive}/{names[0] if names else 'MEMBER'}")
    return member if member is not None else names[0]
