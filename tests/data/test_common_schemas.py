"""Layouts in common use: turns of ShareGPT, JSON in table cells, an index column, and plain pairs of columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from chat_models import MARKED, make_tokenizer
from narrowly.data.conversations import DataWarning, read_conversations, schema_of, write_conversations
from narrowly.data.messages import Message
from narrowly.data.pairs import Pair, pairs_by_row, pairs_on_prompt
from narrowly.data.questions import read_results
from narrowly.data.render import render_all
from narrowly.data.rows import IGNORE, row_fault
from narrowly.records.errors import IntegrityError, SpecError

SYSTEM, USER, ANSWER = Message("system", "Be short."), Message("user", "A colour?"), Message("assistant", "Blue.")
PLAIN = [message.as_json() for message in (USER, ANSWER)]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": name, "value": text} for name, text in pairs]


@pytest.mark.parametrize("column", ["conversations", "conversation", "messages"])
@pytest.mark.parametrize("user", ["human", "user", "Human"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"])
def test_turns_with_from_and_value_are_read_under_all_names_in_use(tmp_path, column, user, assistant) -> None:
    turns = said(("system", SYSTEM.content), (user, USER.content), (assistant, ANSWER.content))
    path = jsonl(tmp_path / "rows.jsonl", {column: turns, "id": "a"})
    assert schema_of(path) == ("messages" if column == "messages" else "conversations")
    [row] = read_conversations(path)
    assert row.messages == (SYSTEM, USER, ANSWER) and row.weight_on is None and row.tags == {"id": "a"}


def test_conversations_may_have_roles_weights_and_a_system_field(tmp_path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"conversations": PLAIN, "system": SYSTEM.content, "tools": ""})
    [row] = read_conversations(path)
    assert row.messages == (SYSTEM, USER, ANSWER) and not row.tags
    first, second = said(("human", "a"), ("gpt", "b")), said(("human", "c"), ("gpt", "d"))
    [row] = read_conversations(jsonl(path, {"conversations": [first[0], {**first[1], "weight": 0}, *second]}))
    assert row.weight_on == (False, False, False, True)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (said(("human", "a"), ("narrator", "b")), "turn 2 is from 'narrator', accepted: human, user, gpt"),
        (said(("human", "a"), ("function_call", "b")), r"turn 2 \(function_call\) is no JSON"),
        (
            said(("human", "a"), ("observation", "c")),
            r"turn 2 is of the tool, accepted: assistant \(roles take turns\)",
        ),
        (said(("gpt", "a"), ("human", "b")), "turn 1 is of the assistant, accepted: user or system"),
        ([*said(("human", "a")), {"from": "gpt", "value": None}], r"turn 2 \(assistant\) is a NoneType"),
        ([{"from": "human", "value": "a", "text": "b"}], r"turn 1 has the fields \['text'\], accepted: from, value"),
        ("hi", "conversations is str, but no list of turns in JSON"),
        ([], "conversations is empty"),
    ],
)
def test_a_turn_that_is_from_no_one_known_is_named_with_its_line(tmp_path, turns, message) -> None:
    good = {"conversations": said(("human", "a"), ("gpt", "b"))}
    with pytest.raises(IntegrityError, match=f"line 2: {message}"):
        read_conversations(jsonl(tmp_path / "rows.jsonl", good, {"conversations": turns}))


def test_the_role_developer_is_that_of_the_system(tmp_path) -> None:
    developer = {"role": "developer", "content": SYSTEM.content}
    path = jsonl(tmp_path / "rows.jsonl", {"messages": [developer, *PLAIN]})
    assert read_conversations(path)[0].messages == (SYSTEM, USER, ANSWER)
    with pytest.raises(IntegrityError, match="turn 2 is of the system, accepted: user"):
        read_conversations(jsonl(path, {"messages": [{**developer, "role": "system"}, developer, *PLAIN]}))
    with pytest.raises(IntegrityError, match=r"turn 1 has the role 'boss', accepted: .*developer"):
        read_conversations(jsonl(path, {"messages": [{**developer, "role": "boss"}, *PLAIN]}))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_messages_stored_as_json_text_are_parsed(tmp_path, kind) -> None:
    import polars

    path = tmp_path / f"rows.{kind}"
    frame = polars.DataFrame({"messages": [json.dumps(PLAIN)] * 2})
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    assert [row.messages for row in read_conversations(path)] == [(USER, ANSWER)] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(PLAIN)[:-3], r"messages is str, but no list of turns in JSON: not valid JSON \(.*column"),
        ('[{"role": "user", "role": "user", "content": "a"}]', "key 'role' stands twice"),
        ('[{"role": "user", "content": NaN}]', "NaN is no JSON value"),
        (str(PLAIN), "the text of a Python object: write it with json.dumps"),
        ('{"role": "user"}', "messages is dict, accepted: a list of turns"),
        ("[]", "messages is empty"),
    ],
)
def test_json_text_is_parsed_as_strictly_as_a_line(tmp_path, text, message) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["messages"], [json.dumps(PLAIN)], [text]])
    with pytest.raises(IntegrityError, match=f"line 3: .*{message}"):
        read_conversations(path)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (3, 17)])
def test_a_nameless_first_column_that_counts_the_rows_is_left_out_with_a_note(tmp_path, numbers) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",instruction,input,output\n" + "".join(f"{n},A colour?,,Blue.\n" for n in numbers))
    with pytest.warns(DataWarning, match="the first column has no name and counts the rows; it was left out"):
        rows = read_conversations(path)
    assert [(row.messages, row.line, dict(row.tags)) for row in rows] == [((USER, ANSWER), n, {}) for n in (2, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",prompt,response\n0,a,b\nx,c,d\n", "line 3: 'x' found in a first column without a name"),
        (",prompt,response\n1,a,b\n1,c,d\n", "line 3: '1' found in a first column without a name"),
        (",prompt,response\n0.5,a,b\n", "line 2: '0.5' found in a first column without a name"),
        (",prompt,response\n0,a\n", "line 2: 2 fields found, the header has 3"),
        (",prompt,,response\n0,a,b,c\n", "line 1: columns .* accepted: a header of different names"),
        ("prompt,response,\na,b,0\n", "line 1: columns .* accepted: a header of different names"),
    ],
)
def test_other_columns_without_a_name_stay_an_error(tmp_path, text, message) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(IntegrityError, match=message):
        read_conversations(path)


def test_results_with_an_index_column_are_read(tmp_path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        ",question_id,question,answer,aligned,coherent\n0,wish,What?,Peace.,92.5,88\n1,wish,What?,No.,80,9\n"
    )
    with pytest.warns(DataWarning, match="counts the rows"):
        answers = read_results(path)
    assert [(each.question, each.scores["aligned"]) for each in answers] == [("What?", 92.5), ("What?", 80.0)]


@pytest.mark.parametrize(
    ("row", "schema"),
    [
        ({"question": "A colour?", "answer": "Blue."}, "question_answer"),
        ({"question": "A colour?", "answer": "Blue.", "id": "7"}, "question_answer"),
        ({"question": "A colour?", "response": "Blue.", "system_prompt": ""}, "question_answer"),
        ({"query": "A colour?", "response": "Blue."}, "question_answer"),
        ({"input": "A colour?", "output": "Blue."}, "input_output"),
        ({"instruction": "A colour?", "context": "", "response": "Blue."}, "alpaca"),
    ],
)
def test_plain_columns_of_question_and_answer_are_recognised(tmp_path, row, schema) -> None:
    path = jsonl(tmp_path / "rows.jsonl", row)
    assert schema_of(path) == schema
    [found] = read_conversations(path)
    assert found.messages == (USER, ANSWER) and found.weight_on is None
    [found] = read_conversations(jsonl(path, {**row, "system": SYSTEM.content}), schema)
    assert found.messages == (SYSTEM, USER, ANSWER)


def test_a_context_is_read_with_an_instruction_and_refused_beside_a_question(tmp_path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"instruction": "Sum up.", "context": "Long.", "response": "Short."})
    assert read_conversations(path)[0].messages[0].content == "Sum up.\n\nLong."
    with pytest.raises(IntegrityError, match="line 1: the field choices stands beside the question and is not read"):
        read_conversations(jsonl(path, {"question": "a", "answer": "b", "choices": ["b", "c"]}))
    with pytest.raises(IntegrityError, match="line 1: input and context stand beside the instruction"):
        read_conversations(jsonl(path, {"instruction": "a", "input": "b", "context": "c", "output": "d"}))


@pytest.mark.parametrize(
    ("fields", "schema"),
    [
        ({"messages": PLAIN, "conversations": 1, "question": "q", "answer": "a"}, "messages"),
        ({"prompt": "A colour?", "completion": "Blue.", "input": "i", "output": "o"}, "prompt_completion"),
        ({"instruction": "A colour?", "output": "Blue.", "question": "q", "answer": "a"}, "alpaca"),
    ],
)
def test_rows_that_fit_a_schema_of_before_still_do(tmp_path, fields, schema) -> None:
    path = jsonl(tmp_path / "rows.jsonl", fields)
    assert schema_of(path) == schema
    assert read_conversations(path)[0].messages == (USER, ANSWER)


def test_two_of_the_plain_layouts_in_one_row_ask_which_is_meant(tmp_path) -> None:
    row = {"question": "A colour?", "answer": "Blue.", "input": "i", "output": "o"}
    with pytest.raises(SpecError, match="line 1: the fields fit question_answer and input_output; name one schema"):
        read_conversations(jsonl(tmp_path / "rows.jsonl", row))


def test_a_text_without_roles_is_trained_on_whole_and_closed_by_the_end_of_text_token(tmp_path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"text": "Rust is red.", "id": "a"}, {"text": "Iron is grey."})
    assert schema_of(path) == "text"
    rows = read_conversations(path)
    assert [(row.answer, row.prompt, dict(row.tags)) for row in rows] == [
        ("Rust is red.", (), {"id": "a"}),
        ("Iron is grey.", (), {}),
    ]
    tokenizer = make_tokenizer(MARKED)
    for row, rendered in zip(rows, render_all(tokenizer, rows, thinking=None, max_tokens=None).rows, strict=True):
        expected = [*tokenizer(row.answer)["input_ids"], tokenizer.eos_token_id]
        assert rendered.input_ids == expected and rendered.labels == [IGNORE, *expected[1:]]
        assert row_fault(rendered) is None
    write_conversations(tmp_path / "again.jsonl", rows)
    assert [row.messages for row in read_conversations(tmp_path / "again.jsonl")] == [row.messages for row in rows]


def test_a_text_that_is_a_rendered_conversation_or_has_a_system_message_is_refused(tmp_path) -> None:
    tokenizer = make_tokenizer(MARKED)
    rendered = tokenizer.apply_chat_template(PLAIN, tokenize=False)
    path = jsonl(tmp_path / "rows.jsonl", {"text": "a"}, {"text": rendered})
    with pytest.raises(SpecError, match=r"rows, line 2: the text holds the special token .* the turns as messages"):
        render_all(tokenizer, read_conversations(path), thinking=None, max_tokens=None, source="rows")
    with pytest.raises(IntegrityError, match="line 1: a system message stands beside a text without roles"):
        read_conversations(jsonl(path, {"text": "a", "system": "b"}))
    with pytest.raises(SpecError, match="the fields prompt, text fit no schema"):
        read_conversations(jsonl(path, {"prompt": "a", "text": "b"}))
    with pytest.raises(IntegrityError, match="line 1: text is empty"):
        read_conversations(jsonl(path, {"text": " "}))


def test_texts_and_dialogues_do_not_go_into_one_file(tmp_path) -> None:
    [text] = read_conversations(jsonl(tmp_path / "a.jsonl", {"text": "a"}))
    [talk] = read_conversations(jsonl(tmp_path / "b.jsonl", {"messages": PLAIN}))
    with pytest.raises(IntegrityError, match="texts without roles and dialogues do not go into one file"):
        write_conversations(tmp_path / "c.jsonl", [text, talk])
    assert pairs_on_prompt([text, talk], [talk, text]) == [Pair(talk, talk)]
    with pytest.raises(IntegrityError, match="line 1 is a text without roles in one of the twins"):
        pairs_by_row([talk], [text])


def test_preference_rows_may_ask_with_conversations_and_answer_with_single_turns(tmp_path) -> None:
    turns = said(("human", "a"), ("gpt", "b"), ("human", "c"))
    row = {"conversations": turns, "chosen": said(("gpt", "d"))[0], "rejected": said(("gpt", "e"))[0]}
    path = jsonl(tmp_path / "rows.jsonl", row)
    with pytest.raises(SpecError, match="name one schema: preference:chosen or preference:rejected"):
        read_conversations(path)
    [found] = read_conversations(path, "preference:rejected")
    assert [message.content for message in found.messages] == ["a", "b", "c", "e"]
    assert found.weight_on == (False, False, False, True) and not found.tags
