"""YAML, JSON and TOML with lines and within bounds; texts that want memory, the stack or a constructor."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.audit.trees import DEEPEST, MOST_VALUES, UnreadableError, read_json, read_toml, read_yaml

TEXT = """\
base: &base
  lr: 2e-5
  name: adamw_torch
run:
  <<: *base
  decay: 1_0
  rate: ${run.lr}
  missing: ${nowhere.lr}
  flags: [yes, off, null]
list:
- lr: .inf
- 'text: more'
"""


def test_values_lines_and_merges() -> None:
    [document] = read_yaml(TEXT, "a.yaml")
    assert document.value["run"]["lr"] == "2e-5" and document.value["run"]["flags"] == [True, False, None]
    assert document.get("run.decay") == (10, 6, "1_0")
    assert document.get("nothing", "run.name").line == 3  # where the merged value is written
    assert document.get("list.1").value == "text: more"
    assert [section.path for section in document.sections()] == [(), ("base",), ("run",), ("list", 0)]


def test_a_field_is_typed_and_follows_interpolations_of_its_file() -> None:
    [document] = read_yaml(TEXT, "a.yaml")
    rate = document.field("learning_rate", "run.rate")
    assert (rate.value, rate.at, rate.raw, rate.provenance) == (2e-5, "a.yaml:7", "${run.lr}", "explicit")
    missing = document.field("learning_rate", "run.missing")
    assert missing.provenance == "unknown" and "not in this file" in missing.reason
    assert document.section("run").field("optimiser", "name").value == "adamw"
    assert document.field("learning_rate", "nothing") is None


scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc 12.-e:#'", max_size=8)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxy", min_size=1), inner, max_size=4),
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_values_are_those_of_the_safe_loader(value: object) -> None:
    text = yaml.safe_dump(value)
    assert [one.value for one in read_yaml(text, "a.yaml")] == [yaml.safe_load(text)]


def test_json_and_toml_have_the_lines_of_their_keys() -> None:
    [document] = read_json('{"optimizer": {"type": "AdamW",\n "params": {"lr": 2e-5}},\n "x": 1}', "ds.json")
    assert document.get("optimizer.params.lr") == (2e-5, 2, 2e-5) and document.get("x").line == 3
    [document] = read_toml('a = 1\n[optimizer]\nname = "AdamW"\nlr = 8e-4\n', "a.toml")
    assert document.get("optimizer.lr") == (8e-4, 4, 8e-4) and document.get("optimizer").line == 2


HOSTILE = {
    "brackets": "[" * 100_000,
    "braces": "{a: " * 50_000,
    "dashes": "- " * 100_000 + "a",
    "tagged dashes": "- !t " * 50_000,
    "anchored dashes": "- &a " * 50_000,
    "questions": "? " * 100_000,
    "brackets that quoted ones close": '["]", ' * 20_000,
    "odd line end": "a: 1\u2028" + "? " * 100_000,
    "indents": "\n".join(" " * index + "a:" for index in range(1200)),
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)),
    "itself": "&a [*a]",
    "merged itself": "a: &a\n  <<: *a\n  b: 1",
    "unclosed": "a: [1, 2",
    "tab": "a:\n\t- b",
    "control": "a: \x07",
    "undefined alias": "a: *nowhere",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_yaml_is_refused_with_a_reason_and_quickly(text: str) -> None:
    started = time.process_time()
    with pytest.raises(UnreadableError, match=r"levels|values|not valid|bracket|recursi|YAML"):
        read_yaml(text, "a.yaml")
    assert time.process_time() - started < 20  # no hang; not a measure of speed


def test_no_tag_makes_an_object(tmp_path) -> None:
    target = tmp_path / "made"
    text = (
        f"a: !!python/object/apply:os.mkdir ['{target}']\nb: !!python/name:os.system\nc: !!binary aGk=\nd: 2020-01-01"
    )
    [document] = read_yaml(text, "a.yaml")
    assert not target.exists()
    assert document.value["a"] == [str(target)] and document.value["d"] == "2020-01-01"


def test_the_bounds_are_those_that_are_named() -> None:
    deep = "".join("  " * level + "a:\n" for level in range(DEEPEST)) + "  " * DEEPEST + "b"
    assert read_yaml(deep, "a.yaml")
    with pytest.raises(UnreadableError, match=f"more than {DEEPEST} levels"):
        read_yaml("".join("  " * level + "a:\n" for level in range(DEEPEST + 1)) + "  " * (DEEPEST + 1) + "b", "a.yaml")
    with pytest.raises(UnreadableError, match=f"more than {MOST_VALUES:,} values"):
        read_yaml("a: [" + "1," * (MOST_VALUES + 1) + "]", "a.yaml")


@pytest.mark.parametrize("text", ["[" * 200_000, "{", '{"a": NaN', "nul", '{"a": ' * 100 + "1" + "}" * 100, "\udcff"])
def test_hostile_json_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError, match=r"JSON|levels"):
        read_json(text, "a.json")


@pytest.mark.parametrize("text", ["a = ", "a = [" * 5000, "[a]\n[a]", "a.b.c = 1\na.b = 2"])
def test_hostile_toml_is_refused(text: str) -> None:
    with pytest.raises(UnreadableError, match=r"TOML|levels"):
        read_toml(text, "a.toml")


PIECES = st.sampled_from(
    ["a", ":", " ", "\n", "- ", "[", "]", "{", "}", "&x", "*x", "!t", "!!int", "<<", "|", ">", "'", '"', "#", "%", "@",
     "? ", "...", "---", "1e5", "\t", "\x85", "\u2028", "\ufeff", "~", ",", "\\", "0x", ".nan", "${a}"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for read in (read_yaml, read_json, read_toml):
        try:
            for document in read(text, "a"):
                assert document.line >= 1 or document.value is None
                document.get("a.a", "a.0")
                document.field("learning_rate", "a", "a.a")
        except UnreadableError as error:
            assert str(error)


@pytest.mark.parametrize("text", ["${oc.env:LR,3e-4}", "${oc.decode:${oc.env:LR,3e-4}}", "'${oc.env:LR, 3e-4}'"])
def test_the_fallback_of_an_environment_variable_is_taken_and_said(text: str) -> None:
    (document,) = read_yaml(f"lr: {text}\n", "c.yaml")
    found = document.field("learning_rate", "lr")
    assert found is not None and (found.value, found.provenance) == (3e-4, "explicit")
    assert found.reason == "environment variable LR may change it"


def test_an_environment_variable_without_a_fallback_is_unknown() -> None:
    found = read_yaml("lr: ${oc.env:LR}\n", "c.yaml")[0].field("learning_rate", "lr")
    assert found is not None and not found.known
