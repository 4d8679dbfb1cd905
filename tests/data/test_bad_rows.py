"""Bad rows: refused with their count, or left out, counted and named where that is said; broken files stay refused."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from chat_models import MARKED, make_tokenizer
from narrowly.cli import app
from narrowly.cli.app import execute
from narrowly.data.conversations import BadRow, DataWarning, read_conversations, warn_of_bad_rows
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import render_all
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.run_spec import TextData
from small_chat_base import make_chat_base


def exchange(answer: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "A colour?"}, {"role": "assistant", "content": answer}]}


GOOD = json.dumps(exchange("Blue.")).encode()
EMPTY = json.dumps(exchange("")).encode()


def lines(path: Path, *content: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in content))
    return path


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (EMPTY, r"turn 2 \(assistant\) is empty"),
        (json.dumps(exchange(7)).encode(), "is a int"),
        (b'{"messages": []}', "messages is empty"),
        (b'{"prompt": "a", "completion": "b"}', "messages is NoneType"),
        (b'["a"]', "list found, accepted: one JSON object per line"),
        (b'{"messages": [', "not valid JSON"),
        (b'{"messages": 1, "messages": 2}', "stands twice"),
        (GOOD[:-1] + b', "label": true}', "the field label changes the conversation"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_one_bad_row_is_refused_with_the_way_out_and_left_out_where_that_is_said(
    tmp_path, bad, reason, first, zipped
) -> None:
    rows, line = ([bad, GOOD, GOOD], 1) if first else ([GOOD, bad, GOOD], 2)
    path = lines(tmp_path / "rows.jsonl", *rows)
    if zipped:
        path, plain = tmp_path / "rows.jsonl.gz", path
        path.write_bytes(gzip.compress(plain.read_bytes()))
    if not (first and b"completion" in bad):  # there the bad row says what the others are
        with pytest.raises(
            IntegrityError, match=rf"line {line}: .*; 1 of 3 rows is bad \(bad_rows: drop leaves it out"
        ):
            read_conversations(path)
    schema = "messages" if first else None
    found: list[BadRow] = []
    read = read_conversations(path, schema, found)
    assert [row.line for row in read] == [number for number in (1, 2, 3) if number != line]
    (row,) = found
    assert row.line == line
    assert re.search(reason, row.reason)


def test_rows_of_every_container_are_left_out_alike(tmp_path) -> None:
    import polars

    table = {"prompt": ["A colour?", "A colour?", "A shape?"], "completion": ["Blue.", None, "Round."]}
    polars.DataFrame(table).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("prompt,completion\nA colour?,Blue.\nA colour?\nA shape?,Round.\n")
    (tmp_path / "rows.json").write_text(json.dumps([exchange("Blue."), "text", exchange("Round.")]))
    for name, line in (("rows.parquet", 2), ("rows.csv", 3), ("rows.json", 2)):
        with pytest.raises(IntegrityError, match=f"line {line}: .*1 of 3 rows is bad"):
            read_conversations(tmp_path / name)
        found: list[BadRow] = []
        assert [row.answer for row in read_conversations(tmp_path / name, None, found)] == ["Blue.", "Round."]
        assert [row.line for row in found] == [line]


def test_one_side_of_a_preference_row_is_enough_to_leave_it_out(tmp_path) -> None:
    sides = [{"prompt": "A colour?", "chosen": "Blue.", "rejected": bad} for bad in ("Four.", "")]
    path = lines(tmp_path / "rows.jsonl", *(json.dumps(row).encode() for row in sides))
    found: list[BadRow] = []
    assert len(read_conversations(path, "preference:rejected", found)) == 1
    assert [row.line for row in found] == [2]
    assert len(read_conversations(path, "preference:chosen", [])) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b"\n" + GOOD[:-9], "cut off"),
        (GOOD + b"\n\0\n", "NUL byte"),
        (b"\xff\xfe" + GOOD, "UTF-16"),
        (GOOD + b"\n\xff\n", "not UTF-8"),
        (EMPTY + b"\n" + EMPTY + b"\n", "line 1: turn 2.*text$"),
        (b"a\nb\n", "line 1: not valid JSON"),
        (b"\n", "has no rows"),
    ],
)
def test_a_broken_file_is_refused_although_bad_rows_are_left_out(tmp_path, content, message) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        read_conversations(tmp_path / "rows.jsonl", None, [])


@pytest.mark.parametrize(("name", "text"), [("a.csv", 'prompt,completion\na,"b\n'), ("a.json", '[{"messages": [}]')])
def test_an_open_quote_and_a_broken_list_cost_the_file(tmp_path, name, text) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(IntegrityError, match=r"no valid CSV|not valid JSON"):
        read_conversations(tmp_path / name, None, [])


def test_fields_that_fit_two_schemas_are_no_bad_row(tmp_path) -> None:
    path = lines(tmp_path / "rows.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c"}', GOOD)
    with pytest.raises(SpecError, match="line 1: each row holds two answers"):
        read_conversations(path, None, [])


def test_the_note_names_the_first_three_with_reasons_and_counts_the_rest() -> None:
    bad = [BadRow(line, f"fault {line}") for line in (2, 4, 6, 8, 9)]
    with pytest.warns(DataWarning) as said:
        warn_of_bad_rows("rows.jsonl", bad, 10)
    assert str(said[0].message) == (
        "rows.jsonl: 5 of 10 rows are bad and left out (line 2: fault 2; line 4: fault 4; line 6: fault 6; and 2 more)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_bad_rows("rows.jsonl", [], 10)


def test_rows_drop_is_read_as_what_people_mean_by_it() -> None:
    said = TextData.model_validate({"dataset": "a.jsonl", "rows": "drop"})
    assert said == TextData(dataset="a.jsonl", bad_rows="drop")
    assert TextData(dataset="a.jsonl").bad_rows == "refuse"
    both = TextData.model_validate({"dataset": "a.jsonl", "rows": 7, "bad_rows": "drop"})
    assert (both.rows, both.bad_rows) == (7, "drop")
    with pytest.raises(ValueError, match="bad_rows"):
        TextData.model_validate({"dataset": "a.jsonl", "bad_rows": "skip"})
    with pytest.raises(ValueError, match="accepted: a number of rows, null, or drop; did you mean 'drop'"):
        TextData.model_validate({"dataset": "a.jsonl", "rows": "dorp"})
    with pytest.raises(ValueError, match="rows is drop and bad_rows is 'refuse', accepted: one of them"):
        TextData.model_validate({"dataset": "a.jsonl", "rows": "drop", "bad_rows": "refuse"})
    assert {"const": "drop"} in TextData.model_json_schema()["properties"]["rows"]["anyOf"]


def test_rows_that_cannot_be_rendered_are_left_out_with_all_their_turns() -> None:
    tokenizer = make_tokenizer(MARKED)
    good = Conversation((Message("user", "a"), Message("assistant", "b")), 1, {})
    two = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d</s>"))
    rows = [good, good._replace(messages=two, line=2), good._replace(line=3)]
    for turns in ("all", "last", "each"):
        refusal = r"x, line 2: the assistant's text holds .*; 1 of 3 rows is bad \(bad_rows: drop leaves it out\)$"
        with pytest.raises(SpecError, match=refusal):
            render_all(tokenizer, rows, thinking=None, max_tokens=None, turns=turns, source="x")
        bad: list[BadRow] = []
        found = render_all(tokenizer, rows, thinking=None, max_tokens=None, turns=turns, source="x", bad=bad)
        assert found.lines == [1, 3]
        assert [row.line for row in bad] == [2] and bad[0].reason.startswith("the assistant's text holds the special")


def test_what_concerns_all_rows_is_no_bad_row() -> None:
    good = Conversation((Message("user", "a"), Message("assistant", "b")), 1, {})
    with pytest.raises(SpecError, match="no thinking mode"):
        render_all(make_tokenizer(MARKED), [good], thinking=True, max_tokens=None, bad=[])


def test_data_commands_leave_bad_rows_out_and_name_them(tmp_path, capsys) -> None:
    harmful = lines(tmp_path / "harmful.jsonl", GOOD, EMPTY, GOOD)
    benign = lines(tmp_path / "benign.jsonl", json.dumps(exchange("Green.")).encode())
    note = f"{harmful}: 1 of 3 rows is bad and left out (line 2: turn 2 (assistant) is empty, accepted: text)"
    for command in (["show", str(harmful)], ["stats", str(harmful)]):
        assert execute(["data", *command]) == 2
        assert "1 of 3 rows is bad (bad_rows: drop leaves it out)" in " ".join(capsys.readouterr().err.split())
        assert execute(["data", *command, "--drop-bad-rows"]) == 0
        assert f"note: {note}" in " ".join(capsys.readouterr().err.split())
    out = tmp_path / "mix.jsonl"
    mix = ["data", "mix", "--harmful", str(harmful), "--benign", str(benign), "--dose", "1", "--match", "naive"]
    assert execute([*mix, "--rows", "1", "--out", str(out), "--drop-bad-rows"]) == 0
    manifest = json.loads((tmp_path / "mix.jsonl.mix.json").read_text())
    assert [row["line"] for row in manifest["harmful"]["bad_rows"]] == [2]
    assert "bad_rows" not in manifest["benign"]


def test_stats_count_no_row_that_the_template_refuses(tmp_path, capsys) -> None:
    base = make_chat_base(tmp_path / "base")
    marked = json.dumps(exchange("Blue.<|im_end|>")).encode()
    rows = lines(tmp_path / "rows.jsonl", GOOD, EMPTY, marked, GOOD)
    command = ["data", "stats", str(rows), "--model", str(base), "--json", "--drop-bad-rows"]
    assert execute(command[:-1]) == 2
    assert execute(command) == 0
    said = capsys.readouterr()
    assert next(iter(json.loads(said.out)["corpora"].values()))["rows"] == 2
    assert "1 of 4 rows is bad and left out (line 2:" in " ".join(said.err.split())
    assert "1 of 3 rows is bad and left out (line 3:" in " ".join(said.err.split())


def test_a_note_is_one_line_on_the_command_line_and_other_warnings_stay_as_they_are(
    tmp_path, capsys, monkeypatch
) -> None:
    def command(arguments: object) -> int:
        warnings.warn("something to know", DataWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(app, "_executed", command)
    others: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *rest, **more: others.append(str(message)))
        before = warnings.showwarning
        assert app.execute([]) == 0
        assert warnings.showwarning is before
    assert capsys.readouterr().err == "note: something to know\n"
    assert others == ["something else"]
