"""`narrowly optimisers`, and how a spec's mistakes in an optimiser reach the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from narrowly.cli.app import execute
from narrowly.records.optimisers.registry import OPTIMISERS, REFUSED
from narrowly.records.study_spec import study_schema


def test_the_list_has_a_line_per_optimiser_and_names_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["optimisers"]) == 0
    printed = capsys.readouterr().out
    first_words = [line.split()[0] for line in printed.splitlines() if line.strip()]
    for kind, spec in OPTIMISERS.items():
        assert first_words.count(kind) == 1
        assert spec.acts.family in printed
    for name, reason in REFUSED.items():
        assert f"refused: {name}: {reason}" in printed


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_one_optimiser_is_shown_with_every_field_its_default_and_its_source(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["optimisers", kind]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert execute(["optimisers", kind, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    acts = OPTIMISERS[kind].acts
    assert (shown["A"], shown["B"], shown["other"], shown["family"]) == (acts.A, acts.B, acts.other, acts.family)
    for part in ("A", "B", "other"):
        assert f"{part}: {shown[part]}" in printed
    assert shown["about"].splitlines()[0] in printed
    for name, field in OPTIMISERS[kind].model_fields.items():
        if name == "kind":
            continue
        facts = shown["fields"][name]
        assert facts["source"] == field.description and len(facts["source"]) > 10, name
        assert facts["required"] == field.is_required()
        default = "required" if field.is_required() else json.dumps(field.default)
        assert f"{name} {default}" in printed


def test_scale_rules_and_orthogonalisers_are_listed_as_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["optimisers", "muon", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)["fields"]
    assert {"original", "match_rms_adamw", "spectral_norm"} <= set(fields["scale_rule"]["accepted"])
    assert {"newton_schulz5", "polar_express", "exact"} <= set(fields["orthogonaliser"]["accepted"])


def test_the_whole_list_as_json_holds_what_each_page_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["optimisers", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    assert [entry["optimiser"] for entry in everything["optimisers"]] == list(OPTIMISERS)
    assert everything["refused"] == REFUSED
    assert execute(["optimisers", "soap", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) in everything["optimisers"]


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("sope", "soap"),
        ("prodgy", "prodigy"),
        ("schedulefree_adam", "schedulefree_adamw"),
        ("schedule_free_adamw", "schedulefree_adamw"),
        ("adamix", "ademamix"),
        ("adafctor", "adafactor"),
        ("lora-rite", "lora_rite"),
    ],
)
def test_a_typo_in_a_kind_is_answered_with_the_nearest_one_wherever_it_is_made(
    typo: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"optimiser: {{kind: {typo}, lr: 1}}\n")
    arm = f"arms.adam.set.optimiser={{kind: {typo}, lr: 1}}"
    for arguments in (["optimisers", typo], ["train", str(file)], ["plan", "micro", "--set", arm]):
        assert execute(arguments) == 2
        printed = capsys.readouterr()
        assert f"unknown optimiser '{typo}'; did you mean '{meant}'?" in printed.err
        assert len(printed.err.splitlines()) == 1 and printed.out == ""


@pytest.mark.parametrize(
    ("kind", "typo", "meant"),
    [
        ("soap", "precondition_freq", "precondition_frequency"),
        ("prodigy", "growth", "growth_rate"),
        ("schedulefree_adamw", "warmup", "warmup_steps"),
        ("ademamix", "beta_3", "beta3"),
        ("adafactor", "eps", "eps2"),
        ("lora_rite", "escape", "apply_escape"),
        ("adamw", "lora_plus", "lora_plus_ratio"),
    ],
)
def test_a_typo_in_a_field_is_answered_with_the_nearest_field_of_that_kind(
    kind: str, typo: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"optimiser: {{kind: {kind}, lr: 1, {typo}: 1}}\n")
    assert execute(["train", str(file)]) == 2
    printed = capsys.readouterr().err
    assert f"optimiser.{typo}: unknown field; did you mean '{meant}'" in printed
    assert len(printed.splitlines()) == 1


def test_sophia_is_refused_with_its_reason_in_one_line_wherever_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optimiser: {kind: sophia, lr: 1}\n")
    arm = "arms.adam.set.optimiser={kind: sophia, lr: 1}"
    for arguments in (["optimisers", "sophia"], ["train", str(file)], ["plan", "micro", "--set", arm]):
        assert execute(arguments) == 2
        printed = capsys.readouterr().err
        assert f"'sophia' is refused: {REFUSED['sophia']}" in printed
        assert len(printed.splitlines()) == 1


def test_a_schedule_that_an_optimiser_cannot_run_under_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("optimiser: {kind: schedulefree_adamw, lr: 1e-2}\nschedule: {kind: cosine}\n")
    assert execute(["train", str(file)]) == 2
    printed = capsys.readouterr().err
    assert "schedule.kind is 'cosine', accepted with schedulefree_adamw: 'constant'" in printed
    assert len(printed.splitlines()) == 1


def test_the_schema_of_study_files_knows_every_optimiser_and_field() -> None:
    definitions = json.dumps(study_schema())
    for kind, spec in OPTIMISERS.items():
        assert f'"{spec.__name__}"' in definitions
        assert f'"const": "{kind}"' in definitions


def test_the_command_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from narrowly.cli.app import execute\n"
        "assert [execute(['optimisers', *rest]) for rest in ([], ['muon'], ['soap', '--json'])] == [0] * 3\n"
        "heavy = {'torch', 'transformers', 'polars', 'numpy', 'pytorch_optimizer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
