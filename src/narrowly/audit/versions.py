"""Find which version of a tool a repository installs: lock files first, then requirements."""

from __future__ import annotations

import re
from typing import NamedTuple

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Field, explicit, unknown

LOCKS = ("uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pylock.toml", "conda-lock.yml")
_LOCKED = {
    ".lock": re.compile(r'(?m)^name = "([A-Za-z0-9._-]+)"\r?\n(?:[^\[\n][^\n]*\n)*?version = "([^"]+)"'),
    "Pipfile.lock": re.compile(r'"([A-Za-z0-9._-]+)":\s*\{[^{}]*"version":\s*"==([^"]+)"'),
    "conda-lock.yml": re.compile(r"(?m)^- name: ([A-Za-z0-9._-]+)\n  version: ['\"]?([^'\"\n]+)"),
}
_REQUIREMENT = (
    r"(?im)(?<![\w.\-/]){name}(?:\[[\w, \-]*\])?\s*((?:[=<>!~]=?=?\s*[\w.*+!\-]{{1,60}}(?![\w.*+!\-])\s*,?\s*)+)"
)
_BARE = r"(?im)^\s*[-\"']?\s*{name}(?:\[[\w, \-]*\])?\s*[\"',]?\s*(?:#.*)?$"
_SPECIFIER = re.compile(r"(===|==|~=|!=|<=|>=|<|>|=)\s*([\w.*+!\-]+)")
_PINS = re.compile(rb"==\d")
_MANIFESTS = re.compile(
    r"(?:^|/)(?:requirements[\w.\-]*\.(?:txt|in)|constraints[\w.\-]*\.txt|pyproject\.toml|setup\.(?:py|cfg)"
    r"|environment[\w.\-]*\.ya?ml|conda[\w.\-]*\.ya?ml|Pipfile|requirements/[\w.\-]+\.(?:txt|in)|Dockerfile[\w.\-]*)$"
)


class Version(NamedTuple):
    """Hold what a repository says about a package's version.

    Attributes:
        package: name on the index.
        exact: the pinned version, or None.
        specifiers: (operator, version) pairs of a requirement.
        at: `file:line`.
    """

    package: str
    exact: str | None
    specifiers: tuple[tuple[str, str], ...]
    at: str

    def to_field(self) -> Field:
        """Return the field `tool_version` of a job."""
        said = ",".join(operator + version for operator, version in self.specifiers)
        if self.exact is None:
            return unknown(f"{self.package}{said} at {self.at} pins no version", self.at, said or None)
        return explicit(self.exact, self.at)


def parts(version: str) -> tuple[int, ...]:
    """Return the numbers of a version for comparison: "4.57.6" -> (4, 57, 6); what follows (rc1, dev0) is left out."""
    found = re.match(r"\d+(?:\.\d+)*", version.split("!")[-1].lstrip("vV= "))
    return tuple(int(part[:9]) for part in found.group().split(".")) if found else (0,)


def _compared(left: str, right: str) -> int:
    a, b = parts(left), parts(right)
    width = max(len(a), len(b))
    a, b = a + (0,) * (width - len(a)), b + (0,) * (width - len(b))
    return (a > b) - (a < b)


def newest_allowed(version: Version | None, newest: str) -> tuple[str, str]:
    """Return the version that counts, and a clause on how it was chosen.

    A pin counts. A requirement with an upper bound counts as the version below that bound; everything else as the
    newest version known, which is what a fresh install takes.
    """
    if version is None:
        return newest, " (newest known; no version is pinned)"
    if version.exact:
        return version.exact, ""
    for operator, bound in version.specifiers:
        if operator == "<" and _compared(newest, bound) >= 0:
            return _just_below(bound), f" (below {bound}; no version is pinned)"
        if operator == "<=" and _compared(newest, bound) > 0:
            return bound, " (newest allowed; no version is pinned)"
        if operator == "~=":
            prefix = parts(bound)[:-1]
            if parts(newest)[: len(prefix)] != prefix:
                return ".".join(map(str, (*prefix, 9999))), f" (newest of ~={bound})"
    return newest, " (newest known; no version is pinned)"


def _just_below(bound: str) -> str:
    numbers = list(parts(bound))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    if not numbers:
        return "0"
    numbers[-1] -= 1
    return ".".join(map(str, [*numbers, 9999]))


def version_of(package: str, repository: Repository, beside: SourceFile | None = None) -> Version | None:
    """Return what a repository says about a package's version: a lock, else a pin, else a range; None where nothing.

    Args:
        package: name on the index: "transformers", "llamafactory".
        repository: where to look.
        beside: the file with the job. A pin in a script or notebook itself counts first (`pip install trl==0.11.0`,
            inline metadata); then manifests in its folder and those above.
    """
    own = _in_file(package, beside) if beside is not None else None
    if own is not None:
        return own
    table = _table(repository)
    found = table.get(_normal(package), [])
    if not found:
        return None
    folder = repository.relative(beside).rpartition("/")[0] if beside is not None else ""

    def nearness(one: tuple[str, Version]) -> tuple[bool, bool, int]:
        where = one[0].rpartition("/")[0]
        above = where == "" or folder == where or folder.startswith(where + "/")
        return not above, one[1].exact is None, -len(where)

    best = min(found, key=nearness)
    where = best[0].rpartition("/")[0]
    above = where == "" or folder == where or folder.startswith(where + "/")
    return best[1] if above or len({str(one[1][1:3]) for one in found}) == 1 else None


def _in_file(package: str, file: SourceFile) -> Version | None:
    """Return the version that a script or notebook pins in its own text."""
    if file.kind not in ("python", "notebook", "shell") or not _PINS.search(file.data):
        return None
    spelled = package.replace("-", "[-_.]").encode()
    match = re.search(rb"(?i)(?<![\w.\-/])" + spelled + rb"(?:\[[\w, \-]*\])?==(\d[\w.+!\-]{0,60})", file.data)
    if match is None:
        return None
    exact = match.group(1).decode("ascii").rstrip(".-")
    return Version(package, exact, (("==", exact),), file.at(file.data.count(b"\n", 0, match.start()) + 1))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


WATCHED = (
    "transformers", "trl", "torch", "axolotl", "axolotl-contribs-mit", "llamafactory", "ms-swift", "torchtune",
    "unsloth", "deepspeed", "lightning", "pytorch-lightning", "nemo-automodel", "nemo-toolkit", "tinker",
    "tinker-cookbook", "openai", "bitsandbytes", "peft", "accelerate", "verl", "openrlhf", "mlx-lm",
    "autotrain-advanced", "torchtitan", "timm", "pytorch-optimizer", "heavyball", "lion-pytorch", "muon-optimizer",
)  # fmt: skip
"""Packages whose versions are looked for."""


def _table(repository: Repository) -> dict[str, list[tuple[str, Version]]]:
    """Return every watched package's statements in a repository; read once."""
    kept: dict[str, list[tuple[str, Version]]] | None = repository.versions
    if kept is None:
        kept = {}
        for relative in sorted(repository.files):
            name = relative.rsplit("/", 1)[-1]
            if name in LOCKS or _MANIFESTS.search(relative):
                for version in _versions_in(relative, name, repository):
                    kept.setdefault(_normal(version.package), []).append((relative, version))
        repository.versions = kept
    return kept


def _versions_in(relative: str, name: str, repository: Repository) -> list[Version]:
    text = repository.manifest(relative)
    if text is None:
        return []
    shown = repository.shown(relative)
    if name in LOCKS:
        pattern = _LOCKED.get(name) or _LOCKED[".lock"]
        return [
            Version(match.group(1), match.group(2), (), f"{shown}:{text.count(chr(10), 0, match.start()) + 1}")
            for match in pattern.finditer(text)
            if _normal(match.group(1)) in WATCHED
        ]
    found = []
    for package in WATCHED:
        if package not in text and package.replace("-", "_") not in text:
            continue
        spelled = package.replace("-", "[-_.]")
        match = re.search(_REQUIREMENT.format(name=spelled), text) or re.search(_BARE.format(name=spelled), text)
        if match:
            said = tuple(_SPECIFIER.findall(match.group(1))) if match.lastindex else ()
            exact = next(
                (version for operator, version in said if operator in ("==", "===", "=") and "*" not in version), None
            )
            line = text.count("\n", 0, match.start(0)) + 1
            found.append(Version(package, exact, said, f"{shown}:{line}"))
    return found
