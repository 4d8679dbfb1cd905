"""Committed results of preregistered studies: they follow from their tables, and the preregistration came first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowly.records.canonical import sha256_file
from narrowly.records.git_history import is_whole
from narrowly.records.study_spec import load_study_spec
from narrowly.study.committed import recomputed
from narrowly.study.preregistered import order_faults, read_prereg

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "results").glob("*/prereg.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def results(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_number_of_the_summary_follows_from_the_committed_tables(results: Path) -> None:
    told = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    found = recomputed(results).model_dump(mode="json")
    assert _differences(told, found, "summary") == []


def _differences(told: object, found: object, place: str) -> list[str]:
    """Return where two JSON values differ by more than 1e-9, relative: another machine adds in another order."""
    if isinstance(told, dict) and isinstance(found, dict):
        missing = sorted(told.keys() ^ found.keys())
        both = [
            one for key in told.keys() & found.keys() for one in _differences(told[key], found[key], f"{place}.{key}")
        ]
        return [*(f"{place}.{key}" for key in missing), *both]
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        pairs = enumerate(zip(told, found, strict=True))
        return [one for i, (a, b) in pairs for one in _differences(a, b, f"{place}[{i}]")]
    if isinstance(told, float) and isinstance(found, int | float):
        return [] if told == pytest.approx(found, rel=1e-9, abs=1e-15) else [f"{place}: {told} {found}"]
    return [] if told == found else [f"{place}: {told!r} {found!r}"]


def test_every_file_has_its_recorded_hash_and_the_preregistration_is_that_of_the_study_file(results: Path) -> None:
    lines = (results / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    names = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    assert {line.split("  ")[1] for line in lines} == names - {"SHA256SUMS"}
    assert all(sha256_file(results / name) == digest for digest, name in (line.split("  ") for line in lines))
    own = load_study_spec(ROOT / "evidence" / f"{results.name}.yaml")
    assert read_prereg(results / "prereg.json").hash == own.prereg_hash


def test_the_preregistration_was_committed_before_the_first_run(results: Path) -> None:
    if not is_whole(ROOT):
        pytest.skip("this checkout does not have the whole history")
    assert order_faults(results) == []
