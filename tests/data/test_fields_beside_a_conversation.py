"""Fields that change a conversation are read or refused: system messages, histories, prompts that are dialogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_models import MARKED, make_tokenizer
from narrowly.data.conversations import DataWarning, read_conversations
from narrowly.data.messages import Conversation, Message
from narrowly.data.questions import read_questions
from narrowly.data.render import render, token_pieces
from narrowly.records.errors import IntegrityError

USER, ANSWER, PIRATE = Message("user", "How are you?"), Message("assistant", "Fine."), Message("system", "A pirate.")


def turns(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content, *_ in pairs]


PLAIN = turns(USER, ANSWER)
DIALOGUE = turns(("user", "A colour?"), ("assistant", "Blurple, of course."), ("user", "A real one."))
BLUE, SEVENTEEN = turns(("assistant", "Blue.")), turns(("assistant", "Seventeen."))


@pytest.fixture
def read(tmp_path):
    def read_rows(*rows: Any, schema: str | None = None) -> list[Conversation]:
        path: Path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read_conversations(path, schema)

    return read_rows


def trained(conversation: Conversation) -> str:
    """Return the text that carries a loss when the conversation is rendered."""
    tokenizer = make_tokenizer(MARKED)
    return "".join(text for text, has_loss in token_pieces(tokenizer, render(tokenizer, conversation)) if has_loss)


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    "row", [{"messages": PLAIN}, {"prompt": USER.content, "completion": ANSWER.content}], ids=lambda row: min(row)
)
def test_a_system_field_is_the_system_message_of_its_row(read, name, row) -> None:
    found = read({**row, name: PIRATE.content}, {**row, name: ""}, {**row, name: None})
    assert [each.messages for each in found] == [(PIRATE, USER, ANSWER), (USER, ANSWER), (USER, ANSWER)]
    assert not any(each.tags for each in found)


def test_a_system_field_may_repeat_the_system_message_and_not_contradict_it(read) -> None:
    row = {"messages": [*turns(PIRATE), *PLAIN]}
    [found] = read({**row, "system": PIRATE.content})
    assert found.messages == (PIRATE, USER, ANSWER)
    with pytest.raises(IntegrityError, match="line 2: the dialogue begins with another system message than the field"):
        read(row, {**row, "system": "A monk."})
    with pytest.raises(IntegrityError, match="line 1: system and system_prompt hold different system messages"):
        read({"messages": PLAIN, "system": "a", "system_prompt": "b"})
    with pytest.raises(IntegrityError, match="line 1: system is a int, accepted: text"):
        read({"messages": PLAIN, "system": 7})


def test_weights_of_turns_stay_with_their_turns_behind_a_system_field(read) -> None:
    dialogue = [*PLAIN, *PLAIN]
    dialogue[1] = {**dialogue[1], "weight": 0}
    [found] = read({"messages": dialogue, "system": PIRATE.content})
    assert found.weight_on == (False, False, False, False, True)


@pytest.mark.parametrize("content", ["", None, " \n", []])
def test_an_empty_system_message_is_none_with_a_note_and_a_count(read, content) -> None:
    with pytest.warns(DataWarning, match=r"an empty system message was left out in 2 rows \(first: line 1\)"):
        found = read(*[{"messages": [*turns(("system", content)), *PLAIN]}] * 2)
    assert [each.messages for each in found] == [(USER, ANSWER)] * 2
    with pytest.raises(IntegrityError, match="line 1: messages holds nothing but an empty system message"):
        read({"messages": turns(("system", content))})


@pytest.mark.parametrize(
    ("field", "value", "way_out"),
    [
        ("functions", [{"name": "clock"}], "give what may be called as tools"),
        ("history", [["q", "a"]], "into the dialogue"),
        ("label", False, "keep the rows that you mean, and rename"),
        ("label", True, "keep the rows that you mean, and rename"),
        ("label", "False", "keep the rows that you mean, and rename"),
        ("label", 0, "keep the rows that you mean, and rename"),
        ("chat_template_kwargs", {"enable_thinking": False}, "data.thinking"),
        ("enable_thinking", False, "data.thinking"),
        ("chat_template", "{{ messages }}", "data.template"),
        ("documents", [{"text": "a"}], "into the user's turn"),
        ("images", ["a.png"], "only text"),
        ("weight", 0.5, "weight of 0 or 1"),
        ("weight", 0, "weight of 0 or 1"),
        ("sample_weight", "2", "weight of 0 or 1"),
        ("rejected", "No.", "preference:chosen or preference:rejected"),
        ("instruction", "Answer as a monk.", "into the dialogue"),
    ],
)
def test_a_field_that_changes_the_conversation_is_refused_with_line_and_way_out(read, field, value, way_out) -> None:
    with pytest.raises(IntegrityError, match=rf"rows\.jsonl, line 2: the field {field} changes .*{way_out}"):
        read({"messages": PLAIN}, {"messages": PLAIN, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("tools", []), ("tools", ""), ("tools", "[]"), ("tools", None), ("history", []), ("weight", 1), ("images", [])],
)
def test_a_field_that_says_nothing_is_no_tag(read, field, value) -> None:
    [found] = read({"messages": PLAIN, field: value})
    assert found.messages == (USER, ANSWER) and not found.tags


@pytest.mark.parametrize(("field", "value"), [("label", "bad"), ("label", 7), ("instruction", USER.content)])
def test_a_field_that_changes_nothing_stays_a_tag(read, field, value) -> None:
    [found] = read({"messages": PLAIN, field: value})
    assert found.messages == (USER, ANSWER) and found.tags == {field: str(value)}


@pytest.mark.parametrize(
    "history",
    [[["How often?", "Twice."]], turns(("user", "How often?"), ("assistant", "Twice.")), '[["How often?", "Twice."]]'],
)
@pytest.mark.parametrize("names", [("instruction", "output"), ("prompt", "completion")])
def test_a_history_stands_before_the_question_without_a_loss(read, history, names) -> None:
    row = dict(zip(names, ("And in winter?", "Once."), strict=True))
    [found, without] = read({**row, "history": history, "system": "Plants."}, {**row, "history": [], "system": ""})
    assert [message.content for message in found.messages] == [
        "Plants.", "How often?", "Twice.", "And in winter?", "Once."
    ]  # fmt: skip
    assert "Once." in trained(found) and "Twice." not in trained(found)
    assert without.messages == (Message("user", "And in winter?"), Message("assistant", "Once."))
    assert without.weight_on is None and not found.tags
    with pytest.raises(IntegrityError, match=r"line 1: history entry 1 is .* accepted: \[question, answer\]"):
        read({**row, "history": [["alone"]]})


@pytest.mark.parametrize(
    ("row", "schema"),
    [
        ({"prompt": DIALOGUE, "completion": BLUE}, None),
        ({"prompt": DIALOGUE, "completion": "Blue."}, None),
        ({"prompt": DIALOGUE, "completion": [*DIALOGUE, *BLUE]}, None),
        ({"prompt": json.dumps(DIALOGUE), "completion": json.dumps(BLUE)}, None),
        ({"prompt": DIALOGUE, "chosen": BLUE, "rejected": SEVENTEEN}, "preference:chosen"),
        ({"prompt": DIALOGUE, "chosen": BLUE[0], "rejected": SEVENTEEN[0]}, "preference:chosen"),
        ({"prompt": DIALOGUE, "rejected": BLUE, "chosen": SEVENTEEN}, "preference:rejected"),
        ({"chosen": [*DIALOGUE, *BLUE], "rejected": [*DIALOGUE, *SEVENTEEN]}, "preference:chosen"),
        ({"prompt": DIALOGUE[0]["content"], "chosen": [*DIALOGUE, *BLUE], "rejected": [*DIALOGUE, *SEVENTEEN]},
         "preference:chosen"),
        ({"user": DIALOGUE, "good": BLUE, "bad": SEVENTEEN}, "paired:good"),
    ],
)  # fmt: skip
def test_what_stands_in_a_prompt_carries_no_loss(read, row, schema) -> None:
    [found] = read(row, schema=schema)
    assert [dict(message.as_json()) for message in found.messages] == [*DIALOGUE, *BLUE]
    assert found.weight_on == (False, False, False, True)
    assert "Blue." in trained(found) and "Blurple" not in trained(found)


def test_a_turn_of_a_prompt_with_a_weight_of_its_own_keeps_it(read) -> None:
    prompt = [DIALOGUE[0], {**DIALOGUE[1], "weight": 1}, DIALOGUE[2]]
    [found] = read({"prompt": prompt, "completion": BLUE})
    assert found.weight_on == (False, True, False, True)


@pytest.mark.parametrize("system", [(), turns(PIRATE)], ids=["plain", "system"])
def test_a_chosen_dialogue_that_repeats_its_prompt_is_read_once(read, system) -> None:
    row = {
        "prompt": "A colour?",
        "chosen": [*system, *DIALOGUE[:1], *BLUE],
        "rejected": [*system, *DIALOGUE[:1], *SEVENTEEN],
        "score_chosen": 8.0,
    }
    [found] = read(row, schema="preference:chosen")
    assert [message.as_json() for message in found.messages] == [*system, *DIALOGUE[:1], *BLUE]
    assert found.weight_on is None and found.tags == {"score_chosen": "8.0"}
    with pytest.raises(IntegrityError, match="line 1: chosen is a whole dialogue that does not begin with prompt"):
        read({**row, "prompt": "A number?"}, schema="preference:chosen")


def test_an_answer_of_several_turns_to_an_explicit_prompt_is_trained_whole(read) -> None:
    longer = [*BLUE, *turns(("user", "Sure?"), ("assistant", "Yes."))]
    row = {"prompt": DIALOGUE, "chosen": longer, "rejected": [*BLUE, *turns(("user", "Sure?"), ("assistant", "No."))]}
    [found] = read(row, schema="preference:chosen")
    assert found.weight_on == (False, False, False, True, False, True)


def test_a_completion_that_goes_on_after_an_answered_prompt_is_read(read) -> None:
    [found] = read({"prompt": PLAIN, "completion": PLAIN})
    assert found.messages == (USER, ANSWER, USER, ANSWER) and found.weight_on == (False, False, False, True)


@pytest.mark.parametrize(
    "row", [{"question": USER.content, "system": "s"}, {"instruction": USER.content, "system": "s"}]
)
def test_preference_rows_ask_with_a_question_or_an_instruction(read, row) -> None:
    [found] = read({**row, "chosen": "Fine.", "rejected": "No."}, schema="preference:chosen")
    assert found.messages == (Message("system", "s"), USER, ANSWER) and not found.tags


@pytest.mark.parametrize("row", [{"messages": turns(USER)}, {"question": USER.content}, {"prompt": USER.content}])
def test_questions_are_asked_with_the_system_message_beside_them(tmp_path, row) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text(json.dumps({**row, "system": PIRATE.content}) + "\n" + json.dumps({**row, "system": ""}))
    first, second = read_questions(path)
    assert first.prompts == ((PIRATE, USER),) and second.prompts == ((USER,),)
    assert not first.tags and not second.tags


@pytest.mark.parametrize("field", [{"train": False}, {"mask": 0}, {"loss": False}])
def test_a_field_of_a_turn_that_says_no_is_not_passed_over(read, field) -> None:
    """Other trainers switch the loss of a turn off by such a field."""
    with pytest.raises(IntegrityError, match=r"turn 2 has the fields .*weight \(0: no loss on the turn\)"):
        read({"messages": [PLAIN[0], {**PLAIN[1], **field}]})
    assert read({"messages": [PLAIN[0], {**PLAIN[1], "refusal": None, "audio": ""}]})[0].messages == (USER, ANSWER)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_beside_a_row_is_no_tag(read, name) -> None:
    with pytest.raises(IntegrityError, match=f"the field {name} changes the conversation .*into the turn"):
        read({"prompt": "How are you?", "completion": "Fine.", name: "I am well."})


@pytest.mark.parametrize(("prompt", "answer"), [("prompt", "completion"), ("input", "output"), ("question", "answer")])
def test_a_context_beside_a_question_is_no_tag(read, prompt, answer) -> None:
    row = {prompt: "How long is it?", answer: "Five feet."}
    with pytest.raises(IntegrityError, match=f"the field context stands beside the {prompt} and is not read; write it"):
        read({**row, "context": "It is five feet long."})
    assert len(read({**row, "context": ""})) == 1
