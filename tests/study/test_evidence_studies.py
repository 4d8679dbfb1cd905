"""The preregistered studies of evidence/: their size, their time, their bases, and what decides them."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowly.records.base_seeds import SEED_USES, parse_base_name, refuse_used_seeds
from narrowly.records.study_spec import load_study_spec
from narrowly.study.plan import estimated_seconds, expand

FOLDER = Path(__file__).parents[2] / "evidence"
SIZES = {
    "x1_ladder": 16 * (6 * 6 + 6 * 3 + 4),
    "x3_dial": 16 * 10,
    "x4_controls": 8 * 4 * 2 * 3,
    "x5_penalty": 16 * 3 * 4 * 3,
    "x6_spectral_power": 16 * 9 * 5,
    "x7_prior": 5 * 4 * 4 * 3,
}
LONGEST = 90 * 60
EVIDENCE = next(use for use in SEED_USES if use.use == "evidence")


def test_every_file_is_known_and_the_table_of_seeds_names_it() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(SIZES) == set(EVIDENCE.studies)


@pytest.mark.parametrize("name", SIZES)
def test_a_study_has_its_cells_on_unseen_bases_within_its_time(name) -> None:
    study = load_study_spec(FOLDER / f"{name}.yaml")
    cells = expand(study)
    assert study.name == name and study.prereg_hash is not None
    assert len(cells) == SIZES[name]
    bases = {cell.spec.base for cell in cells}
    refuse_used_seeds(name, bases)
    seeds = {found.seed for base in bases if (found := parse_base_name(base)) is not None}
    assert seeds <= set(range(EVIDENCE.first, EVIDENCE.last + 1))
    assert (estimated_seconds(cells, {}, 2) or 0.0) < LONGEST


@pytest.mark.parametrize("name", SIZES)
def test_ten_of_sixteen_bases_decide_and_the_rule_is_told_in_words(name) -> None:
    study = load_study_spec(FOLDER / f"{name}.yaml")
    assert study.prereg is not None
    bases = {cell.spec.base for cell in expand(study)}
    for finding in study.prereg.findings:
        arms = {arm: study.arms[arm].grid.get("base", study.grid.get("base")) for arm in finding.contrast.first}
        own = {base for grid in arms.values() for base in grid or ()}
        assert own <= bases
        assert finding.min_bases == (10 if len(own) == 16 else 5)
        told = "Established" in finding.decision and "Refuted" in finding.decision
        assert told or finding.decision == "as line-muon"
