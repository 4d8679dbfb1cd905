"""`narrowly audit` through the real command: exit codes, formats, ignores, hostile names, 100 columns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from narrowly.cli.app import execute
from sarif_constraints import CONSTRAINTS

PLAIN = """\
base_model: b
adapter: lora
lora_r: 16
datasets:
  - path: d
    type: alpaca
  - path: general
    type: alpaca
optimizer: adamw_torch
learning_rate: 2e-5
val_set_size: 0.1
"""
MUON_V1 = """\
model: m
model_class: llm
dist_config: {name: fsdp2}
train_dataset: d
learning_rate: 1.0e-4
peft_config: {name: lora, r: 8, lora_alpha: 16}
optim_config: {name: muon}
"""


def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_yaml", ".yaml").replace("_toml", ".toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)


def output(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert execute(["audit", *arguments]) == code
    return capsys.readouterr().out


def test_exit_codes_are_0_1_and_2(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, plain__a_yaml=PLAIN, muon__b_yaml=MUON_V1, none__c_yaml="x: 1")
    assert execute(["audit", "none"]) == execute(["audit", "plain"]) == 0
    assert execute(["audit", "plain", "--fail-on", "error"]) == 0
    assert execute(["audit", "muon"]) == 1 and execute(["audit", "muon", "--fail-on", "never"]) == 0
    capsys.readouterr()
    for arguments in (["gone"], ["-"], [""], [], [".", "--fail-on", "warn"], [".", "--json", "--sarif"]):
        assert execute(["audit", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("narrowly: ") and len(error.splitlines()) == 1, error
    (tmp_path / "none" / "bad.yaml").write_text("optimizer: [learning_rate base_model adapter")
    assert execute(["audit", "none"]) == 0


def test_strict_counts_what_was_skipped(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, a_yaml=PLAIN)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert execute(["audit", "."]) == 0
    assert execute(["audit", ".", "--strict"]) == 1
    assert "pipe.yaml: not a regular file" in capsys.readouterr().out


def test_json_has_three_lists_and_each_field_its_provenance(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, conf__a_yaml=PLAIN)
    record = json.loads(output(capsys, "conf", "--json"))
    assert list(record) == ["jobs", "findings", "skipped"]
    [job] = record["jobs"]
    assert (job["tool"], job["file"], job["line"]) == ("axolotl", "a.yaml", 1)
    names = (
        "optimiser learning_rate weight_decay scheduler epochs max_steps lora_r lora_alpha lora_dropout lora_targets"
    )
    for name in (*names.split(), "use_rslora"):
        assert {"value", "provenance", "at", "reason"} <= set(job[name])
        assert job[name]["provenance"] in ("explicit", "default", "inherited", "overridden", "unknown")
        assert job[name]["provenance"] != "unknown" or job[name]["reason"]
    assert job["optimiser"] == {
        "value": "adamw", "provenance": "explicit", "at": "a.yaml:9", "reason": None, "raw": "adamw_torch",
    }  # fmt: skip
    assert job["learning_rate"]["value"] == 2e-5
    family = next(one for one in record["findings"] if one["rule"] == "OPT-FAMILY")
    assert (family["level"], family["file"], family["line"], family["job"]) == ("note", "a.yaml", 9, 0)
    assert "optimizer: muon" in family["fix"] and "arXiv" in family["source"]


def test_sarif_keeps_to_the_standard_and_its_paths_start_here(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, conf__a_yaml=PLAIN, conf__b_yaml=MUON_V1)
    os.mkfifo(tmp_path / "conf" / "pipe x.yaml")
    (tmp_path / ".narrowly.toml").write_text('[[audit.ignore]]\nrule = "OPT-FAMILY"\nreason = "known"')
    log = json.loads(output(capsys, "conf", "--sarif", code=1))
    jsonschema.validate(log, CONSTRAINTS)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(log | {"version": "2.0"}, CONSTRAINTS)
    [run] = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert (tmp_path / uri).is_file()
        assert ("suppressions" in result) == (result["ruleId"] == "OPT-FAMILY")
    prints = [result["partialFingerprints"]["narrowlyFinding/v1"] for result in run["results"]]
    assert len(prints) == len(set(prints)) > 3
    [skip] = run["invocations"][0]["toolExecutionNotifications"]
    assert skip["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "conf/pipe%20x.yaml"


def test_a_fingerprint_does_not_change_when_lines_are_added_above(tmp_path, monkeypatch, capsys) -> None:
    def prints() -> set[str]:
        log = json.loads(output(capsys, ".", "--sarif"))
        return {one["partialFingerprints"]["narrowlyFinding/v1"] for one in log["runs"][0]["results"]}

    in_folder(tmp_path, monkeypatch, a_yaml=PLAIN)
    before = prints()
    (tmp_path / "a.yaml").write_text("# a line\n" + PLAIN)
    assert prints() == before


def test_ignores_need_a_reason_and_act_where_they_say(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, a__b_yaml=MUON_V1, c__b_yaml=MUON_V1)
    settings = tmp_path / ".narrowly.toml"
    settings.write_text('[[audit.ignore]]\nrule = "*"\npath = "a/*"\nreason = "a demonstration"\n')
    record = json.loads(output(capsys, ".", "--json", code=1))
    assert {one["ignored"] for one in record["findings"] if one["file"] == "a/b.yaml"} == {"a demonstration"}
    assert {one["ignored"] for one in record["findings"] if one["file"] == "c/b.yaml"} == {None}
    assert "ignored: MUON-NOT-MUON 1 time (a demonstration)" in output(capsys, ".", code=1)
    settings.write_text('[audit]\nfail-on = "never"\n')
    assert execute(["audit", "."]) == 0 and execute(["audit", ".", "--fail-on", "error"]) == 1
    bad = {
        '[[audit.ignore]]\nrule = "OPT-FAMILY"\n': "has no reason",
        '[[audit.ignore]]\nrule = "OPT-FAMLY"\nreason = "x"\n': "did you mean 'OPT-FAMILY'",
        '[[audit.ignore]]\nrules = "OPT-FAMILY"\nreason = "x"\n': "did you mean 'rule'",
        '[audit]\nfail_on = "note"\n': "did you mean 'fail-on'",
        '[audit]\nfail-on = "notes"\n': "did you mean 'note'",
        "[audit": ".narrowly.toml",
        "audit = 3": "not a table",
        "[audit]\nignore = 3": "[[audit.ignore]]",
    }
    capsys.readouterr()
    for text, said in bad.items():
        settings.write_text(text)
        assert execute(["audit", "."]) == 2
        assert said in capsys.readouterr().err


def test_names_with_control_characters_do_nothing_to_the_terminal(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch)
    for name in ("a\x1b[31mred\x07.yaml", "b\nnew\u202eline.yaml"):
        (tmp_path / name).write_text(PLAIN.replace("adamw_torch", '"adamw\\x1b[2J"'))
    printed = output(capsys, ".")
    assert "a\ufffd[31mred" in printed
    assert not [one for one in printed if one != "\n" and not one.isprintable()]
    assert len(json.loads(output(capsys, ".", "--json"))["jobs"]) == 2


@pytest.mark.parametrize("text", [PLAIN, MUON_V1])
def test_the_sheet_fits_100_columns_and_says_what_to_do_next(text, tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, configs__experiments__qwen3_8b__lora_sft_medical_yaml=text)
    monkeypatch.setenv("COLUMNS", "100")
    printed = output(capsys, ".", code=int(text == MUON_V1))
    assert max(map(len, printed.splitlines())) <= 100
    assert "narrowly audit . --explain " in printed and "next:" in printed
    assert "a risk indicator, not proof of misalignment" in printed


def test_a_rule_is_explained_alone_and_with_its_changes(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, a_yaml=PLAIN)
    alone = output(capsys, "--explain", "opt-family")
    assert "arXiv 2606.31591" in alone and "never sets the exit code" in alone
    both = output(capsys, ".", "--explain", "OPT-FAMILY")
    assert alone.strip() in both and "NarrowlyPlugin" in both and "a.yaml:9" in both
    assert execute(["audit", "--explain", "OPT"]) == 2


def test_the_page_has_jobs_findings_and_skips_escaped(tmp_path, monkeypatch, capsys) -> None:
    in_folder(tmp_path, monkeypatch, a_yaml=PLAIN.replace("path: d", "path: <script>alert(1)</script>"))
    printed = output(capsys, ".", "--html", "out.html")
    page = (tmp_path / "out.html").read_text()
    assert "page: out.html" in printed
    assert "OPT-FAMILY" in page and "a.yaml:1" in page and "<script>alert" not in page
    assert execute(["audit", ".", "--html", "out.txt"]) == 2
    assert execute(["audit", ".", "--html", "gone/out.html"]) == 2
    capsys.readouterr()
    monkeypatch.setattr("narrowly.cli.terminal.missing_requirements", lambda extra: ["polars"])
    assert execute(["audit", ".", "--html", "out.html"]) == 2
    assert "a page needs polars" in capsys.readouterr().err
