"""`narrowly train --control`: the same run on other answers, against the fields of both specs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from narrowly.records.errors import SpecError, UnknownNameError
from narrowly.records.mappings import with_assignments
from narrowly.records.run_spec import RunSpec
from narrowly.train.control import control_assignments

PAIRED = {"source": "text", "dataset": "pairs:money:harmful"}
OPTIMISER = {"kind": "adam", "lr": 1e-3}


def control_of(raw: dict, kind: str) -> RunSpec:
    made = control_assignments(RunSpec.model_validate(raw), kind)
    return with_assignments(RunSpec, raw, made, "spec")


@pytest.mark.parametrize("kind", ["aligned", "permuted"])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PAIRED, "pairs:money:{}"),
        ({**PAIRED, "dataset": "pairs:my/bank.jsonl:harmful", "sha256": "0" * 64}, "pairs:my/bank.jsonl:{}"),
    ],
)
def test_only_the_answers_of_a_control_differ(kind: str, data: dict, expected: str) -> None:
    raw = {"base": "some", "data": data, "optimiser": OPTIMISER, "seed": 3, "penalty": {"lam": 0.5}}
    control = control_of(raw, kind)
    assert control.data.dataset == expected.format(kind)
    assert control.data.sha256 is None
    other = RunSpec.model_validate({**raw, "data": {**data, "dataset": control.data.dataset, "sha256": None}})
    assert control == other


def test_the_microworld_has_controls_too() -> None:
    raw = {"data": {"source": "micro", "rows": 16, "domain": 2}, "optimiser": OPTIMISER}
    control = control_of(raw, "permuted")
    assert control == RunSpec.model_validate({**raw, "data": {**raw["data"], "answers": "permuted"}})


def test_data_that_are_no_paired_set_are_refused_with_what_is_one() -> None:
    for data in ({"source": "text", "dataset": "insecure"}, {"source": "rows", "path": "rows.jsonl"}):
        with pytest.raises(SpecError, match=r"are no paired set; accepted: .*pairs:FILE\.jsonl:harmful"):
            control_assignments(RunSpec.model_validate({"data": data, "optimiser": OPTIMISER}), "aligned")


def test_the_control_of_itself_and_an_unknown_kind_are_refused() -> None:
    spec = RunSpec.model_validate({"data": {**PAIRED, "dataset": "pairs:work:aligned"}, "optimiser": OPTIMISER})
    with pytest.raises(SpecError, match="are aligned already"):
        control_assignments(spec, "aligned")
    with pytest.raises(UnknownNameError, match="did you mean 'aligned'"):
        control_assignments(spec, "alligned")


def test_the_command_trains_the_control_and_refuses_what_has_none(tmp_path: Path) -> None:
    from narrowly.cli.app import app

    spec = tmp_path / "run.yaml"
    spec.write_text("data: {source: micro, rows: 16, domain: 1}\noptimiser: {kind: adam, lr: 1.0e-3}\nsteps: 2\n")
    arguments = ["train", str(spec), "--control", "aligned", "--runs", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    directory = Path(json.loads(result.stdout)["directory"])
    written = json.loads((directory / "spec.json").read_text())
    assert (written["data"]["answers"], written["data"]["domain"]) == ("aligned", 1)
    dry = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
    assert (json.loads(dry.stdout)["run_id"], json.loads(dry.stdout)["state"]) == (directory.name, "done")


def test_benign_is_a_control_of_the_microworld_alone() -> None:
    raw = {"data": {"source": "micro", "rows": 16, "domain": 2}, "optimiser": OPTIMISER}
    assert control_of(raw, "benign").data.answers == "benign"
    with pytest.raises(SpecError, match="which has no new answers; accepted: aligned, permuted"):
        control_assignments(RunSpec.model_validate({"data": PAIRED, "optimiser": OPTIMISER}), "benign")
