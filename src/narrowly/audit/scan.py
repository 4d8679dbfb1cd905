"""Scan paths: every file once, past the detectors; jobs and skips come back in the order of the files."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from narrowly.audit.detectors import Detector
from narrowly.audit.detectors.deepspeed import without_joined
from narrowly.audit.detectors.hydra import without_selected
from narrowly.audit.detectors.registry import detectors_for
from narrowly.audit.files import Repository, SourceFile, kind_of, read_source
from narrowly.audit.folders import walk
from narrowly.audit.record import Job, Skip
from narrowly.audit.trees import UnreadableError, check_nesting
from narrowly.records.errors import SpecError

ONE_ANSWER = frozenset({"yaml", "json", "toml"})
"""Kinds of file in which the first detector that finds a job is the last that is asked."""

CHUNK = 64
"""Files that a worker takes at a time."""

MOST_LEFT = 600_000
"""Objects made and not freed between two collections of cycles: about 100 MB of syntax trees."""

MOST_BESIDE = 20_000
"""Files that are listed around a PATH that is one file."""


@dataclass
class Scan:
    """Hold what a scan found.

    Attributes:
        jobs: in the order of the files.
        skipped: files that were not read or not understood.
        files: files that were read.
        pickles: pickled artefacts that were met and not opened.
    """

    jobs: list[Job] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    files: int = 0
    pickles: list[str] = field(default_factory=list)

    def add(self, other: Scan) -> None:
        """Take over what another scan found."""
        self.jobs += other.jobs
        self.skipped += other.skipped
        self.files += other.files
        self.pickles += other.pickles


def scan(paths: Sequence[Path], workers: int = 1) -> Scan:
    """Scan folders and files.

    Args:
        paths: what to scan; a file is read whatever folder it is in.
        workers: processes.

    Raises:
        SpecError: a path that is missing, a link that leads nowhere, or neither file nor folder.
    """
    found = Scan()
    beside: dict[Path, Repository] = {}
    for path in paths:
        if path.is_dir():
            found.add(_folder(path, workers, label="" if len(paths) == 1 else _label(path)))
        else:
            found.add(_one_file(path, beside))
    found.jobs = without_run(without_selected(without_joined(found.jobs)))
    return found


def without_run(jobs: list[Job]) -> list[Job]:
    """Return the jobs without those of configs that a command among them runs: one run, one job, at the command."""
    run = {
        (job.tool, found.at.rpartition(":")[0])
        for job in jobs
        if job.kind == "command"
        for found in job.fields.values()
        if found.at is not None
    }
    return [job for job in jobs if job.kind != "config" or (job.tool, job.file) not in run]


def _label(folder: Path) -> str:
    """Return what stands before the paths below a folder when they are shown."""
    return "" if folder == Path() else f"{folder.as_posix().rstrip('/')}/"


def _one_file(path: Path, beside: dict[Path, Repository]) -> Scan:
    """Scan one file; what stands beside it is listed up to `MOST_BESIDE` files, once for each folder."""
    if path.is_symlink() and not path.exists():
        raise SpecError(f"{path}: a link that leads nowhere; give a folder or a file")
    if not path.exists():
        said = "standard input is not read" if str(path) == "-" else "there is no such file or folder"
        raise SpecError(f"{path}: {said}; give a folder or a file")
    if not path.is_file():
        raise SpecError(f"{path}: neither a file nor a folder")
    folder = path.parent
    if kind_of(path.name) is None:
        return Scan(
            [], [Skip(f"{_label(folder)}{path.name}", f"{path.suffix or 'this'} is no kind of file that is read")]
        )
    if folder not in beside:
        names = [one for one in islice(walk(folder), MOST_BESIDE) if isinstance(one, str)]
        beside[folder] = Repository(folder, names, _label(folder))
    return _files([path.name], beside[folder], alone=True)


def _folder(root: Path, workers: int, label: str) -> Scan:
    found = Scan()
    names: list[str] = []
    for one in walk(root):
        if isinstance(one, Skip):
            found.skipped.append(Skip(f"{label}{one.file}", one.reason))
        else:
            names.append(one)
    read = [name for name in names if kind_of(name.rsplit("/", 1)[-1]) is not None]
    if workers <= 1 or len(read) < 2 * CHUNK:
        found.add(_files(read, Repository(root, names, label)))
        return found
    chunks = [read[start : start + CHUNK] for start in range(0, len(read), CHUNK)]
    method = "fork" if sys.platform == "linux" else "spawn"
    start = (str(root), names, label)
    with ProcessPoolExecutor(
        min(workers, len(chunks)), get_context(method), initializer=_start, initargs=start
    ) as pool:
        for part in pool.map(_chunk, chunks):
            found.add(part)
    return found


_repository: Repository | None = None


def _start(root: str, names: Sequence[str], label: str) -> None:
    global _repository
    _repository = Repository(Path(root), names, label)


def _chunk(names: Sequence[str]) -> Scan:
    assert _repository is not None
    return _files(names, _repository)


def _files(names: Iterable[str], repository: Repository, alone: bool = False) -> Scan:
    """Scan files one by one; `alone` where the PATH is the file itself.

    The collector of cycles would walk every syntax tree that is being made, a third of the time of a scan; it runs
    between files instead, once `MOST_LEFT` objects wait for it.
    """
    found = Scan()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            source = read_source(f"{repository.root}/{name}", repository.shown(name))
            if isinstance(source, Skip):
                found.skipped.append(source)
            elif source is not None and source.kind == "pickle":
                found.pickles.append(source.shown)
            elif source is not None:
                found.files += 1
                asked = detectors_for(source)
                jobs, skip = jobs_in(source, repository, asked) if asked else ([], unreadable(source, alone))
                found.jobs += jobs
                if skip is not None:
                    found.skipped.append(skip)
                if gc.get_count()[0] > MOST_LEFT:
                    gc.collect()
    finally:
        if enabled:
            gc.enable()
    return found


def unreadable(file: SourceFile, alone: bool) -> Skip | None:
    """Say why a file that no detector asks for could not be read: binary, another encoding, YAML nested too deep.

    It is parsed where it was given by itself; in a folder that would cost more than all jobs do.
    """
    try:
        if not file.data.isascii() or b"\0" in file.data[:8192]:
            _ = file.text
        if file.kind == "yaml":
            check_nesting(file.text)
        if alone and file.kind in ONE_ANSWER:
            _ = file.documents
        elif alone and file.kind == "python":
            _ = file.tree
    except UnreadableError as error:
        return Skip(file.shown, str(error))
    return None


def jobs_in(file: SourceFile, repository: Repository, asked: Iterable[Detector]) -> tuple[list[Job], Skip | None]:
    """Return the jobs that detectors find in one file, and why it was skipped where it could not be parsed."""
    jobs: list[Job] = []
    for detector in asked:
        try:
            jobs += detector.detect(file, repository)
        except UnreadableError as error:
            return jobs, Skip(file.shown, str(error))
        except RecursionError:
            return jobs, Skip(file.shown, "nested too deep to be read")
        if jobs and file.kind in ONE_ANSWER:
            break
    first: dict[int, Job] = {}
    for job in jobs:
        first.setdefault(job.line, job)
    return (list(first.values()) if file.kind not in ONE_ANSWER else jobs), None


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
