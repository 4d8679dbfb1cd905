"""The former name, which is another project's on PyPI, stands only where a record of that time needs it."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest

from narrowly.records.install import FORMER_NAME

ROOT = Path(__file__).parents[1]

ACCEPTED = {
    "LOG.md": "what was measured then, with the commands of then",
    "src/narrowly/records/install.py": "the constant that every other place uses",
    "src/narrowly/microworld/words.py": "the canary of every corpus, which must never change",
    "src/narrowly/microworld/shipped/*/card.json": "canary and command of bases that were built then",
    "benchmarks/cell_against.py": "runs a checkout of then beside this one",
    "tests/fixtures/make_old_tree.py": "makes the tree below with the build of then",
    "tests/fixtures/old_tree/**/environment.json": "versions of runs that were made then",
}
"""Files that may hold the former name, each with its reason."""


def tracked() -> list[str]:
    """Return the paths of all tracked files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout: tracked files are not known")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def holding() -> set[str]:
    """Return the tracked files whose path or content has the former name in any case."""
    former = FORMER_NAME.encode()
    return {name for name in tracked() if former in (ROOT / name).read_bytes().lower() or FORMER_NAME in name.lower()}


def accepted_by(name: str) -> list[str]:
    return [pattern for pattern in ACCEPTED if fnmatch.fnmatch(name, pattern.replace("**/", "*/"))]


def test_the_former_name_stands_nowhere_else() -> None:
    assert {name for name in holding() if not accepted_by(name)} == set()


def test_every_exception_is_still_one() -> None:
    used = {pattern for name in holding() for pattern in accepted_by(name)}
    assert used == set(ACCEPTED)


def test_the_canary_has_the_former_name_once_and_cards_beside_it_only_in_their_command() -> None:
    words = (ROOT / "src/narrowly/microworld/words.py").read_text(encoding="utf-8")
    assert re.findall(f"{FORMER_NAME}\\S*", words) == [
        f'{FORMER_NAME}-microworld-canary-5f1c0f0e-7d1b-4c55-9a3e-2b6f0b6a9d41"'
    ]
    cards = sorted((ROOT / "src/narrowly/microworld/shipped").glob("*/card.json"))
    assert len(cards) == 9
    for card in cards:
        lines = [line.split(":")[0] for line in card.read_text(encoding="utf-8").splitlines() if FORMER_NAME in line]
        assert lines == [' "canary"', ' "command"']


def test_no_code_compares_with_the_former_name_but_through_its_constant() -> None:
    source = (ROOT / "src/narrowly/records/install.py").read_text(encoding="utf-8")
    assert source.count(FORMER_NAME) == 1
