"""Output at 80 columns and in a pipe: no number, hash or other word is broken, and JSON is one strict document."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from narrowly.cli.app import app, execute
from narrowly.cli.progress import StepProgress
from narrowly.cli.sheet import Sheet, columns_of, number
from narrowly.cli.terminal import print_json, say, short_modules
from tiny_adapters import saved

HASH = "1cec93ad5c62bfac" * 4


@pytest.mark.parametrize(
    "arguments",
    [["studies"], ["optimisers"], ["optimisers", "muon"], ["plan", "micro"], ["plan", "micro", "--cells"],
     ["plan", "one-gpu-evening"], ["status"], ["data", "list"], ["doctor"], ["world", "show", "micro-0"]],
)  # fmt: skip
def test_no_line_of_a_command_is_wider_than_the_terminal_and_none_breaks_a_word(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert execute(arguments) == 0
    words = set(capsys.readouterr().out.split())
    monkeypatch.setenv("COLUMNS", "80")
    assert execute(arguments) == 0
    narrow = capsys.readouterr().out
    assert [line for line in narrow.splitlines() if len(line) > 80] == []
    missing = {word for word in words - set(narrow.split()) if not word.replace(".", "").isdigit()}  # free memory
    assert missing <= {"field", "value"}, "a word was broken or is missing"
    assert list(tmp_path.iterdir()) == [], "a command that reads writes nothing"


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,30}", fullmatch=True), st.floats(), st.text(max_size=60)), max_size=5),
    st.integers(20, 120),
)
def test_every_word_of_a_table_stands_whole_in_one_of_its_lines(rows: list[tuple[str, float, str]], width: int) -> None:
    sheet = Sheet(("name", "value", "a text"), rows)
    lines = [line for line, _ in sheet.lines(width)]
    printed = {word for line in lines for word in line.split()}
    assert {word for row in sheet.cells for text in row for word in text.split()} <= printed
    longest = max((columns_of(word) for word in printed), default=0) + len("  a text: ")
    assert all(columns_of(line) <= max(width, longest) for line in lines)


def test_columns_that_do_not_fit_stand_in_a_second_table_under_the_first_column() -> None:
    lines = [line for line, _ in Sheet(("id", "hash", "rate"), [("a", HASH, 0.12345)]).lines(70)]
    assert lines == [f"id  {'hash':64}".rstrip(), f"a   {HASH}", "", "id   rate", "a   0.123"]


def test_a_few_rows_with_long_values_stand_below_the_table_and_many_make_blocks_of_all() -> None:
    rows = [("name", "micro-0"), ("sha256", HASH), ("a.long.name.of.a.field", "1")]
    lines = [line for line, _ in Sheet(("field", "value"), rows).lines(80)]
    assert lines == [
        "field                   value", "name                    micro-0", "a.long.name.of.a.field  1", "",
        "sha256", f"  value: {HASH}",
    ]  # fmt: skip
    lines = [line for line, _ in Sheet(("field", "value"), [("a.long.name.of.a.field", HASH)] * 6).lines(80)]
    assert lines == ["a.long.name.of.a.field", f"  value: {HASH}"] * 6


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, of every group and of none."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("words", list(commands(get_command(app))), ids=lambda words: " ".join(words) or "narrowly")
def test_every_help_fits_80_columns(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert execute([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []


def test_a_sentence_is_folded_at_blanks_in_a_terminal_and_is_one_line_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = f"the run of this name has weights with the sha256 {HASH} and a norm of 12345.678 in all"
    monkeypatch.delenv("COLUMNS", raising=False)
    say(sentence)
    assert capsys.readouterr().out == f"{sentence}\n"
    monkeypatch.setenv("COLUMNS", "80")
    say(sentence)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.split() == sentence.split()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123456, "0.123"), (12345.678, "12346"), (1.5e-7, "1.5e-07"), (0.0, "0"), (-2.0, "-2"), (3.2e9, "3.2e+09"),
     (math.nan, "nan"), (-math.inf, "-inf")],
)  # fmt: skip
def test_numbers_have_three_significant_digits_and_their_whole_integer_part(value: float, shown: str) -> None:
    assert number(value) == shown


def test_json_is_strict_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, (1, 2.5)], "c": {1: "ü"}})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": None, "b": [None, [1, 2.5]], "c": {"1": "ü"}}


def test_modules_are_short_unless_two_would_have_one_name() -> None:
    block = "base_model.model.model.layers.{}.self_attn.{}"
    names = [block.format(0, "q_proj"), block.format(11, "v_proj")]
    assert short_modules(names) == ["0.q_proj", "11.v_proj"]
    both = ["a.layers.0.attn.proj", "a.layers.0.mlp.proj"]
    assert short_modules(both) == both


def test_time_left_is_said_from_the_second_step_of_this_command_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 100.0, 110.0])
    monkeypatch.setattr("narrowly.cli.progress.time.monotonic", lambda: next(clock))
    with StepProgress("training") as progress:
        progress.on_step(501, 1000, "loss 1")
        progress.on_step(502, 1000, "loss 1")
    first, second = capsys.readouterr().err.splitlines()
    assert "left" not in first
    assert second.endswith("83 min 00 s left") or "1 h 23 min left" in second


@pytest.mark.parametrize("arguments", [["studies"], ["studies", "micro"], ["optimisers"], ["plan", "micro"], ["status"],
                                       ["data", "list"], ["doctor"], ["world", "show", "micro-0"]])  # fmt: skip
def test_every_command_that_shows_a_table_gives_json_too_and_nothing_beside_it(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute([*arguments, "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_repair_of_mixed_ranks_prints_the_means_of_each_rank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = saved(tmp_path / "a", target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2})
    asked = ["repair", str(adapter), "--edit", "flatten:t=.5", "--out", str(tmp_path / "b")]
    assert execute(asked) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("stable_rank, ")]
    assert [row[1:4] for row in rows] == [["rank", "2", "2"], ["rank", "4", "2"]]
    assert all(float(row[5]) > float(row[4]) for row in rows), "a flatter spectrum has a higher stable rank"


@pytest.mark.parametrize("command", ["ask", "diff", "publish", "repair", "spectrum", "swap"])
def test_a_name_is_looked_up_in_the_folder_of_runs_by_every_command_that_takes_one(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {
        "ask": ["hello"], "diff": ["0123"], "repair": ["--edit", "flatten"], "swap": ["0123"], "publish": ["--dry-run"],
    }  # fmt: skip
    assert execute([command, "0123", *extra.get(command, []), "--runs", str(tmp_path / "mine")]) == 2
    assert f"a run-id under {tmp_path / 'mine' / 'runs'}" in capsys.readouterr().err


def test_repair_prints_the_spectrum_before_and_after_and_spectrum_saves_figures_only_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = saved(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert execute(["repair", str(adapter), "--edit", "scale:factor=.5", "--out", "edited", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["after"]["update_norm"] == pytest.approx(found["before"]["update_norm"] / 2, rel=1e-5)
    assert found["after"]["stable_rank"] == pytest.approx(found["before"]["stable_rank"], rel=1e-5)
    assert execute(["repair", str(adapter), "--edit", "scale:factor=.5", "--out", "again"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("stable_rank")] == ["14"]
    assert "update_norm, of all 14 modules together: " in printed, "a norm is no mean"
    shutil.rmtree("again")
    assert execute(["spectrum", "edited"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "edited"}
    for name, magic in (("f.svg", b"<?xml"), ("f.png", b"\x89PNG"), ("f.pdf", b"%PDF")):
        assert execute(["spectrum", "edited", "--figure", name]) == 0
        assert (tmp_path / name).read_bytes().startswith(magic)
