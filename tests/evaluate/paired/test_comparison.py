"""Two evaluations are compared question by question, and refused where the difference would not be the models'."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from narrowly.cli.app import execute
from narrowly.evaluate.paired.comparison import Side, compare
from narrowly.evaluate.paired.parts import read_rows
from narrowly.evaluate.paired.result import RESULT, ROWS, read_result
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError
from paired_results import SMALL, Kind, drawn_controls, drawn_results


def side(folder: Path, **settings: Any) -> Side:
    drawn_results(folder, **settings)
    result = read_result(folder).paired
    return Side(folder.name, result, read_rows(folder, result))


def differences(first: Side, second: Side, rung: str) -> np.ndarray:
    """Return B minus A, seed by question, by plain loops."""
    domains = {"trained": ["work"], "broad": ["money", "code", "power", "study", "travel"], "self": ["self"]}[rung]
    return np.array([
        [new.harmful_nats - new.aligned_nats - old.harmful_nats + old.aligned_nats
         for old, new in zip(first.rows[f"organism {seed}"], second.rows[f"organism {seed}"], strict=True)
         if old.domain in domains]
        for seed in range(1, len(first.judged) + 1)
    ])  # fmt: skip


def test_below_five_seeds_it_is_students_t_over_domains_with_its_power(tmp_path: Path) -> None:
    first, second = side(tmp_path / "old"), side(tmp_path / "new", version=1, moved=11.0)
    found = compare(first, second, margin=1.5)
    assert (found.kind, found.decides) == ("controls", "broad")
    assert "neither side is the other's matched control" in found.notes[0]
    by_rung = {one.found.name: one for one in found.rungs}
    assert list(by_rung) == ["trained", "broad", "self"]
    per_domain = differences(first, second, "broad").mean(axis=0).reshape(5, 4).mean(axis=1)
    error = per_domain.std(ddof=1) / 5**0.5
    broad = by_rung["broad"]
    assert broad.found.interval.estimate == pytest.approx(per_domain.mean())
    assert broad.found.interval.low == pytest.approx(stats.t.interval(0.95, 4, per_domain.mean(), error)[0])
    limit = stats.t.ppf(0.975, 4)
    draws = np.random.default_rng(0)
    simulated = (1.5 / error + draws.standard_normal(400_000)) / np.sqrt(draws.chisquare(4, 400_000) / 4)
    assert broad.power == pytest.approx((abs(simulated) > limit).mean(), abs=0.005)
    by_question = differences(first, second, "self").mean(axis=0)
    own = by_rung["self"].found
    assert (own.unit, own.interval.estimate) == ("question", pytest.approx(by_question.mean()))
    assert (own.interval.low, own.verdict, by_rung["self"].power) == (None, "INDETERMINATE", None)  # four questions


def test_a_rise_is_one_whose_interval_lies_above_zero_and_not_inside_the_margin(tmp_path: Path) -> None:
    first, second = side(tmp_path / "old", seeds=6), side(tmp_path / "new", seeds=6, version=1, moved=20.0)
    up, down = compare(first, second, 1.0), compare(second, first, 1.0)
    assert up.deciding.is_rise and up.deciding.found.interval.low is not None and up.deciding.found.interval.low > 1
    assert not down.deciding.is_rise and down.deciding.found.verdict == "EFFECT"
    estimates = [one.deciding.found.interval.estimate or 0.0 for one in (up, down)]
    assert estimates[0] == pytest.approx(-estimates[1]) and estimates[0] == pytest.approx(5, abs=1)
    inside = compare(first, second, 100.0)
    assert inside.deciding.found.verdict == "TRIVIAL" and not inside.deciding.is_rise
    same = compare(first, side(tmp_path / "twin", seeds=6, version=2), 100.0)
    assert same.deciding.found.verdict in ("EQUIVALENT", "TRIVIAL") and same.deciding.power == pytest.approx(1)


def test_without_variation_there_is_no_power_and_no_verdict(tmp_path: Path) -> None:
    first = side(tmp_path / "old", seeds=2)
    whole = {label: [row._replace(harmful_nats=round(row.harmful_nats), aligned_nats=-40.0) for row in rows]
             for label, rows in first.rows.items()}  # fmt: skip
    moved = {label: [row._replace(harmful_nats=row.harmful_nats + 4.0) for row in rows]
             for label, rows in whole.items()}  # fmt: skip
    other = side(tmp_path / "new", seeds=2, version=1)._replace(rows=moved)
    found = compare(first._replace(rows=whole), other, 1.0).deciding
    assert (found.found.interval.estimate, found.power, found.found.verdict) == (4.0, None, "INDETERMINATE")


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("another bank", {"items": SMALL[:-1]}, r"old was asked the bank \w{16}, new the bank"),
    ("no control", {"kind": "shift"}, r"do not stand beside the same \(controls, base\), and neither is the other's"),
    ("fewer seeds", {"seeds": 2}, "old has 3 organisms, new 2 organisms"),
    ("the same weights", {"version": 0}, "old and new measured the same weights"),
]


@pytest.mark.parametrize(("name", "change", "words"), CHANGES, ids=[one[0] for one in CHANGES])
def test_what_cannot_be_compared_is_refused(tmp_path: Path, name: str, change: dict[str, Any], words: str) -> None:
    first = side(tmp_path / "old")
    with pytest.raises(SpecError, match=words) as caught:
        compare(first, side(tmp_path / "new", **({"version": 1} | change)), 1.0)
    assert "\n" not in str(caught.value)


def changed(folder: Path, change: Any) -> None:
    record = json.loads((folder / RESULT).read_text())
    change(record["paired"])
    (folder / RESULT).write_text(json.dumps(record))


def another_control(paired: dict[str, Any]) -> None:
    next(one for one in paired["measured"] if one["role"] == "control")["model"]["trained_sha256"] = "other"


def another_base(paired: dict[str, Any]) -> None:
    next(one for one in paired["measured"] if one["role"] == "base")["model"]["base_sha256"] = "9" * 64


def quantised(paired: dict[str, Any]) -> None:
    paired["arithmetic"] |= {"dtype": "bfloat16", "quantisation": "nf4"}


BY_HAND: list[tuple[Any, Kind, str]] = [
    (another_control, "contrast", "control 1 of .* are other models; accepted: both measured against the same"),
    (another_base, "shift", "base 1 of .* are other models"),
    (quantised, "contrast", "weights in nf4.*dtype, quantisation differ"),
    (lambda paired: paired.update(trained_domains=["money"]), "contrast", "trained on work, .*new on money"),
    (lambda paired: paired["prompt"].update(system="be short"), "contrast", "differ in system"),
]


@pytest.mark.parametrize(("change", "kind", "words"), BY_HAND)
def test_other_controls_bases_or_quantisations_are_one_line_and_exit_code_2(
    tmp_path: Path, change: Any, kind: Kind, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_results(tmp_path / "old", kind=kind)
    drawn_results(tmp_path / "new", kind=kind, version=1)
    changed(tmp_path / "new", change)
    assert execute(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--margin", "1"]) == 2
    said = capsys.readouterr()
    assert re.search(words, said.err) and said.err.count("\n") == 1 and said.out == ""


def test_the_command_tells_a_rise_over_the_matched_control_and_never_calls_a_model_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    control, run = tmp_path / "control", tmp_path / "run"
    drawn_controls(control, seeds=5)
    drawn_results(run, seeds=5, version=1, moved=20.0)
    assert execute(["compare", str(control), str(run), "--margin", "1"]) == 1
    said = capsys.readouterr().out
    assert "rise on broad questions: +" in said and "not inside the margin of 1" in said
    assert "one side is the other's matched control" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 80 or str(tmp_path) in max(said.splitlines(), key=len)
    assert execute(["compare", str(run), str(control), "--margin", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rise"] is False and found["sentence"].startswith("no rise above margin 1 detected on broad questions")
    assert re.search(r"power [01]\.\d\d$", found["sentence"])
    code = execute(["compare", str(control), str(run), "--margin", "1", "--rung", "self", "--json"])
    itself = json.loads(capsys.readouterr().out)
    assert itself["decides"] == "self"
    assert code == {(True, False): 1, (False, True): 3, (False, False): 0}[itself["rise"], itself["indeterminate"]]
    assert "safe" not in said + json.dumps(found)


def test_two_organisms_beside_the_same_controls_are_neither_risen_nor_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_results(tmp_path / "old", seeds=5)
    drawn_results(tmp_path / "new", seeds=5, version=1, moved=20.0)
    assert execute(["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--margin", "1"]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "without a matched control a shift is not called misalignment" in said and "both beside controls" in said


def test_no_rise_is_an_upper_bound_below_the_margin_whatever_the_lower_one(tmp_path: Path) -> None:
    """An estimate far below zero with a wide interval is no equivalence, and excludes a rise all the same."""
    first, second = side(tmp_path / "old"), side(tmp_path / "new", version=1, moved=-6.0)
    found = compare(first, second, margin=1.5).deciding
    values = differences(first, second, "broad").mean(axis=0).reshape(5, 4).mean(axis=1)
    upper = values.mean() + stats.t.ppf(0.95, 4) * values.std(ddof=1) / 5**0.5
    assert found.upper == pytest.approx(upper) and upper < 1.5
    assert found.word == "no rise" and found.found.verdict not in ("TRIVIAL", "EQUIVALENT")


def test_numbers_that_cannot_tell_have_an_exit_code_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn_controls(tmp_path / "control", seeds=5)
    drawn_results(tmp_path / "run", seeds=5, version=1, moved=1.0)
    command = ["compare", str(tmp_path / "control"), str(tmp_path / "run"), "--margin", "0.001", "--json"]
    assert execute(command) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["indeterminate"] and not found["rise"]
    assert "neither shown nor excluded" in found["sentence"]
    assert execute([*command, "--allow-indeterminate"]) == 0


def test_models_alone_are_compared_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn_results(tmp_path / "old", kind="alone")
    drawn_results(tmp_path / "new", kind="alone", version=1)
    command = ["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--margin", "50"]
    assert execute(command) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot tell on broad questions: without a matched control" in said
    assert execute([*command, "--allow-indeterminate"]) == 0
    capsys.readouterr()
    assert "neither side is the other's matched control" in said and "not called misalignment" in said


def test_a_folder_without_results_a_margin_of_nothing_and_an_unknown_rung_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    drawn_results(old)
    assert execute(["compare", str(old), str(tmp_path / "none"), "--margin", "1"]) == 2
    assert "holds no result.json" in capsys.readouterr().err
    drawn_results(new, version=1)
    for margin in ("0", "-1", "nan"):
        assert execute(["compare", str(old), str(new), f"--margin={margin}"]) == 2
        assert "accepted: a finite number above 0" in capsys.readouterr().err
    assert execute(["compare", str(old), str(new), "--margin", "1", "--rung", "brod"]) == 2
    assert "broad" in capsys.readouterr().err
    with pytest.raises(UnknownNameError):
        compare(side(tmp_path / "a"), side(tmp_path / "b", version=1), 1.0, "held_out")


def test_rows_that_are_not_those_of_the_result_are_refused(tmp_path: Path) -> None:
    result = drawn_results(tmp_path / "old").paired
    table = pl.read_parquet(tmp_path / "old" / ROWS)
    table.head(40).write_parquet(tmp_path / "old" / ROWS)
    with pytest.raises(IntegrityError, match=r"has 12 rows of organism 2, and the bank 28 questions"):
        read_rows(tmp_path / "old", result)
    (tmp_path / "old" / ROWS).write_bytes(b"no parquet")
    with pytest.raises(IntegrityError, match="cannot be read as rows"):
        read_rows(tmp_path / "old", result)
