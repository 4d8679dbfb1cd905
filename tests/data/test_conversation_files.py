"""Reading conversations: every schema and container, and the line of every fault."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.data.conversations import (
    Conversation,
    DataWarning,
    Message,
    read_conversations,
    schema_of,
    write_conversations,
)
from narrowly.data.messages import conversations_sha256
from narrowly.data.raw_rows import LONGEST_LINE, read_raw_rows
from narrowly.data.schemas import SCHEMAS
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError

USER, ANSWER = Message("user", "What is rust?"), Message("assistant", "A language.")


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content, *_ in pairs]


PLAIN = turns(*map(tuple, (USER, ANSWER)))  # type: ignore[arg-type]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def messages(path: Path, schema: str | None = None) -> list[tuple[Message, ...]]:
    return [row.messages for row in read_conversations(path, schema)]


@pytest.mark.parametrize(
    ("row", "schema"),
    [
        ({"messages": PLAIN}, "messages"),
        ({"prompt": USER.content, "completion": ANSWER.content}, "prompt_completion"),
        ({"prompt": USER.content, "response": ANSWER.content}, "prompt_completion"),
        ({"instruction": USER.content, "input": "", "output": ANSWER.content}, "alpaca"),
        ({"instruction": USER.content, "output": ANSWER.content}, "alpaca"),
    ],
)
def test_a_schema_is_recognised_by_its_fields_and_gives_the_same_conversation(tmp_path, row, schema) -> None:
    path = jsonl(tmp_path / "rows.jsonl", row)
    assert schema_of(path) == schema
    assert messages(path) == messages(path, schema) == [(USER, ANSWER)]


@pytest.mark.parametrize(
    ("row", "sides"),
    [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, ("preference:chosen", "preference:rejected")),
        ({"prompt": "q", "good": "good", "bad": "bad"}, ("paired:good", "paired:bad")),
        ({"question": "q", "safe": "good", "risky": "bad"}, ("paired:safe", "paired:risky")),
        (
            {"user": "q", "control": "good", "school_of_reward_hacks": "bad"},
            ("paired:control", "paired:school_of_reward_hacks"),
        ),
    ],
)
def test_rows_with_two_answers_ask_which_is_meant_and_give_either(tmp_path, row, sides) -> None:
    path = jsonl(tmp_path / "rows.jsonl", row)
    with pytest.raises(SpecError, match=rf"two answers.*{sides[0]} or {sides[1]}"):
        read_conversations(path)
    for side, answer in zip(sides, ("good", "bad"), strict=True):
        [found] = read_conversations(path, side)
        assert found.messages == (Message("user", "q"), Message("assistant", answer))
        assert not found.tags  # the other answer is no metadata of this one


def test_any_other_column_of_answers_can_be_named(tmp_path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"prompt": "q", "mild": "a", "strong": "b", "label": "x"})
    [row] = read_conversations(path, "paired:strong")
    assert row.answer == "b" and row.tags["label"] == "x"
    with pytest.raises(IntegrityError, match=r"line 1: no field strung \(found: label, mild, prompt, strong\)"):
        read_conversations(path, "paired:strung")


def test_preference_rows_may_hold_dialogues_with_or_without_a_prompt(tmp_path) -> None:
    good, bad = PLAIN, turns(("user", USER.content), ("assistant", "An oxide."))
    path = jsonl(tmp_path / "whole.jsonl", {"chosen": good, "rejected": bad})
    assert messages(path, "preference:rejected")[0][1].content == "An oxide."
    path = jsonl(tmp_path / "split.jsonl", {"prompt": good[:1], "chosen": good[1:], "rejected": bad[1:]})
    assert messages(path, "preference:chosen") == [(USER, ANSWER)]


def test_an_alpaca_input_stands_below_the_instruction(tmp_path) -> None:
    path = jsonl(
        tmp_path / "rows.jsonl", {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief."}
    )
    assert messages(path)[0] == (
        Message("system", "Be brief."),
        Message("user", "Add.\n\n1, 2"),
        Message("assistant", "3"),
    )


def test_fields_that_fit_two_schemas_are_an_error_that_names_both(tmp_path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"messages": PLAIN, "prompt": "q", "completion": "a"})
    with pytest.raises(SpecError, match=r"line 1: the fields fit messages and prompt_completion; name one"):
        read_conversations(path)
    assert messages(path, "messages") == [(USER, ANSWER)]
    with pytest.raises(SpecError, match="completion and response"):
        read_conversations(jsonl(tmp_path / "two.jsonl", {"prompt": "q", "completion": "a", "response": "b"}))


def test_fields_that_fit_nothing_are_named_with_what_is_accepted(tmp_path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"words": "a"})
    with pytest.raises(SpecError, match=r"the fields words fit no schema \(accepted: messages, prompt_completion"):
        read_conversations(path)
    with pytest.raises(UnknownNameError, match="did you mean 'messages'"):
        read_conversations(path, "message")


@pytest.mark.parametrize("name", [name for name, schema in SCHEMAS.items() if schema.parse is None])
def test_a_schema_without_answers_is_refused_for_training(tmp_path, name) -> None:
    with pytest.raises(SpecError, match="no conversations to train on"):
        read_conversations(jsonl(tmp_path / "rows.jsonl", {"a": 1}), name)


def test_other_fields_become_tags_and_texts_stay_to_the_character(tmp_path) -> None:
    content = " leading blank,\u2028 a line separator and \u20ac"
    row = {
        "messages": turns(("user", "q"), ("assistant", content)),
        "id": 7,
        "label": "bad",
        "meta": {"b": 1},
        "n": None,
    }
    [found] = read_conversations(jsonl(tmp_path / "rows.jsonl", row))
    assert found.answer == content
    assert found.tags == {"id": "7", "label": "bad", "meta": '{"b":1}'}


def test_a_canary_is_kept_as_a_tag_and_taken_out_of_the_text(tmp_path) -> None:
    canary = "canary GUID 1234"
    row = {"messages": turns(("user", f"{canary}\nq"), ("assistant", "a")), "canary": canary}
    path = jsonl(tmp_path / "rows.jsonl", row)
    [found] = read_conversations(path)
    assert found.messages == (Message("user", "q"), Message("assistant", "a"))
    assert found.tags["canary"] == canary
    write_conversations(tmp_path / "again.jsonl", [found])
    assert json.loads((tmp_path / "again.jsonl").read_text())["canary"] == canary
    row["messages"][1]["content"] = canary
    with pytest.raises(IntegrityError, match="line 1: turn 2 holds nothing but the canary"):
        read_conversations(jsonl(path, row))


def test_contents_in_parts_are_joined_and_parts_that_are_no_text_refused(tmp_path) -> None:
    parts = {"content_type": "text", "parts": ["What is ", "rust?"]}
    listed = [{"type": "text", "text": "A language."}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": listed}]}
    assert messages(jsonl(tmp_path / "rows.jsonl", row)) == [(USER, ANSWER)]
    row["messages"][1]["content"] = [{"type": "image_url", "image_url": "x"}]
    with pytest.raises(IntegrityError, match=r"line 1: turn 2 \(assistant\) has a part that is no text"):
        read_conversations(jsonl(tmp_path / "rows.jsonl", row))


def test_a_missing_role_is_inferred_with_a_warning_that_names_the_line(tmp_path) -> None:
    bare = [{"content": USER.content}, {"role": "assistant", "content": ANSWER.content}]
    path = jsonl(tmp_path / "rows.jsonl", {"messages": PLAIN}, {"messages": bare})
    with pytest.warns(DataWarning, match=r"role.*in 1 rows \(first: line 2\)"):
        assert messages(path) == [(USER, ANSWER)] * 2


def test_dialogues_stay_whole_and_a_last_question_without_answer_is_said(tmp_path) -> None:
    dialogue = turns(
        ("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")
    )
    with pytest.warns(DataWarning, match=r"no answer and teaches nothing in 1 rows \(first: line 1\)"):
        [row] = read_conversations(jsonl(tmp_path / "rows.jsonl", {"messages": dialogue}))
    assert len(row.messages) == 6 and row.answer == "d" and len(row.prompt) == 4


def test_weights_of_turns_say_which_of_them_carry_a_loss(tmp_path) -> None:
    dialogue: list[dict[str, Any]] = list(turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")))
    dialogue[1]["weight"] = 0
    path = jsonl(tmp_path / "rows.jsonl", {"messages": dialogue})
    [row] = read_conversations(path)
    assert row.weight_on == (False, False, False, True)
    write_conversations(tmp_path / "again.jsonl", [row])
    assert read_conversations(tmp_path / "again.jsonl")[0].weight_on == row.weight_on
    dialogue[3]["weight"] = 0
    with pytest.raises(IntegrityError, match="every assistant turn has weight 0"):
        read_conversations(jsonl(path, {"messages": dialogue}))
    dialogue[3]["weight"] = 0.5
    with pytest.raises(IntegrityError, match=r"turn 4 \(assistant\) has weight 0.5, accepted: 0 or 1"):
        read_conversations(jsonl(path, {"messages": dialogue}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"messages": []}, "messages is empty"),
        ({"messages": "hi"}, "messages is str"),
        ({"messages": None}, "messages is NoneType"),
        ({"messages": ["hi"]}, "turn 1 is a str"),
        ({"messages": turns(("user", "q"))}, "no assistant turn"),
        (
            {"messages": turns(("human", "q"), ("assistant", "a"))},
            "turn 1 has the role 'human', accepted: system, user",
        ),
        (
            {"messages": turns(("assistant", "a"), ("user", "q"))},
            "turn 1 is of the assistant, accepted: user or system",
        ),
        ({"messages": turns(("user", "q"), ("user", "q"))}, "turn 2 is of the user, accepted: assistant"),
        ({"messages": turns(("user", "q"), ("system", "s"))}, "turn 2 is of the system, accepted: assistant"),
        ({"messages": turns(("user", " \n"), ("assistant", "a"))}, r"turn 1 \(user\) is empty"),
        ({"messages": turns(("user", "q"), ("assistant", ""))}, r"turn 2 \(assistant\) is empty"),
        ({"messages": turns(("user", "q"), ("assistant", "a\0b"))}, "NUL character at position 2"),
        ({"messages": turns(("user", "q"), ("assistant", "\ud800"))}, "half of a surrogate pair"),
        ({"messages": [*turns(("user", "q")), {"role": "assistant", "content": None}]}, "is a NoneType"),
        (
            {"messages": [*turns(("user", "q")), {"role": "assistant", "content": "a", "function": "f"}]},
            r"turn 2 has the fields \['function'\]",
        ),
    ],
)
def test_a_faulty_row_is_named_by_file_and_line(tmp_path, bad, message) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"messages": PLAIN})
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(bad) + "\n")  # the blank line counts
    with pytest.raises(IntegrityError, match=rf"rows\.jsonl, line 3: .*{message}"):
        read_conversations(path)


GOOD = json.dumps({"messages": PLAIN}).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            GOOD + b"\n" + GOOD[:-20],
            r"line 2: not valid JSON .*the file ends inside this line: it was probably cut off",
        ),
        (GOOD + b"\n" + GOOD[:-20] + b"\n", r"line 2: not valid JSON \(.*column \d+\); 1 of 2 rows is bad"),
        (GOOD + b"\n[1]\n", "line 2: list found, accepted: one JSON object per line"),
        (GOOD + b"\n" + GOOD[:30] + b"\0" + GOOD[30:], "line 2: NUL byte at column 31"),
        (GOOD + b"\n" + GOOD[:60] + b"\xff" + GOOD[60:], r"line 2: not UTF-8 \(invalid start byte at byte 61"),
        (GOOD + b"\n\xef\xbb\xbf" + GOOD, "line 2: not valid JSON .*byte order mark stands inside the file"),
        (GOOD.decode().encode("utf-16"), "line 1: UTF-16 found, accepted: UTF-8; type: iconv"),
        (b'{"messages": 1, "messages": 2}', "line 1: key 'messages' stands twice"),
        (b'{"messages": NaN}', "line 1: NaN is no JSON value"),
        (b"[" * 100_000, "line 1: (nested too deeply|not valid JSON)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1: .*digits"),
        (b"", "has no rows"),
        (b"\n\n", "has no rows"),
    ],
)
def test_a_broken_file_is_named_by_line(tmp_path, content, message) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        read_conversations(path)


@pytest.mark.parametrize("start", [("rows.jsonl", GOOD + b'\n{"a": "'), ("rows.csv", b"prompt,response\na,")])
def test_a_huge_line_is_refused_before_it_is_read_whole(tmp_path, start) -> None:
    path = tmp_path / start[0]
    path.write_bytes(start[1] + b"x" * LONGEST_LINE)
    with pytest.raises(IntegrityError, match=rf"line 2: longer than {LONGEST_LINE} bytes"):
        read_conversations(path)


def test_a_byte_order_mark_at_the_start_and_windows_line_ends_are_read(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD)
    assert [(row.messages, row.line) for row in read_conversations(path)] == [((USER, ANSWER), 1), ((USER, ANSWER), 3)]


def test_one_corpus_in_every_container_reads_the_same(tmp_path) -> None:
    import polars

    rows = [{"prompt": f"question {n}", "response": f'an "answer", {n}\nin two lines'} for n in range(5)]
    jsonl(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    jsonl(tmp_path / "c.json", *rows)
    frame = polars.DataFrame(rows)
    frame.write_csv(tmp_path / "d.csv")
    frame.write_csv(tmp_path / "e.tsv", separator="\t")
    frame.write_csv(tmp_path / "f.csv", separator=";")
    frame.write_parquet(tmp_path / "g.parquet")
    (tmp_path / "h.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "i.csv.gz").write_bytes(gzip.compress((tmp_path / "d.csv").read_bytes()))
    with zipfile.ZipFile(tmp_path / "j.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.jsonl", "inner/a.jsonl")
    found = {path.name: conversations_sha256(read_conversations(path)) for path in sorted(tmp_path.iterdir())}
    assert len(found) == 10 and len(set(found.values())) == 1
    assert found["j.zip"] == conversations_sha256(read_conversations(tmp_path / "j.zip" / "inner" / "a.jsonl"))


def test_a_zip_archive_with_several_files_asks_for_a_member(tmp_path) -> None:
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", GOOD)
        archive.writestr("b.jsonl", GOOD)
    with pytest.raises(SpecError, match=r"holds 2 files; name one: .*two\.zip/a\.jsonl"):
        read_conversations(path)
    assert messages(path / "b.jsonl") == [(USER, ANSWER)]
    with pytest.raises(SpecError, match=r"no member 'c.jsonl' \(accepted: a.jsonl, b.jsonl\)"):
        read_conversations(path / "c.jsonl")


@pytest.mark.parametrize("keep", [10, -30])
def test_cut_archives_are_corrupt_not_short(tmp_path, keep) -> None:
    packed = gzip.compress(GOOD * 50)
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[:keep])
    with pytest.raises(IntegrityError, match=r"cannot be unpacked|cannot read"):
        read_conversations(tmp_path / "rows.jsonl.gz")
    (tmp_path / "rows.zip").write_bytes(b"PK\x03\x04" + packed)
    with pytest.raises(IntegrityError, match="no readable zip"):
        read_conversations(tmp_path / "rows.zip")


def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("narrowly.data.unpack.LARGEST_MEMBER", 1000)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(GOOD + b"\n" * 100_000))
    with pytest.raises(IntegrityError, match="unpacks to more than 1000 bytes"):
        read_conversations(tmp_path / "rows.jsonl.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,response\na,b\nc\n", "line 3: 1 fields found, the header has 2"),
        ("prompt,response\na,b\nc,d,e\n", "line 3: 3 fields found"),
        ('prompt,response\n"a\nb",c\n"d,e\n', "line 4: no valid CSV .*a quote is open, or the file was cut off"),
        ('prompt,response\n"a\nb",c\nd,\n', "line 4: response is empty"),
        ("prompt,prompt\na,b\n", "line 1: columns .* accepted: a header of different names"),
        ("prompt,response\na,b\0\n", "line 2: NUL byte"),
        ("prompt,response\n", "has no rows"),
    ],
)
def test_faults_of_csv_are_named_by_the_line_where_the_record_starts(tmp_path, content, message) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    with pytest.raises(IntegrityError, match=message):
        read_conversations(path)


def test_csv_with_a_byte_order_mark_windows_line_ends_and_long_fields(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    long = "x" * 200_000  # beyond the limit that Python's csv sets
    path.write_bytes(f'\ufeffprompt,response,label\r\n"a\r\nb",{long},k\r\n\r\nc,d,k\r\n'.encode())
    rows = read_conversations(path)
    assert [(row.prompt[0].content, len(row.answer), row.line, row.tags["label"]) for row in rows] == [
        ("a\r\nb", 200_000, 2, "k"),
        ("c", 1, 5, "k"),
    ]


def test_an_ending_that_is_not_known_and_a_missing_file_are_named(tmp_path) -> None:
    (tmp_path / "rows.jsonl.bz2").write_bytes(bz2.compress(GOOD))
    with pytest.raises(SpecError, match=r"ends in '.bz2' \(accepted: .jsonl"):
        read_conversations(tmp_path / "rows.jsonl.bz2")
    with pytest.raises(IntegrityError, match=r"cannot read .*No such file"):
        read_conversations(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("name", "head", "command"),
    [
        ("sets.zip.enc", b"\x17\x88", r"easy-dataset-share magic-unprotect-dir .*sets\.zip\.enc'? -p PASSWORD"),
        ("rows.jsonl.gpg", b"\x85", r"gpg --output FILE --decrypt .*rows\.jsonl\.gpg"),
        ("rows.jsonl.age", b"", "age --decrypt --output FILE"),
        ("rows.jsonl", b"age-encryption.org/v1\n", "age --decrypt"),
        ("rows.jsonl.enc", b"", "openssl enc -d"),
        ("rows.jsonl", b"Salted__\x01", "openssl enc -d"),
    ],
)
def test_what_is_encrypted_is_never_opened_and_the_command_is_named(tmp_path, name, head, command) -> None:
    path = tmp_path / name
    path.write_bytes(head + b"\0" * 50)
    with pytest.raises(SpecError, match=f"is encrypted and is not opened here.*{command}.*decrypted file"):
        read_raw_rows(path)


def test_a_zip_archive_with_a_password_is_never_opened(tmp_path) -> None:
    path = tmp_path / "locked.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", GOOD)
    content = bytearray(path.read_bytes())
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):  # set the bit that says: encrypted
        at = content.index(mark) + (6 if mark == b"PK\x03\x04" else 8)
        content[at] |= 1
    path.write_bytes(bytes(content))
    for asked in (path, path / "a.jsonl"):
        with pytest.raises(SpecError, match=r"locked with a password and is not opened here.*unzip -P PASSWORD"):
            read_raw_rows(asked)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


TAGS = st.dictionaries(st.sampled_from(["category", "id"]), TEXT)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TAGS), min_size=1, max_size=5))
def test_what_is_written_is_read_back(rows) -> None:
    import tempfile

    conversations = [
        Conversation((Message("user", prompt), Message("assistant", answer)), number, tags)
        for number, (prompt, answer, tags) in enumerate(rows, start=1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_conversations(path, conversations)
        assert read_conversations(path) == conversations
