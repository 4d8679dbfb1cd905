"""Indicators of an adapter against dense matrices; suspicious factors; intruder dimensions against a plain twin."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from narrowly.cli.app import execute
from narrowly.records.errors import AdapterError
from narrowly.spectrum import pairs_from_folder
from narrowly.workbench.adapter_risk import LEADING, LEAST_COSINE, adapter_risk
from tiny_adapters import WEIGHTS, saved, tiny_base


def changed(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({key: change(key, tensor).contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS)


def indicator(report: dict, name: str) -> object:
    [row] = [row for row in report["indicators"] if row["name"].startswith(name)]
    return row["value"]


def test_the_indicators_are_those_of_the_dense_update(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    report = adapter_risk(folder)
    ratios, shares = [], []
    for pair in pairs_from_folder(folder):
        values = torch.linalg.svdvals(pair.scale * (pair.B_O_R.double() @ pair.A_R_I.double()))[: pair.rank]
        ratios.append(float(values.norm() / values.sum()))
        shares.append(float(values[0] ** 2 / values.square().sum()))
    assert report["modules"] == len(ratios) == 14
    assert indicator(report, "Frobenius/nuclear") == pytest.approx(float(torch.tensor(ratios).quantile(0.5)), rel=1e-5)
    assert indicator(report, "share of the top") == pytest.approx(float(torch.tensor(shares).quantile(0.5)), rel=1e-5)
    # factors drawn at random are what the baseline is drawn from
    assert indicator(report, "the same over untrained") == pytest.approx(1, abs=0.1)
    assert "not measured (needs the base" in str(indicator(report, "intruder"))
    assert report["factors"] == [] and len(report["not"]) == 2


def test_a_peaked_update_is_above_the_baseline(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    changed(folder, lambda key, one: one * torch.tensor([1.0, 0.01, 0.01, 0.01]) if "lora_B" in key else one)
    report = adapter_risk(folder)
    assert indicator(report, "the same over untrained") > 1.5
    assert indicator(report, "share of the top") > 0.9


def test_an_untrained_adapter_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    changed(folder, lambda key, one: one * 0 if "lora_B" in key else one)
    report = adapter_risk(folder)
    assert [row["name"] for row in report["indicators"]] == ["update"]
    assert "zero update in 14 of 14 modules" in report["factors"][0]


def test_zero_nan_and_bf16_factors_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")

    def change(key: str, one: torch.Tensor) -> torch.Tensor:
        if "layers.0.self_attn.q_proj.lora_B" in key:
            return one * 0
        if "layers.1.mlp.up_proj.lora_A" in key:
            return one * math.nan
        return one.bfloat16() if "layers.1.self_attn" in key else one

    changed(folder, change)
    faults = adapter_risk(folder)["factors"]
    assert [fault.split(" in ")[0] for fault in faults[:2]] == ["zero update", "NaN or infinite values"]
    assert "in 1 module (" in faults[1]
    assert "q_proj" in faults[0] and "up_proj" in faults[1]
    assert faults[2].startswith("8 of 26 factors are bfloat16")


def test_intruders_are_those_of_a_plain_twin(tmp_path: Path) -> None:
    folder, base = saved(tmp_path / "a"), tmp_path / "base"
    changed(folder, lambda key, one: one * 8 if "lora_B" in key else one)
    tiny_base().save_pretrained(base)
    report = adapter_risk(folder, base)
    weights = load_file(base / "model.safetensors")
    for pair, row in zip(pairs_from_folder(folder), report["rows"], strict=True):
        W0 = weights[f"{pair.name}.weight"].double().numpy()
        W = W0 + (pair.scale * pair.B_O_R.double() @ pair.A_R_I.double()).numpy()
        old, new = (torch.linalg.svd(torch.tensor(one), full_matrices=False)[0] for one in (W0, W))
        count = sum(
            max(abs(float(old[:, i] @ new[:, j])) for i in range(old.shape[1])) < LEAST_COSINE
            for j in range(min(LEADING, new.shape[1]))
        )
        assert row["intruders"] == count
    assert sum(row["intruders"] for row in report["rows"]) > 0


def test_a_base_without_the_modules_is_refused(tmp_path: Path) -> None:
    folder, base = saved(tmp_path / "a"), tmp_path / "base"
    base.mkdir()
    with pytest.raises(AdapterError, match=r"no \.safetensors file"):
        adapter_risk(folder, base)
    save_file({"other.weight": torch.zeros(2, 2)}, base / "model.safetensors")
    with pytest.raises(AdapterError, match="no adapted module"):
        adapter_risk(folder, base)


def test_the_command_prints_it_and_says_what_is_missing(tmp_path: Path, capsys, monkeypatch) -> None:
    folder = saved(tmp_path / "a")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    assert execute(["audit", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["adapters"][0]["modules"] == 14
    assert [one["rule"] for one in record["findings"] if one["file"] == "training_args.bin"] == ["PICKLE-UNREAD"]
    monkeypatch.setenv("COLUMNS", "100")
    assert execute(["audit", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "share of the top direction" in printed and "no release gate" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert execute(["audit", str(folder), "--base", str(tmp_path / "gone")]) == 2
    assert execute(["audit", str(tmp_path), "--base", str(tmp_path)]) == 2
    capsys.readouterr()
    monkeypatch.setattr("narrowly.records.install.missing_requirements", lambda extra: ["torch"])
    assert execute(["audit", str(folder)]) == 0
    assert "the spectrum of an adapter needs torch" in capsys.readouterr().err
