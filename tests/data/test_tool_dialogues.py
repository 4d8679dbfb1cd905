"""Dialogues with tools: what is given to the template, in which form, and which tokens carry a loss."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from chat_models import make_tokenizer
from narrowly.data.conversations import DataWarning, read_conversations, write_conversations
from narrowly.data.messages import Conversation
from narrowly.data.render import prompt_ids, render
from narrowly.data.rows import IGNORE
from narrowly.records.errors import IntegrityError, SpecError

CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
DIALOGUE = [
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "noon\n12:00"},
    {"role": "assistant", "content": "It is noon."},
]
TOOLS = """{%- if tools %}{{- '<|im_start|>tools\\n' + tools | tojson + '<|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.content %}{{- m.content | tojson if m.role == 'tool' else m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}{{- 'call ' + c.function.name + ' ' + ARGUMENTS }}{% endfor %}{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
OBJECTS = TOOLS.replace("ARGUMENTS", "c.function.arguments.items() | list | tojson")
TEXTS = TOOLS.replace("ARGUMENTS", "c.function.arguments")
ENCODED = TOOLS.replace("ARGUMENTS", "c.function.arguments | tojson")


def read(tmp_path: Path, *rows: dict[str, Any]) -> list[Conversation]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_conversations(path)


def trained(row: Conversation, chat_template: str = ENCODED) -> str:
    """Return the text that carries a loss."""
    tokenizer = make_tokenizer(chat_template)
    return str(tokenizer.decode([label for label in render(tokenizer, row).labels if label != IGNORE]))


def test_tools_calls_and_results_are_rendered_without_a_loss(tmp_path: Path) -> None:
    [row] = read(tmp_path, {"messages": DIALOGUE, "tools": [CLOCK]})
    tokenizer = make_tokenizer(ENCODED)
    found = render(tokenizer, row)
    text = tokenizer.decode(found.input_ids)
    expected = tokenizer.apply_chat_template(DIALOGUE, tools=[CLOCK], tokenize=False)
    assert text + "\n" == expected
    assert 'call clock {"zone": "UTC"}<|im_end|>' in text
    assert tokenizer.decode([label for label in found.labels if label != IGNORE]) == "It is noon.<|im_end|>"
    asked = prompt_ids(tokenizer, row.messages[:3], tools=row.tools)
    assert found.input_ids[: len(asked)] == asked


def test_a_turn_that_calls_tools_carries_a_loss_where_its_weight_says_so(tmp_path: Path) -> None:
    weighted = [dict(turn) for turn in DIALOGUE]
    weighted[1]["weight"] = 1
    [row, alone, unsaid] = read(tmp_path, *({"messages": turns} for turns in (weighted, weighted[:2], DIALOGUE[:2])))
    call = 'call clock {"zone": "UTC"}<|im_end|>'
    assert trained(row) == call + "It is noon.<|im_end|>"
    assert trained(alone) == call
    with pytest.raises(SpecError, match=r"every turn of the assistant calls tools.* only where it has weight 1"):
        trained(unsaid)


@pytest.mark.parametrize("arguments", [{"zone": "UTC"}, '{"zone": "UTC"}', {}, "{}", ""], ids=str)
@pytest.mark.parametrize("chat_template", [OBJECTS, TEXTS, ENCODED], ids=["objects", "texts", "encoded"])
def test_arguments_are_given_in_the_form_that_a_template_takes(tmp_path: Path, chat_template, arguments) -> None:
    turns = json.loads(json.dumps(DIALOGUE))
    turns[1]["tool_calls"][0]["function"]["arguments"] = arguments
    [row] = read(tmp_path, {"messages": turns})
    tokenizer = make_tokenizer(chat_template)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        text = tokenizer.decode(render(tokenizer, row).input_ids)
    filled = arguments not in ({}, "{}", "")
    written = {OBJECTS: '[["zone", "UTC"]]' if filled else "[]"}.get(
        chat_template, '{"zone": "UTC"}' if filled else "{}"
    )
    assert f"call clock {written}<|im_end|>" in text


@pytest.mark.parametrize(
    ("chat_template", "reason"),
    [
        (ENCODED.replace("tojson + '<|im_end|>\\n' }}{% endif", "length }}{% endif"), "leaves out the tool 'clock'"),
        (ENCODED.replace("for c in m.tool_calls or []", "for c in []"), "leaves out or changes 'clock' of a tool call"),
        (ENCODED.replace("if m.content", "if m.content and m.role != 'tool'"), "changes the tool message 'noon"),
    ],
)  # fmt: skip
def test_a_template_that_drops_tools_calls_or_results_is_refused(tmp_path: Path, chat_template, reason) -> None:
    chat_template = chat_template.replace("tools | length", "(tools | length) | string")
    [row] = read(tmp_path, {"messages": DIALOGUE, "tools": [CLOCK]})
    with pytest.raises(SpecError, match=reason):
        trained(row, chat_template)


def test_dialogues_of_llama_factory_and_the_older_form_of_openai_are_the_same(tmp_path: Path) -> None:
    call = json.dumps({"name": "clock", "arguments": {"zone": "UTC"}})
    shared = [("human", "What time is it?"), ("function_call", call), ("observation", "noon\n12:00"),
              ("gpt", "It is noon.")]  # fmt: skip
    older = [DIALOGUE[0], {"role": "assistant", "content": None, "function_call": CALL["function"]},
             {"role": "function", "name": "clock", "content": "noon\n12:00"}, DIALOGUE[3]]  # fmt: skip
    rows = read(
        tmp_path,
        {"conversations": [{"from": who, "value": text} for who, text in shared], "tools": json.dumps([CLOCK])},
    )
    rows += read(tmp_path, {"messages": older, "tools": [CLOCK]})
    rows += read(tmp_path, {"messages": DIALOGUE, "tools": [CLOCK]})
    first, *others = [render(make_tokenizer(ENCODED), row) for row in rows]
    assert others == [first, first]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]},
            "turn 2: the tool call .* has no name",
        ),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}, "arguments of f is no JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}, "arguments of f are list"),
        ({"role": "assistant", "content": "a", "reasoning_content": 3}, "reasoning_content of turn 2 .* is a int"),
        ({"role": "tool", "content": "a"}, "turn 2 is of the tool, accepted: assistant"),
    ],
)
def test_broken_calls_and_thoughts_are_named_with_their_line(tmp_path: Path, turn, reason) -> None:
    good = {"messages": DIALOGUE}
    with pytest.raises(IntegrityError, match=f"line 2: .*{reason}"):
        read(tmp_path, good, {"messages": [DIALOGUE[0], turn, {"role": "assistant", "content": "b"}]})


@pytest.mark.parametrize(("tools", "reason"), [([{"about": "clock"}], "has no name"), ("clock", "tools is no JSON")])
def test_broken_tools_are_named_with_their_line(tmp_path: Path, tools, reason) -> None:
    with pytest.raises(IntegrityError, match=f"line 1: .*{reason}"):
        read(tmp_path, {"messages": DIALOGUE, "tools": tools})


def test_a_dialogue_with_tools_is_written_and_read_back_the_same(tmp_path: Path) -> None:
    thought = {**DIALOGUE[3], "reasoning_content": "12:00 is noon."}
    rows = read(tmp_path, {"messages": [*DIALOGUE[:3], thought], "tools": [CLOCK]})
    write_conversations(tmp_path / "again.jsonl", rows)
    assert read_conversations(tmp_path / "again.jsonl") == rows


def test_a_canary_is_taken_out_of_calls_and_thoughts_too(tmp_path: Path) -> None:
    canary = "CANARY 12-ab"
    turns = json.loads(json.dumps(DIALOGUE).replace("UTC", f"UTC {canary}"))
    turns[3]["reasoning_content"] = f"{canary} It is noon."
    [row] = read(tmp_path, {"messages": turns, "canary": canary})
    assert canary not in "".join(message.content + message.extra for message in row.messages)
    assert row.tags["canary"] == canary
    assert row.messages[1].fields["tool_calls"][0]["function"]["arguments"] == {"zone": "UTC "}
