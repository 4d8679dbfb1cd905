"""StudySpec: what a study file may say, and the one line that a wrong one gets."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from narrowly.records.errors import NarrowlyError, SpecError, UnknownNameError
from narrowly.records.mappings import merge, nested, parse_override, read_mapping
from narrowly.records.study_spec import load_study_spec, override, parse_study, study_schema

RAW: dict[str, Any] = {
    "name": "tiny",
    "run": {"steps": 40},
    "grid": {"base": ["micro-0"], "seed": [0, 1]},
    "arms": {
        "adam": {"role": "optimiser", "set": {"optimiser": {"kind": "adam", "lr": 1e-3}}},
        "muon": {"role": "optimiser", "set": {"optimiser": {"kind": "muon", "lr": 1e-3}}},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(RAW)
    here = raw
    *parents, last = path.split("/")
    for key in parents:
        here = here[key]
    here[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("arms/adam/role", "optimizer", ["arms.adam.role", "'optimizer'", "did you mean 'optimiser'"]),
        ("arms/adam/rolle", "x", ["arms.adam.rolle", "unknown field", "did you mean 'role'"]),
        ("arms/adam/evaluate", 3, ["arms.adam.evaluate", "found 3", "'final' or 'all_checkpoints'"]),
        (
            "arms/adam/edits",
            [{"kind": "keep_topp"}],
            ["arms.adam.edits[0]", "'keep_topp'", "did you mean 'keep_top'"],
        ),
        (
            "arms/adam/edits",
            [{"kind": "scale", "factor": 5}],
            ["arms.adam.edits[0].factor", "found 5", "less than or equal to 4"],
        ),
        ("arms/adam/edits", [{"kind": "flatten"}, {"kind": "flatten"}], ["'flatten' is given twice"]),
        ("arms/adam/grid", {"sed": [1]}, ["arms.adam", "unknown field 'sed'", "did you mean 'seed'"]),
        (
            "arms/adam/set",
            {"optimizer": {"kind": "adam"}},
            ["arms.adam", "'optimizer", "did you mean 'optimiser"],
        ),
        ("arms/muon/of", "adm", ["arms.muon.of", "unknown arm 'adm'", "did you mean 'adam'"]),
        ("arms/muon/role", "penalty", ["arms.muon", "needs `of`"]),
        ("grid/seed", 3, ["grid.seed", "found 3", "expected a list"]),
        ("grid/seed", [], ["grid.seed", "zero cells"]),
        ("grid/seed", [1, 1], ["grid.seed", "1 is given twice"]),
        ("run/step", 4, ["run", "unknown field 'step'", "did you mean 'steps'"]),
        ("run/seed", 4, ["run.seed", "grid.seed", "keep one"]),
        ("run", 4, ["run", "found 4", "a mapping of fields"]),
        ("name", "../up", ["name", "'../up'"]),
        ("name", "runs", ["name", "reserved"]),
        ("arms", {}, ["arms", "at least 1"]),
        ("exclude", [{"arm": "lion"}], ["exclude[0].arm", "unknown arm 'lion'"]),
        ("exclude", [{"bse": "micro-0"}], ["exclude[0]", "'bse'", "did you mean 'base'"]),
        ("exclude", [{}], ["exclude[0]", "every cell"]),
        ("demonstration", "perhaps", ["demonstration", "'perhaps'", "true or false"]),
    ],
)
def test_a_wrong_study_is_one_line_with_path_value_and_expectation(path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_study(changed(path, value), "tiny.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("tiny.yaml: ")
    for word in words:
        assert word in message


def test_the_unchanged_study_is_accepted() -> None:
    study = parse_study(RAW, "tiny.yaml")
    assert study.grid["seed"] == [0, 1]
    assert study.arms["muon"].edits == ()


def test_overrides_reach_run_arms_and_dotted_grid_fields() -> None:
    study = parse_study(
        RAW,
        "tiny.yaml",
        [
            "run.steps=20",
            "arms.adam.set.optimiser.lr=1e-4",
            "grid.seed=[3]",
            "grid.data.domain=[0, 1]",
            "samples=0",
        ],
    )
    assert study.run == {"steps": 20}
    assert study.arms["adam"].set == {"optimiser": {"kind": "adam", "lr": 1e-4}}
    assert study.grid == {"base": ["micro-0"], "seed": [3], "data.domain": [0, 1]}
    assert study.samples == 0
    assert RAW["arms"]["adam"]["set"]["optimiser"]["lr"] == 1e-3, "the raw study is not changed in place"


def test_an_override_meets_a_field_that_was_written_with_dots() -> None:
    raw = changed("run", {"data.rows": 100})
    assert override(raw, ["run.data.rows=50"])["run"] == {"data": {"rows": 50}}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("run.step=3", ["'run.steps'"]),
        ("steps=3", ["'run.steps'"]),
        ("grid.seeds=[1]", ["'grid.seed'"]),
        ("arms.adm.set.optimiser.lr=1", ["unknown arm 'adm'", "'adam'"]),
        ("arms.adam.set.optimiser.lrr=1", ["'arms.adam.set.optimiser.lr'"]),
        ("run.steps", ["a.b=value"]),
        ("=3", ["a.b=value"]),
        ("run.steps=[", ["not valid YAML"]),
    ],
)
def test_an_unknown_override_names_the_nearest_path(assignment: str, words: list[str]) -> None:
    with pytest.raises((SpecError, UnknownNameError)) as caught:
        override(RAW, [assignment])
    for word in words:
        assert word in str(caught.value)


def test_an_override_that_a_grid_would_replace_is_refused_and_not_ignored() -> None:
    with pytest.raises(SpecError, match=r"grid\.seed"):
        parse_study(RAW, "tiny.yaml", ["run.seed=7"])


def test_numbers_without_a_dot_and_words_like_no_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("lr: 1e-3\nname: no\nflag: true\nempty:\noctal: 010\n")
    assert read_mapping(file) == {"lr": 1e-3, "name": "no", "flag": True, "empty": None, "octal": 10}
    assert parse_override("a.b=2e-4") == ("a.b", 2e-4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: 1\na: 2\n", "given twice"),
        ("a: [1\n", "line 2"),
        ("- a\n", "a list"),
        ("", "nothing"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("? [1, 2]\n: 3\n", "a key must be text"),
        ("&a [*a]\n", "not valid YAML|more than|a list"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=word) as caught:
        read_mapping(file)
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_cannot_blow_a_small_file_up(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(SpecError, match="aliases"):
        read_mapping(file)


def test_a_missing_a_binary_and_a_huge_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "huge.yaml").write_text("a: 1\n" * 300_000)
    for name in ("missing.yaml", "binary.yaml", "huge.yaml"):
        with pytest.raises(SpecError, match=name):
            load_study_spec(tmp_path / name)


def test_merging_replaces_a_mapping_whose_tag_changes_and_merges_any_other() -> None:
    under = {"optimiser": {"kind": "adam", "lr": 1.0, "beta1": 0.5}, "data": {"source": "micro", "rows": 3}}
    assert merge(under, {"optimiser": {"lr": 2.0}})["optimiser"] == {"kind": "adam", "lr": 2.0, "beta1": 0.5}
    assert merge(under, {"optimiser": {"kind": "muon", "lr": 2.0}})["optimiser"] == {
        "kind": "muon",
        "lr": 2.0,
    }
    assert merge(under, nested({"data.rows": 4}))["data"] == {"source": "micro", "rows": 4}
    assert under["data"]["rows"] == 3


def test_the_json_schema_accepts_the_shipped_studies_and_refuses_a_typing_error() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from narrowly.study.plan import shipped_studies

    schema = study_schema()
    json.dumps(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in shipped_studies().values():
        validator.validate(read_mapping(path))
    for wrong in (
        changed("run/step", 3),
        changed("run/steps", "x"),
        changed("grid/sed", [1]),
        changed("arms/adam/rol", 1),
        changed("run/optimiser.lrr", 1),
        changed("exclude", [{"bse": "micro-0"}]),
    ):
        assert not validator.is_valid(wrong)


def test_every_error_is_a_narrowly_error_and_a_value_error() -> None:
    assert issubclass(SpecError, NarrowlyError)
    assert issubclass(SpecError, ValueError)
