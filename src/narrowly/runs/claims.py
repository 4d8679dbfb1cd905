"""Claim a run for one process, so that two studies or two commands share the work and never do it twice.

Whoever writes into a run directory holds the claim of its run: training, the cells of studies, the workbench. A claim
is one small file in the folder of all runs, made whole by a hard link (it exists or it does not). It says host, pid,
the start time of that process and a heartbeat. It is stale where its process is gone: on the same host that is known
at once (no such pid, or the pid belongs to a younger process), on another host once the heartbeat is older than
`TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import read_json, write_json
from narrowly.runs.directory import claim_file

HEARTBEAT_SECONDS = 10.0
TIMEOUT_SECONDS = 120.0
"""Twelve missed heartbeats: long enough for a slow network file system and clocks that differ by a minute."""

TAKEOVER_SECONDS = 30.0
"""Age at which the marker of a takeover that died half-way is removed; a takeover takes milliseconds."""


class Claim(BaseModel):
    """Hold the content of a claim file.

    Attributes:
        token: unique to the claim, so that a takeover cannot hit a younger claim.
        host: host name and, on Linux, the pid namespace: two containers may share a name but not their pids.
        started: start time of the process, as the system tells it; empty where it is not known.
        heartbeat: Unix time of the last sign of life, in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    host: str
    pid: int
    started: str
    heartbeat: float


def this_host() -> str:
    """Return the name under which pids are comparable."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {namespace}".strip()


def process_started(pid: int) -> str | None:
    """Return when a process of this host started, or None where there is no such (living) process.

    On Linux it is the boot id and the start in clock ticks, elsewhere psutil's creation time; an empty string means
    that the process lives but its start is not known.
    """
    if platform.system() == "Linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] in ("Z", "X"):  # a killed worker that is not yet reaped
            return None
        boot = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{fields[19]}"
    try:
        import psutil
    except ImportError:
        return _probe(pid)
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _probe(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return ""


def read_claim(path: Path) -> Claim | None:
    """Return the claim in a file, or None where there is none; a broken one counts as stale."""
    try:
        return Claim.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except (IntegrityError, ValidationError, OSError):
        return Claim(token="broken", host="", pid=0, started="", heartbeat=0.0)


def is_stale(claim: Claim, now: float | None = None) -> bool:
    """Return whether the process of a claim is gone.

    Args:
        claim: what the file said.
        now: Unix time in seconds; the clock's by default.
    """
    age = (time.time() if now is None else now) - claim.heartbeat
    if claim.host != this_host():
        return age > TIMEOUT_SECONDS
    started = process_started(claim.pid)
    if started is None:
        return True
    if started and claim.started:
        return started != claim.started
    return age > TIMEOUT_SECONDS


def is_claimed(path: Path) -> bool:
    """Return whether a living process holds the claim."""
    claim = read_claim(path)
    return claim is not None and not is_stale(claim)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Try to hold a claim: yield True while this thread holds it, False at once where it is held already.

    A second thread keeps the heartbeat going. A stale claim is taken over.

    Raises:
        RunDirectoryError: where the claim cannot be written.
    """
    claim = Claim(
        token=uuid.uuid4().hex,
        host=this_host(),
        pid=os.getpid(),
        started=process_started(os.getpid()) or "",
        heartbeat=time.time(),
    )
    if not _acquire(path, claim):
        yield False
        return
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, claim, stop), daemon=True, name="claim heartbeat")
    thread.start()
    key = _key(path)
    _held_here().add(key)
    try:
        yield True
    finally:
        _held_here().discard(key)
        stop.set()
        thread.join()
        found = read_claim(path)
        if found is not None and found.token == claim.token:
            path.unlink(missing_ok=True)


def _beat(path: Path, claim: Claim, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        found = read_claim(path)
        if found is None or found.token != claim.token:
            return
        with suppress(RunDirectoryError):  # a full disk stops the work itself; the claim need not say so too
            write_json(path, claim.model_copy(update={"heartbeat": time.time()}).model_dump())


def _acquire(path: Path, claim: Claim) -> bool:
    temporary = path.with_name(f".{path.name}.{claim.token}")
    try:
        write_json(temporary, claim.model_dump())
        try:
            if _create(temporary, path):
                return True
            found = read_claim(path)
            if found is None:  # released between the two looks
                return _create(temporary, path)
            return is_stale(found) and _take_over(path, found, temporary)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, RunDirectoryError):
            raise
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error


def _create(temporary: Path, path: Path) -> bool:
    """Make `path` with the content of `temporary`, in one step, only where it does not exist."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        try:  # a file system without hard links: exclusive creation, a reader may see the file before its content
            with path.open("x", encoding="utf-8") as stream:
                stream.write(temporary.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    return True


def _take_over(path: Path, stale: Claim, temporary: Path) -> bool:
    """Replace a stale claim; of several processes that try, the first to write its marker wins."""
    marker = path.with_name(f".{path.name}.takeover-{stale.token}")
    if not _create(temporary, marker):
        with suppress(OSError):
            if time.time() - marker.stat().st_mtime > TAKEOVER_SECONDS:
                marker.unlink()
        return False
    try:
        found = read_claim(path)
        if found is None or found.token != stale.token:  # another process was faster and has removed the marker again
            return False
        temporary.replace(path)
        return True
    finally:
        marker.unlink(missing_ok=True)


_held = threading.local()
"""Claims that this thread holds, for what is called under one of them: pid, because a fork copies them, and file."""


def _held_here() -> set[tuple[int, str]]:
    if not hasattr(_held, "claims"):
        _held.claims = set()
    claims: set[tuple[int, str]] = _held.claims
    return claims


def _key(path: Path) -> tuple[int, str]:
    return os.getpid(), os.path.realpath(path)


def holds_run(directory: Path) -> bool:
    """Return whether this thread holds the claim of a run."""
    return _key(claim_file(directory.parent, directory.name)) in _held_here()


@contextmanager
def hold_run(directory: Path) -> Iterator[None]:
    """Hold the claim of a run against other threads and processes; a thread that has it already keeps it.

    Raises:
        RunDirectoryError: another process, or another thread of this one, holds it; or it cannot be written.
    """
    if holds_run(directory):
        yield
        return
    path = claim_file(directory.parent, directory.name)
    with claimed(path) as mine:
        if not mine:
            raise RunDirectoryError(
                f"{directory} is claimed by another process that works on this run now{_holder(path)}; try again when "
                "it is done"
            )
        yield


def _holder(path: Path) -> str:
    claim = read_claim(path)
    if claim is None or not claim.host:
        return ""
    age = max(0.0, time.time() - claim.heartbeat)
    return f" (pid {claim.pid} on {claim.host.split()[0]}, last heartbeat {age:.0f} s ago)"
