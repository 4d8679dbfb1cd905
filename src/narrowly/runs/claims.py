"""Claim a run for one process, so that two studies or two commands share the work and never do it twice.

Whoever writes into a run directory holds the claim of its run: training, the cells of studies, the workbench. A claim
is one small file in the folder of all runs, made whole by a hard link (it exists or it does not). It says host, pid and
the start time of that process; its holder touches it every `HEARTBEAT_SECONDS`. It is stale where its process is gone:
on the same host that is known at once (no such pid, or the pid belongs to a younger process), on another host once the
file has not been touched for `TIMEOUT_SECONDS`.

Both times of that comparison are the file system's own, so that clocks of hosts may differ by any amount. A holder that
comes back after its claim was taken finds another token in it: `check_claim` then refuses what it would write.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from narrowly.records.errors import ClaimLostError, IntegrityError, RunDirectoryError
from narrowly.records.files import read_json
from narrowly.runs.directory import claim_file
from narrowly.runs.processes import boot_id, process_started, this_host

HEARTBEAT_SECONDS = 10.0
TIMEOUT_SECONDS = 120.0
"""Twelve missed heartbeats: long enough for a network file system that shows the time of a file a minute late."""

TAKEOVER_SECONDS = 30.0
"""Age at which the marker of a takeover that died half-way is removed; a takeover takes milliseconds."""


class Claim(BaseModel):
    """Hold the content of a claim file.

    Attributes:
        token: unique to the claim, so that a takeover cannot hit a younger claim.
        host: host name and, on Linux, the pid namespace: two containers may share a name but not their pids.
        started: start time of the process, as the system tells it; empty where it is not known.
        heartbeat: Unix time of the claim by its host's clock, in seconds; shown, and compared with nothing. The signs
            of life are the times of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    host: str
    pid: int
    started: str
    heartbeat: float


def read_claim(path: Path) -> Claim | None:
    """Return the claim in a file, or None where there is none; a broken one is nobody's, and stale by age alone."""
    try:
        return Claim.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except (IntegrityError, ValidationError, OSError):
        return Claim(token="broken", host="", pid=0, started="", heartbeat=0.0)


def is_stale(claim: Claim, age: Callable[[], float]) -> bool:
    """Return whether the process of a claim is gone.

    Args:
        claim: what the file said.
        age: gives the seconds since its last sign of life (`age_of`); asked only where the process cannot be looked at.
    """
    boot = claim.started.partition(":")[0]
    if claim.host != this_host() or (boot and boot_id() and boot != boot_id()):  # or another host of the same name
        return age() > TIMEOUT_SECONDS
    started = process_started(claim.pid)
    if started is None:
        return True
    if started and claim.started:
        return started != claim.started
    return age() > TIMEOUT_SECONDS


def age_of(path: Path, now: float | None = None) -> float:
    """Return the seconds since a claim's last sign of life; infinite where the file is gone.

    Args:
        path: the claim.
        now: time of the file system; it is asked for it by default.
    """
    now = file_system_time(path.parent) if now is None else now
    try:
        with path.open("rb") as stream:  # opening makes a network file system ask its server
            return now - os.fstat(stream.fileno()).st_mtime
    except OSError:
        return float("inf")


def file_system_time(folder: Path) -> float:
    """Return the time by the clock of whatever serves a folder; of a folder that cannot be written, this host's."""
    probe = folder / f".now.{uuid.uuid4().hex}"
    try:
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime
        probe.unlink()
        return now
    except OSError:
        return time.time()


def is_claimed(path: Path) -> bool:
    """Return whether a living process holds the claim."""
    claim = read_claim(path)
    return claim is not None and not is_stale(claim, partial(age_of, path))


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Try to hold a claim: yield True while this thread holds it, False at once where it is held already.

    A second thread keeps the heartbeat going. A stale claim is taken over. What is written under a claim asks
    `check_claim` or `check_run` before it counts.

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
    _held_here()[key] = claim.token
    try:
        yield True
    finally:
        _held_here().pop(key, None)
        stop.set()
        thread.join()
        found = read_claim(path)
        if found is not None and found.token == claim.token:
            path.unlink(missing_ok=True)


def _beat(path: Path, claim: Claim, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            with path.open("rb+") as stream:
                if json.loads(stream.read()).get("token") != claim.token:
                    return
                os.utime(stream.fileno())  # by the file's server; of the file that was read, also where it was replaced
        except FileNotFoundError:
            return
        except (OSError, ValueError):  # a server that does not answer now; a broken claim is none of ours
            continue


def _acquire(path: Path, claim: Claim) -> bool:
    temporary = path.with_name(f".{path.name}.{claim.token}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(claim.model_dump_json(), encoding="utf-8")  # lost with the power: stale, as it should be
        try:
            if _create(temporary, path, claim.token):
                return True
            found = read_claim(path)
            if found is None:  # released between the two looks
                return _create(temporary, path, claim.token)
            now = temporary.stat().st_mtime
            return is_stale(found, partial(age_of, path, now)) and _take_over(path, found, temporary, claim.token)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, RunDirectoryError):
            raise
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error


def _create(temporary: Path, path: Path, token: str) -> bool:
    """Make `path` with the content of `temporary`, in one step, only where it does not exist.

    A server's answer that was lost makes the client ask twice, and find its own file there: the token tells.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return _is_ours(path, token)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        try:  # a file system without hard links: exclusive creation, a reader may see the file before its content
            with path.open("x", encoding="utf-8") as stream:
                stream.write(temporary.read_text(encoding="utf-8"))
        except FileExistsError:
            return _is_ours(path, token)
    return True


def _is_ours(path: Path, token: str) -> bool:
    found = read_claim(path)
    return found is not None and found.token == token


def _take_over(path: Path, stale: Claim, temporary: Path, token: str) -> bool:
    """Replace a stale claim; of several processes that try, the first to write its marker wins."""
    marker = path.with_name(f".{path.name}.takeover-{stale.token}")
    if not _create(temporary, marker, token):
        with suppress(OSError):
            if file_system_time(path.parent) - marker.stat().st_mtime > TAKEOVER_SECONDS:
                marker.unlink()
        return False
    try:
        found = read_claim(path)
        if found is None or found.token != stale.token:  # another process was faster and has removed the marker again
            return False
        os.utime(temporary)  # the first sign of life of the new holder
        temporary.replace(path)
        return True
    finally:
        marker.unlink(missing_ok=True)


_held = threading.local()
"""Tokens of the claims that this thread holds, for what is called under one of them.

By pid, because a fork copies them, and file.
"""


def _held_here() -> dict[tuple[int, str], str]:
    if not hasattr(_held, "claims"):
        _held.claims = {}
    claims: dict[tuple[int, str], str] = _held.claims
    return claims


def check_claim(path: Path) -> None:
    """Refuse to go on where this thread's claim was taken over: it was away for longer than `TIMEOUT_SECONDS`.

    A thread that holds no such claim is not asked.

    Raises:
        ClaimLostError: names the new holder.
    """
    token = _held_here().get(_key(path))
    if token is None or _is_ours(path, token):
        return
    raise ClaimLostError(
        f"the claim {path} was taken over{_holder(path)} while this process did not answer; what it has computed since "
        "is refused"
    )


def check_run(directory: Path) -> None:
    """Refuse to go on where this thread held the claim of a run and has lost it.

    Raises:
        ClaimLostError: as `check_claim`.
    """
    check_claim(claim_file(directory.parent, directory.name))


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


def holder_of(path: Path) -> str:
    """Return the process that a claim names, as `pid 123 on node7`; empty where there is none."""
    claim = read_claim(path)
    return "" if claim is None or not claim.host else f"pid {claim.pid} on {claim.host.split()[0]}"


def _holder(path: Path) -> str:
    found = holder_of(path)
    return f" ({found}, last heartbeat {max(0.0, age_of(path)):.0f} s ago)" if found else ""
