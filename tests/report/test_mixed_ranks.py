"""Spectra of modules of different ranks: no jump, shares that add up, the flat line of the modules, means by rank."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch

from narrowly.cli.app import execute
from narrowly.report.spectrum_figures import normalised, spectra_by_optimiser
from narrowly.spectrum.metrics import METRICS, rank_means, spectrum_table
from spectrum_cases import pair_of_spectrum
from tiny_adapters import change_tensors, saved

pytestmark = pytest.mark.filterwarnings("ignore")

MIXED = {"a": [4.0, 2.0, 1.0, 1.0], "b": [6.0, 2.0], "c": [1.0]}


def frame(modules: dict[str, list[float]], arm: str = "adam") -> pl.DataFrame:
    return pl.DataFrame(
        [{"arm": arm, "base": "", "module": name, "singular_values": values} for name, values in modules.items()]
    )


def test_mean_shares_of_mixed_ranks_never_rise_and_add_up_to_one() -> None:
    curve = normalised(frame(MIXED)).group_by("index").agg(pl.col("share", "flat").mean()).sort("index")
    expected = [(0.5 + 0.75 + 1) / 3, (0.25 + 0.25) / 3, 0.125 / 3, 0.125 / 3]
    assert curve["share"].to_list() == pytest.approx(expected)
    assert curve["share"].sum() == pytest.approx(1.0)
    assert curve["share"].diff().drop_nulls().max() <= 0  # type: ignore[operator]
    assert curve["flat"].to_list() == pytest.approx([(1 / 4 + 1 / 2 + 1) / 3, (1 / 4 + 1 / 2) / 3, 1 / 12, 1 / 12])


def test_the_figure_of_mixed_ranks_draws_the_mean_and_the_flat_spectra_of_its_modules() -> None:
    figure = spectra_by_optimiser(frame(MIXED))
    flat, mean = figure.axes[0].lines
    assert list(mean.get_ydata()) == pytest.approx([75.0, 100 / 6, 100 / 24, 100 / 24])
    assert sum(flat.get_ydata()) == pytest.approx(100)
    assert "1/4" not in " ".join(text.get_text() for text in figure.legends[0].get_texts())


def test_the_figure_of_one_rank_keeps_its_horizontal_line_and_each_arm_has_its_own() -> None:
    figure = spectra_by_optimiser(pl.concat([frame({"a": [2.0, 1.0]}), frame({"a": [3.0, 2.0, 1.0, 1.0]}, "muon")]))
    heights = [line.get_ydata()[0] for axis in figure.axes for line in axis.lines if list(line.get_xdata()) == [0, 1]]
    assert heights == [50.0, 25.0]


def test_means_are_over_modules_of_one_rank_and_leave_out_idle_ones() -> None:
    idle = pair_of_spectrum([1.0, 1.0, 1.0])
    pairs = [pair_of_spectrum([2.0, 1.0]), pair_of_spectrum([1.0, 1.0, 1.0]), idle._replace(B_O_R=0 * idle.B_O_R)]
    small, large = rank_means(spectrum_table(pairs))
    assert (small.rank, small.modules, small.idle) == (2, 1, 0)
    assert (large.rank, large.modules, large.idle) == (3, 2, 1)
    assert small.means["stable_rank"] == pytest.approx(1.25)
    assert large.means["stable_rank"] == pytest.approx(3.0)
    assert large.means["frobenius_nuclear"] == pytest.approx(1 / math.sqrt(3))
    assert set(large.over.values()) == {1}


def test_spectrum_of_mixed_ranks_prints_means_for_each_rank_and_none_over_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "a", target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2})
    change_tensors(folder, **{"0__mlp__down_proj__lora_B__weight": torch.zeros_like})
    capsys.readouterr()
    assert execute(["spectrum", str(folder)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "means over" in line]
    assert lines[0].startswith("means over 1 module of rank 2 (1 of 2 are idle, s*B*A = 0): stable_rank 1.")
    assert lines[1].startswith("means over 2 modules of rank 4: stable_rank ")
    assert execute(["spectrum", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [said["summary"][metric] for metric in METRICS] == [None] * 4
    assert said["summary"]["update_norm"] > 0
    assert [(one["rank"], one["modules"], one["idle"]) for one in said["by_rank"]] == [(2, 2, 1), (4, 2, 0)]


def test_spectrum_of_one_rank_keeps_its_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "a")
    capsys.readouterr()
    assert execute(["spectrum", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (means,) = said["by_rank"]
    assert {metric: said["summary"][metric] for metric in METRICS} == means["means"]
    assert means["rank"] == 4 and means["modules"] == 14
