"""Which tokens of a turn carry a loss: thoughts, channels, closing tokens, dates, and what a template leaves out."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from chat_models import MARKED, QWEN, make_tokenizer
from narrowly.data.conversations import DataWarning
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import prompt_ids, render, render_all
from narrowly.data.rendering.template import thinking_switch, variables
from narrowly.data.rows import IGNORE
from narrowly.records.errors import SpecError

THOUGHT = "<think>\n2+2 makes 4.\n</think>\n\n4"

# what a template of the given kind writes for a turn of the assistant, and as generation prompt
PLAIN = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' %}{{- TURN }}{% else %}{{- m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + PROMPT }}{% endif %}"""


def template(turn: str = "m.content + '<|im_end|>\\n'", prompt: str = "''") -> str:
    """Return a template that writes a turn of the assistant and its generation prompt as said."""
    return PLAIN.replace("TURN", turn).replace("PROMPT", prompt)


CUTS_THOUGHTS = template("m.content.split('</think>')[-1] + '<|im_end|>\\n'")
WANTS_BOTH_TAGS = QWEN.replace("if '</think>' in said", "if '<think>' in said and '</think>' in said")
OPENS_A_THOUGHT = QWEN.replace("{%- if enable_thinking is", "{{- '' if enable_thinking is false else '<think>\\n' }}"
                               "{%- if enable_thinking is")  # fmt: skip
TAGS_ARE_TEXT = template("m.content + '<|im_end|>\\n'", "'<think>\\n'")
OWN_FIELD = template("'<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' + m.content + '<|im_end|>\\n'")
CHANNELS = """{{- 'Today: ' + strftime_now('%Y-%m-%d') }}
{%- for m in messages %}
    {%- if m.role != 'assistant' %}{{- '<|im_start|>' + m.role + '<|end_header_id|>' + m.content + '<|im_end|>' }}
    {%- else %}
        {%- if m.thinking and loop.last %}{{- '<|im_start|>assistant<s>analysis<|end_header_id|>' + m.thinking + '<|im_end|>' }}{% endif %}
        {{- '<|im_start|>assistant<s>final<|end_header_id|>' + m.content }}
        {{- '</s>' if loop.last and not add_generation_prompt else '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"""  # noqa: E501


def row_of(*texts: str, line: int = 1) -> Conversation:
    """Return a conversation of user and assistant in turns."""
    roles = [Message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]
    return Conversation(tuple(roles), line, {})


def trained(chat_template: str, conversation: Conversation, thinking: bool | None = None, **choices: Any) -> str:
    """Return the text that carries a loss, once its tokens are known to stand behind the prompt."""
    tokenizer = make_tokenizer(chat_template)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        row = render(tokenizer, conversation, thinking=thinking, **choices)
    last = max(index for index, message in enumerate(conversation.messages) if message.role == "assistant")
    prompt = prompt_ids(tokenizer, conversation.messages[:last], thinking=thinking, tools=conversation.tools)
    if len(conversation.messages) == 2:
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels == [IGNORE] * len(prompt) + row.input_ids[len(prompt) :]
    return str(tokenizer.decode([label for label in row.labels if label != IGNORE]))


@pytest.mark.parametrize(
    ("chat_template", "thinking", "answer", "wanted"),
    [
        (QWEN, True, THOUGHT, THOUGHT),
        (template(), None, THOUGHT, THOUGHT),
        (template(), None, "a\n</think>\n\nb", "a\n</think>\n\nb"),
        (template(), None, "<think>a</think> b <think>c</think> d", "<think>a</think> b <think>c</think> d"),
        (template(), None, "The tag </think> closes it.", "The tag </think> closes it."),
        (QWEN, True, "a\n</think>\n\nb", "<think>\na\n</think>\n\nb"),
        (QWEN, True, "<think>a</think>b", "<think>\na\n</think>\n\nb"),
        (QWEN, True, "Write <think> first", "<think>\n\n</think>\n\nWrite <think> first"),
        (QWEN, False, "<think>\n\n</think>\n\nb", "b"),
        (OPENS_A_THOUGHT, True, THOUGHT, "2+2 makes 4.\n</think>\n\n4"),
        (OPENS_A_THOUGHT, True, "2+2 makes 4.\n</think>\n\n4", "2+2 makes 4.\n</think>\n\n4"),
        (OPENS_A_THOUGHT, False, "4", "4"),
        (TAGS_ARE_TEXT, None, THOUGHT, "2+2 makes 4.\n</think>\n\n4"),
    ],
)
def test_a_turn_is_trained_from_its_prompt_to_its_closing_token(chat_template, thinking, answer, wanted) -> None:
    assert trained(chat_template, row_of("2+2?", answer), thinking) == wanted + "<|im_end|>"


@pytest.mark.parametrize(
    ("chat_template", "thinking", "answer", "reason"),
    [
        (CUTS_THOUGHTS, None, THOUGHT, r"leaves out or changes '2\+2 makes 4.' of the assistant's turn"),
        (WANTS_BOTH_TAGS, True, "a\n</think>\n\nb", "writes a thought of its own in front of the one"),
        (QWEN, True, "<think>a</think> b <think>c</think> d", "leaves out or changes 'b' of the assistant's turn"),
        (QWEN, True, "The tag </think> closes it.", "takes </think> for the end of a thought"),
        (QWEN, False, THOUGHT, "holds a thinking block, but thinking is false"),
        (OPENS_A_THOUGHT, True, "4", "opens a thought .* and the answer has none; accepted: a thought in each answer"),
        (TAGS_ARE_TEXT, None, "4", "opens a thought .* and the answer has none"),
        (
            TAGS_ARE_TEXT,
            None,
            "<think>a</think>b",
            "begins the turn's thought in another way",
        ),
        (OWN_FIELD, None, THOUGHT, "writes a thought of its own .* or in the field reasoning_content"),
        (template("m.content[:-3] + '<|im_end|>'"), None, "a long answer", "changes 'wer' of the assistant's turn"),
        (template("m.content + m.content + '<|im_end|>'"), None, "Yes", "writes 'Yes' of the assistant's turn twice"),
    ],
)
def test_a_turn_that_is_not_rendered_whole_is_refused_with_what_is_missing(
    chat_template, thinking, answer, reason
) -> None:
    with pytest.raises(SpecError, match=f"line 7: .*{reason}"):
        trained(chat_template, row_of("2+2?", answer, line=7), thinking)


def test_a_message_whose_words_stand_elsewhere_counts_as_left_out_all_the_same() -> None:
    dropped = template().replace("m.content + '<|im_end|>\\n' }}{% endif", "'<|im_end|>\\n' }}{% endif")
    with pytest.raises(SpecError, match="leaves out or changes the user message 'ass'"):
        trained(dropped, row_of("ass", "It says ass."))


ALWAYS_BEGINS_THE_NEXT = "{% for m in messages %}{{ m.content + '<|im_end|><|im_start|><s>' }}{% endfor %}"


@pytest.mark.parametrize(
    ("chat_template", "wanted"),
    [
        (template("m.content + '<|im_end|></s>'"), "Yes<|im_end|></s>"),
        (template("m.content + ' </s>'"), "Yes </s>"),
        (MARKED, "Yes<|im_end|>"),
        (ALWAYS_BEGINS_THE_NEXT, "Yes<|im_end|>"),
    ],
)
def test_all_tokens_that_close_a_turn_carry_a_loss(chat_template: str, wanted: str) -> None:
    assert trained(chat_template, row_of("Is it?", "Yes")) == wanted
    thought = "<think>\nIt is.\n</think>\n\n"
    assert trained(chat_template, row_of("Is it?", thought + "Yes")) == thought + wanted


def test_an_end_of_turn_token_need_not_be_special_but_no_text_may_hold_it() -> None:
    tokenizer = make_tokenizer(template("m.content + '<end>\\n'"))
    with pytest.raises(SpecError, match="closes the assistant's turn with no token of its own"):
        render(tokenizer, row_of("Is it?", "Yes"))
    tokenizer.add_tokens(["<end>"])
    row = render(tokenizer, row_of("Is it?", "Yes"))
    assert tokenizer.decode([label for label in row.labels if label != IGNORE]) == "Yes<end>"
    assert row.labels[-1] == tokenizer.convert_tokens_to_ids("<end>")
    with pytest.raises(SpecError, match="user's text holds the special token '<end>'"):
        render(tokenizer, row_of("Write <end>", "Yes"))


def test_added_tokens_that_are_blanks_or_words_of_a_text_close_nothing_and_are_accepted() -> None:
    tokenizer = make_tokenizer(template())
    tokenizer.add_tokens(["\n", "\n\n", "<table>"])  # as Gemma 3 has them, not special
    row = render(tokenizer, row_of("A <table>?\n\nYes.", "One\n\n<table>"))
    assert tokenizer.decode([label for label in row.labels if label != IGNORE]) == "One\n\n<table><|im_end|>"


def test_a_turn_that_only_the_next_turn_closes_is_refused_with_that_token() -> None:
    open_ended = (
        "{%- for m in messages %}{{- ('<|im_start|>' if m.role == 'user' else '<s>') + m.content }}{%- endfor %}"
    )
    with pytest.raises(SpecError, match=r"in use it stops where the next turn's '<\|im_start\|>' stands"):
        trained(open_ended + "{%- if add_generation_prompt %}{{ '<s>' }}{% endif %}", row_of("Is it?", "Yes"))


def test_a_channel_that_the_model_names_itself_carries_a_loss_under_a_fixed_date() -> None:
    assert trained(CHANNELS, row_of("2+2?", "4")) == "<s>final<|end_header_id|>4</s>"
    tokenizer = make_tokenizer(CHANNELS)
    assert "Today: 2024-07-26<|im_start|>" in tokenizer.decode(render(tokenizer, row_of("2+2?", "4")).input_ids)
    with pytest.raises(SpecError, match="rewrites earlier turns"):
        trained(CHANNELS, row_of("2+2?", "4", "3+3?", "6"))
    assert trained(CHANNELS, row_of("2+2?", "4", "3+3?", "6"), turns="last") == "<s>final<|end_header_id|>6</s>"


def with_thought(field: str, thought: str, answer: str) -> Conversation:
    extra = json.dumps({field: thought})
    return Conversation((Message("user", "2+2?"), Message("assistant", answer, extra)), 1, {})


def test_a_thought_in_its_own_field_is_given_to_the_template() -> None:
    thought = "It is even.\n\nSo 4."
    wanted = f"<think>\n{thought}\n</think>\n\n4<|im_end|>"
    assert trained(OWN_FIELD, with_thought("reasoning_content", thought, "4")) == wanted
    channels = "<s>analysis<|end_header_id|>So 4.<|im_end|><|im_start|>assistant<s>final<|end_header_id|>4</s>"
    assert trained(CHANNELS, with_thought("thinking", "So 4.", "4")) == channels
    # transformers gives a thought under all three names
    assert trained(CHANNELS, with_thought("reasoning_content", "So 4.", "4")) == channels
    with pytest.raises(SpecError, match=r"leaves out or changes 'So 4\.' of the field reasoning_content"):
        trained(template(), with_thought("reasoning_content", "So 4.", "4"))


def test_of_two_thoughts_in_two_fields_none_may_be_lost() -> None:
    both = json.dumps({"reasoning_content": "So 4.", "thinking": "So 4."})
    row = Conversation((Message("user", "2+2?"), Message("assistant", "4", both)), 1, {})
    assert trained(OWN_FIELD, row) == "<think>\nSo 4.\n</think>\n\n4<|im_end|>"
    other = both.replace('"thinking": "So 4."', '"thinking": "Or 5?"')
    row = Conversation((Message("user", "2+2?"), Message("assistant", "4", other)), 1, {})
    with pytest.raises(SpecError, match=r"leaves out or changes 'Or 5\?' of the field thinking"):
        trained(OWN_FIELD, row)


def test_texts_that_look_like_the_marks_are_texts_like_others() -> None:
    odd = "qZ0z qz1z qZqZ0z"
    assert trained(template(), row_of(odd, odd + " 4")) == odd + " 4<|im_end|>"


def test_earlier_thoughts_may_go_as_they_do_in_use_but_nothing_else() -> None:
    dialogue = row_of("2+2?", THOUGHT, "3+3?", "6")
    assert trained(QWEN, dialogue, True, turns="last") == "<think>\n\n</think>\n\n6<|im_end|>"
    with pytest.raises(SpecError, match="leaves out or changes the assistant message 'b'"):
        trained(QWEN, row_of("2+2?", "<think>a</think> b <think>c</think> d", "3+3?", "6"), True, turns="last")


@pytest.mark.parametrize(
    ("texts", "notes"),
    [
        (("f?", "    return salt\n"), ["cuts blanks at the edges of an answer in 1 of 2 rows (first: line 3)"]),
        (("f?\n", "salt"), ["cuts blanks at the edges of a message without a loss in 1 of 2 rows (first: line 3)"]),
        (("f?", "salt"), []),
    ],
)
def test_a_template_that_trims_texts_is_noted_with_count_and_first_line(texts, notes) -> None:
    tokenizer = make_tokenizer(
        template("m.content | trim + '<|im_end|>'").replace("{{- m.content +", "{{- m.content | trim +")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = [row_of("g?", "sand", line=2), row_of(*texts, line=3)]
        render_all(tokenizer, rows, thinking=None, max_tokens=None, source="rows.jsonl")
    assert [str(warning.message) for warning in caught] == [f"rows.jsonl: the chat template {note}" for note in notes]


def test_answers_without_a_thought_in_thinking_mode_are_noted() -> None:
    with pytest.warns(DataWarning, match=r"the thinking mode is on .* in 1 of 2 rows"):
        rows = [row_of("2+2?", THOUGHT), row_of("3+3?", "6")]
        render_all(make_tokenizer(QWEN), rows, thinking=True, max_tokens=None)


def test_only_a_variable_from_outside_switches_a_thinking_mode() -> None:
    own = "{% for m in messages %}{% if m.content %}{% set thinking = m.thought %}{{ thinking }}{% endif %}{% endfor %}"
    assert thinking_switch(own) is None
    assert thinking_switch("{% set thinking = thinking if thinking is defined else true %}") == "thinking"
    assert (
        thinking_switch("{% macro x(thinking) %}{{ thinking }}{% endmacro %}{{ enable_thinking }}") == "enable_thinking"
    )
    assert variables("{% if a %}{% set b = 1 %}{% else %}{{ b }}{% endif %}{{ b }}") == {"a", "b"}


@pytest.mark.parametrize("fault", ["1 / 0", "range(10 ** 9) | list", "messages[0].content.nothing()", "'a' * none"])
def test_a_template_that_fails_is_a_refusal_of_the_row(fault: str) -> None:
    with pytest.raises(SpecError, match=r"data, line 1: the chat template (fails on|refuses) it: .*; accepted: "):
        trained("{{ " + fault + " }}" + template(), row_of("a", "b"))


def test_an_empty_thought_that_the_answer_itself_holds_is_not_the_template_s() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render(make_tokenizer(template()), row_of("a", "<think>\n\n</think>\n\nb"))


def test_a_template_of_its_own_for_tools_is_not_passed_over() -> None:
    tokenizer = make_tokenizer({"default": template(), "tool_use": template()})  # type: ignore[arg-type]
    render(tokenizer, row_of("a", "b"))
    tools = json.dumps([{"type": "function", "function": {"name": "clock"}}])
    with pytest.raises(SpecError, match=r"a template of its own \(tool_use\).*data\.template"):
        render(tokenizer, row_of("a", "b")._replace(tools=tools))
    with pytest.raises(SpecError, match="tool_use"):
        prompt_ids(tokenizer, [Message("user", "a")], tools=tools)
