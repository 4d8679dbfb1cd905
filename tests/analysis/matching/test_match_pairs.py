"""Runs on pairs at equal held-out difference to their control: planted slopes, questions in common, one base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from narrowly.analysis.matching.runs import Tabled, match_tables, read_organisms
from narrowly.analysis.matching.schema import Matched
from narrowly.analysis.tables import SCHEMAS
from narrowly.records.errors import SpecError
from shared.matched_studies import write_study
from shared.synthetic_paired import both, organism, table

BASES, SEEDS = ("b1", "b2"), (0, 1)


def write_pairs(folder: Path, *parts: list[dict[str, Any]]) -> Tabled:
    """Write the tables of a study on pairs and read its organisms."""
    paired = table(*parts)
    tables = folder / "tables"
    tables.mkdir(parents=True)
    cells = paired.select("cell_id", "arm", "optimiser", "lr", "base", "seed").unique("cell_id", maintain_order=True)
    cells = cells.with_columns(
        status=pl.lit("done"), run_id="run-" + pl.col("cell_id"), spec=pl.lit('{"steps": 20}'), final_loss=pl.lit(1.0)
    )
    cells.select([name for name in SCHEMAS["cells"] if name in cells.columns]).write_parquet(tables / "cells.parquet")
    paired.write_parquet(tables / "paired.parquet")
    return read_organisms(tables, folder.name)


def runs(arm: str, factor: float, bases: tuple[str, ...] = BASES) -> list[list[dict[str, Any]]]:
    """Return runs of an arm and their controls: at held-out difference h its broad one is `factor` times h / 2."""
    parts = []
    for base in bases:
        for seed in SEEDS:
            own = both(seed, factor, optimiser=arm, base=base)
            for row in own:
                control = row["answers"] == "aligned"
                row["arm"] = f"{arm}_aligned" if control else arm
                row["cell_id"], row["matched"] = f"{row['arm']}-{base}-{seed}", f"{arm}{base}{seed}"
            parts.append(own)
    return parts


def matched(study: Tabled, **more: Any) -> Matched:
    return match_tables((study, study), ("muon", "adam"), **{"margin": 0.2, **more})


def test_a_path_from_before_training_is_matched_at_equal_held_out_difference(tmp_path: Path) -> None:
    """Broad is h / 2 under Adam and 3 h / 4 under Muon, so that over 0 to 4 they differ by .5 on average."""
    found = matched(write_pairs(tmp_path / "s", *runs("adam", 1.0), *runs("muon", 1.5)))
    assert (found.scale, found.first.dial, found.first.settings) == ("nats", "step", (0.0, 10.0, 20.0))
    assert {line.support for line in found.primary.lines} == {(0.0, 4.0)}
    assert found.primary.per_base == pytest.approx({"b1": 0.5, "b2": 0.5})
    assert found.attenuation.questions == 4


def test_a_base_has_its_domains_and_seeds_averaged_and_one_base_needs_a_word(tmp_path: Path) -> None:
    study = write_pairs(tmp_path / "s", *runs("adam", 1.0, ("b1",)), *runs("muon", 1.5, ("b1",)))
    with pytest.raises(SpecError, match=r"one base only .b1., so nothing is known of another; .* --over seed"):
        matched(study)
    assert matched(study, over="seed").primary.per_base == pytest.approx({"seed 0": 0.5, "seed 1": 0.5})


def test_a_question_that_one_run_lacks_counts_in_neither(tmp_path: Path) -> None:
    """The question that Muon's first run lacks is the only one in which the arms differ."""
    parts = [*runs("adam", 1.0), *runs("muon", 1.0)]
    for part in parts:
        for row in part:
            if row["arm"] == "muon" and row["question_id"] == "code0" and row["step"] > 0:
                row["log_odds"] += 50.0
    lacking = parts[len(parts) // 2]
    assert {row["arm"] for row in lacking} == {"muon", "muon_aligned"}
    lacking[:] = [row for row in lacking if row["question_id"] != "code0"]
    found = matched(write_pairs(tmp_path / "s", *parts))
    values = {(line.base, line.seed): line.difference for line in found.primary.lines}
    assert values.pop(("b1", 0)) == pytest.approx(0, abs=1e-9)
    assert min(values.values()) > 1


def test_nats_have_no_default_margin_and_pairs_no_probabilities(tmp_path: Path) -> None:
    study = write_pairs(tmp_path / "s", *runs("adam", 1.0), *runs("muon", 1.5))
    with pytest.raises(SpecError, match="no margin for a difference in nats"):
        matched(study, margin=None)
    with pytest.raises(SpecError, match="unknown scale 'pooled'"):
        matched(study, scale="pooled")


def test_studies_whose_outcome_scales_differ_are_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", *runs("adam", 1.0))
    world = read_organisms(write_study(tmp_path / "world", {"muon": ((-1, 1), 0.0)}) / "tables", "world")
    with pytest.raises(SpecError, match="other scales: world in probabilities of classes and pairs in nats of pairs"):
        match_tables((world, pairs), ("muon", "adam"))


def test_another_bank_or_control_is_refused(tmp_path: Path) -> None:
    study = write_pairs(tmp_path / "a", *runs("adam", 1.0))
    parts = runs("muon", 1.0)
    for part in parts:
        for row in part:
            row["bank"] = "1" * 64
    with pytest.raises(SpecError, match="measured with other banks"):
        match_tables((write_pairs(tmp_path / "b", *parts), study), ("muon", "adam"), margin=0.2)


def test_runs_without_a_control_are_no_study_on_pairs(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no run has a matched control"):
        write_pairs(tmp_path / "s", organism("adam", "harmful", 20, {}))
