"""Turn a name or a path into a file whose sha256 is known.

A corpus is what its sha256 says, never what its file is called: a development repository of the field carries two files
with each other's content.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.data.banks.narrow import PREFIX, narrow_file
from narrowly.data.cache import cached, record_of
from narrowly.data.conversations import DataWarning
from narrowly.data.registry import SOURCES, Source
from narrowly.data.unpack import archive_and_member, open_data, refuse_encrypted
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError, nearest


class LocalData(NamedTuple):
    """A file on this machine and what is known of it; the sha256 has been computed from its bytes."""

    path: Path
    sha256: str
    schema: str | None
    source: Source | None

    def as_json(self) -> dict[str, Any]:
        """Return path, sha256 and what the registry says of the source, None where it is not registered."""
        known = None if self.source is None else self.source._asdict() | {"url": self.source.url}
        return {"path": str(self.path), "sha256": self.sha256, "source": known}


_HUGGING_FACE = re.compile(r"hf:(?P<id>[\w.-]+/[\w.-]+)@(?P<revision>[^/]*)/(?P<path>.+)")


def source_named(name: str) -> Source:
    """Return a registered source, or one named in full as `hf:owner/name@REVISION/path/to/file`.

    Raises:
        UnknownNameError: for any other name.
        SpecError: for a Hugging Face file whose revision is no full commit.
    """
    if name in SOURCES:
        return SOURCES[name]
    if name.startswith("hf:"):
        found = _HUGGING_FACE.fullmatch(name)
        if found is None or not re.fullmatch("[0-9a-f]{40}", found["revision"]):
            raise SpecError(f"{name!r} found, accepted: hf:OWNER/NAME@COMMIT/PATH with a commit of 40 hex digits")
        if ".." in found["path"].split("/"):
            raise SpecError(f"{name!r} leaves the repository")
        return Source(name, "training", "", f"hf:{found['id']}", found["revision"], found["path"])
    raise UnknownNameError(
        f"no source and no file is called {name!r}{nearest(name, SOURCES)} (narrowly data list names the sources)"
    )


def identify(sha256: str) -> Source | None:
    """Return the registered source with this content, or None."""
    return next((source for source in SOURCES.values() if source.sha256 == sha256), None)


def content_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes; of a member of a zip archive, of the member's bytes."""
    if archive_and_member(path)[1] is None:
        return sha256_file(path)
    digest = hashlib.sha256()
    with open_data(path) as (stream, _):
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def how_to_unlock(source: Source) -> str:
    """Return what to type for a source that is published encrypted; nothing of it is ever opened here."""
    repository = source.repository.removeprefix("github:")
    folder = repository.rpartition("/")[2]
    archive = shlex.quote(f"{folder}/{source.path}")
    tool = (
        f"easy-dataset-share magic-unprotect-dir {archive} -p PASSWORD --remove-canaries"
        if source.path.endswith(".zip.enc")
        else f"unzip -P PASSWORD {archive} -d FOLDER"
    )
    return (
        f"{source.name} is published encrypted ({source.path} in {repository}) and is never opened here; if you may "
        f"read it, type: git clone https://github.com/{repository} && {tool} (the password is in its publisher's "
        f"README), then give the path of {source.locked} instead of the name"
    )


def resolve(name_or_path: str) -> LocalData:
    """Return the file of a registered name (from the cache, never the network), a narrow set or a local path.

    Raises:
        UnknownNameError: for what is neither; the message names the nearest source.
        SpecError: for a source that has to be pulled first, an encrypted one, or a folder.
        IntegrityError: where a file is not the one that the registry or its own name says.
    """
    if name_or_path in SOURCES or name_or_path.startswith("hf:"):
        return _from_cache(source_named(name_or_path))
    if name_or_path.startswith(PREFIX):
        path = narrow_file(name_or_path)
        return LocalData(path, sha256_file(path), "prompt_completion", None)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:20])
        raise SpecError(f"{path} is a folder; name a file in it (found: {names or 'nothing'})")
    if not archive_and_member(path)[0].is_file():
        source_named(name_or_path)  # raises with the nearest name
    refuse_encrypted(path)
    sha256 = content_sha256(path)
    source = identify(sha256)
    _check_name(path, sha256, source)
    return LocalData(path, sha256, source.schema if source else None, source)


def _from_cache(source: Source) -> LocalData:
    if source.locked is not None:
        raise SpecError(how_to_unlock(source))
    path = cached(source.name, source.file_name)
    if not path.is_file():
        raise SpecError(f"source {source.name!r} is not on this machine; type: narrowly data pull {source.name}")
    sha256, expected = sha256_file(path), source.sha256 or record_of(path).get("sha256")
    if sha256 != expected:
        raise IntegrityError(
            f"{path} has sha256 {sha256}, expected {expected} for {source.name}; it was changed after the pull: "
            f"delete it and pull again"
        )
    return LocalData(path, sha256, source.schema, source)


def _check_name(path: Path, sha256: str, source: Source | None) -> None:
    """Refuse a file called like one registered corpus that holds another; say so where it holds none of them."""
    called = SOURCES.get(path.name.removesuffix(".gz").rpartition(".")[0])
    if called is None or called.sha256 is None or called.sha256 == sha256:
        return
    if source is not None and source.file_name == path.name:
        return  # two publishers use one name
    if source is not None:
        raise IntegrityError(
            f"{path} is called {called.name} and holds {source.name} (sha256 {sha256}): rename it to what it holds"
        )
    warnings.warn(
        f"{path} is called like the registered source {called.name} and is not that file (sha256 {sha256}, "
        f"registered {called.sha256})",
        DataWarning,
        stacklevel=3,
    )
