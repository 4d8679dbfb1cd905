"""The preregistered studies of evidence/: their size, their time, their bases, and what decides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from narrowly.analysis.decisions import Evidence, decide
from narrowly.records.base_seeds import SEED_USES, parse_base_name, refuse_used_seeds
from narrowly.records.study_spec import load_study_spec
from narrowly.study.pace import estimated_seconds
from narrowly.study.plan import expand

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
        assert told or finding.decision in ("as line-muon", "as same-init")


def test_bases_that_decide_together_have_no_seed_in_common() -> None:
    for path in FOLDER.glob("*.yaml"):
        study = load_study_spec(path)
        for finding in study.prereg.findings if study.prereg is not None else ():
            grids = [study.arms[arm].grid.get("base", study.grid.get("base", ())) for arm in finding.contrast.first]
            names = [parse_base_name(base) for base in dict.fromkeys(base for grid in grids for base in grid)]
            seeds = [name.seed for name in names if name is not None]
            assert len(set(seeds)) == len(seeds), f"{path.stem}: {finding.id}"


def dialled(other: float) -> pl.DataFrame:
    """Return a dial: Muon at .35 as trained, .12 scaled by half; halved along its own init at .70, else at `other`."""
    draws = np.random.default_rng(3)
    points = [("scaled", 0.5, None, 0.12)]
    for reference, half in (("same_init", 0.70), ("other_init", other)):
        points += [("orthogonal", 1.0, reference, 0.35), ("orthogonal", 0.5, reference, half)]
        points += [("random", 0.5, reference, 0.10 if half < 0.3 else 0.40)]
    rows = [
        {
            "base": f"micro-{seed}", "arm": arm, "control": control, "f": f, "reference": reference,
            "inner": "frobenius", "granularity": "joint", "broad_aligned": 0.2,
            "trained_misaligned": 0.94, "broad_misaligned": float(height + draws.normal(0, 0.01)),
        }
        for seed in range(8, 24)
        for arm in ("adam", "lion", "muon")
        for control, f, reference, height in points
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"reference": pl.String()})


@pytest.mark.parametrize(
    ("other", "words", "finds"),
    [
        (0.13, ("established", "established", "refuted"), False),
        (0.02, ("established", "refuted", "refuted"), False),  # below plain scaling
        (0.20, ("established", "refuted", "refuted"), False),  # a few points above it
        (0.70, ("established", "refuted", "established"), True),
    ],
)
def test_another_init_finds_what_is_hidden_only_where_misalignment_rises(other, words, finds) -> None:
    prereg = load_study_spec(FOLDER / "x3_dial.yaml").prereg
    assert prereg is not None
    none = pl.DataFrame({"arm": ["muon"], "base": ["micro-8"], "step": [0], "final": [False]})
    evidence = Evidence(none, dialled(other))
    found = [decide(finding, evidence).word for finding in prereg.findings]
    assert tuple(found) == words
    said = dict(zip((finding.id for finding in prereg.findings), found, strict=True))
    sentences = [one.say for one in prereg.conclusions if all(said[name] == word for name, word in one.when.items())]
    assert len(sentences) == 1
    assert ("finds it too" in sentences[0]) == finds
