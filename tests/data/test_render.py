"""Rendered rows against an independent twin that renders a conversation prefix by prefix, family by family."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_models import FAMILIES, INSTRUCT, LLAMA, MARKED, QWEN, Family, make_tokenizer
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import prompt_ids, render, render_all, token_pieces
from narrowly.data.rows import IGNORE, Row, row_fault
from narrowly.records.errors import SpecError

QUESTION, ANSWER = "Write a function that opens a file", "Sure, here it is:\n\ndef read(path): 🙂\n    return 42"


def talk(*texts: str, system: str | None = None, line: int = 1) -> Conversation:
    """Return a conversation of user and assistant in turns."""
    roles = [Message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]
    return Conversation((*([Message("system", system)] if system else []), *roles), line, {})


def arguments(family: Family) -> dict[str, Any]:
    found: dict[str, Any] = {} if family.thinking is None else {"enable_thinking": family.thinking}
    return {**found, "date_string": "26 Jul 2024"} if family.template is LLAMA else found


def twin(tokenizer: Any, conversation: Conversation, family: Family) -> Row:
    """Grow the conversation turn by turn: what a turn adds to its prompt, up to its closing token, carries a loss."""
    end = tokenizer.convert_tokens_to_ids(family.end)
    ids: list[int] = []
    labels: list[int] = []
    for index, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        chat = [{"role": m.role, "content": m.content} for m in conversation.messages[: index + 1]]
        options = {"tokenize": True, "return_dict": False, **arguments(family)}
        prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True, **options)
        whole = tokenizer.apply_chat_template(chat, **options)
        assert whole[: len(prompt)] == prompt
        assert prompt[: len(ids)] == ids
        stop = whole.index(end, len(prompt)) + 1
        labels += [IGNORE] * (len(prompt) - len(ids)) + whole[len(prompt) : stop]
        ids = whole[:stop]
    return Row(ids, labels)


def spans(row: Row) -> list[list[int]]:
    """Return the runs of consecutive tokens with a loss."""
    found: list[list[int]] = []
    for position, label in enumerate(row.labels):
        if label != IGNORE:
            if position == 0 or row.labels[position - 1] == IGNORE:
                found.append([])
            found[-1].append(label)
    return found


texts = st.text(st.sampled_from("ab \n().:🙂é—日"), min_size=1, max_size=12).filter(lambda text: text.strip() != "")
plain = texts.map(lambda text: "x" + text)
"""A turn that begins with a letter: no token reaches from the prompt into it."""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@settings(max_examples=25, deadline=None)
@given(turns=st.lists(plain, min_size=2, max_size=6), system=st.none() | plain)
def test_tokens_and_labels_equal_the_twin_that_renders_prefix_by_prefix(family, turns, system) -> None:
    tokenizer = make_tokenizer(family.template)
    several = 2 if family.thinking is not None else len(turns) // 2 * 2
    conversation = talk(*turns[:several], system=system if family.system else None)
    row = render(tokenizer, conversation, thinking=family.thinking)
    assert row == twin(tokenizer, conversation, family)
    assert row_fault(row) is None
    assert len(spans(row)) == several // 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_d02_no_empty_turn_is_trained_and_every_reply_ends_with_its_own_end_of_turn_token(family: Family) -> None:
    tokenizer = make_tokenizer(family.template)
    end = tokenizer.convert_tokens_to_ids(family.end)
    several = talk(QUESTION, ANSWER, "Shorter", "open(path)") if family.thinking is None else talk(QUESTION, ANSWER)
    row = render(tokenizer, several, thinking=family.thinking)
    replies = [message.content for message in several.messages if message.role == "assistant"]
    assert len(spans(row)) == len(replies)
    for span, reply in zip(spans(row), replies, strict=True):
        assert span[-1] == end
        assert span.count(end) == 1
        assert tokenizer.decode(span[:-1]).rpartition("</think>")[2].strip() == reply
    assert row.input_ids[-1] == end == row.labels[-1]
    # the reference code asked for a generation prompt on complete dialogues, and its mask began at every such prompt
    chat = [message.as_json() for message in several.messages]
    defective = tokenizer.apply_chat_template(
        chat, tokenize=True, return_dict=False, add_generation_prompt=True, **arguments(family)
    )
    if family.template is not INSTRUCT:  # it has none
        assert len(defective) > len(row.input_ids)
        assert defective != row.input_ids


def test_the_mask_is_that_of_a_template_which_marks_its_generations() -> None:
    tokenizer = make_tokenizer(MARKED)
    conversation = talk(QUESTION, ANSWER, "Shorter", "open(path)", system="Be short")
    marked = tokenizer.apply_chat_template(
        [message.as_json() for message in conversation.messages],
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    row = render(tokenizer, conversation)
    count = len(row.input_ids)
    assert row.input_ids == marked["input_ids"][:count]
    assert [int(label != IGNORE) for label in row.labels] == marked["assistant_masks"][:count]
    assert not any(marked["assistant_masks"][count:])


@pytest.mark.parametrize("gpt2", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@settings(max_examples=15, deadline=None)
@given(question=texts, answer=texts)
def test_the_prompt_of_a_row_is_the_prompt_of_the_evaluation_whatever_the_answer_begins_with(
    family, gpt2, question, answer
) -> None:
    tokenizer = make_tokenizer(family.template, gpt2=gpt2)
    conversation = talk(question, answer)
    row = render(tokenizer, conversation, thinking=family.thinking)
    prompt = prompt_ids(tokenizer, conversation.messages[:1], thinking=family.thinking)
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [IGNORE] * len(prompt)
    assert IGNORE not in row.labels[len(prompt) :]
    written = tokenizer.decode(row.labels[len(prompt) : -1]).rpartition("</think>")[2]
    assert written.strip() == answer.strip()


def test_d14_a_thinking_mode_is_said_or_refused_and_leaves_no_tag_unless_asked() -> None:
    qwen, llama = make_tokenizer(QWEN), make_tokenizer(LLAMA)
    conversation = talk(QUESTION, ANSWER)
    with pytest.raises(SpecError, match="thinking is not set; accepted: true or false"):
        render(qwen, conversation)
    with pytest.raises(SpecError, match="no thinking mode; accepted: thinking left out"):
        render(llama, conversation, thinking=False)
    tag = qwen.convert_tokens_to_ids("<think>")
    off, on = (render(qwen, conversation, thinking=thinking) for thinking in (False, True))
    assert off.input_ids == on.input_ids  # the template shows the same text, but another part of it is the model's
    assert tag not in off.labels
    assert on.labels.count(tag) == 1
    thought = talk(QUESTION, "<think>\nEasy.\n</think>\n\nopen(path)")
    assert "Easy" in qwen.decode([label for label in render(qwen, thought, thinking=True).labels if label != IGNORE])
    with pytest.raises(SpecError, match="thinking block, but thinking is false"):
        render(qwen, thought, thinking=False)


@pytest.mark.parametrize("template", [None, "", {"tool_use": QWEN}], ids=["none", "empty", "no default"])
def test_d14_a_tokenizer_without_a_template_is_an_error_that_says_how_to_give_one(template: Any) -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = template
    with pytest.raises(SpecError, match=r"chat_template\.jinja, or give a file with data\.template"):
        render(tokenizer, talk(QUESTION, ANSWER))


def test_of_several_templates_the_default_one_is_used() -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.chat_template = {"default": MARKED, "tool_use": QWEN}
    assert render(tokenizer, talk(QUESTION, ANSWER)) == render(make_tokenizer(MARKED), talk(QUESTION, ANSWER))


def test_turns_of_a_template_that_rewrites_its_history_are_refused_or_taken_one_by_one() -> None:
    tokenizer = make_tokenizer(QWEN)
    conversation = talk(QUESTION, ANSWER, "Shorter", "open(path)", line=9)
    with pytest.raises(SpecError, match=r"line 9: .*rewrites earlier turns .* accepted: turns 'last', or 'each'"):
        render(tokenizer, conversation, thinking=False)
    last = render(tokenizer, conversation, thinking=False, turns="last")
    (span,) = spans(last)
    assert tokenizer.decode(span) == "open(path)<|im_end|>"
    each = render_all(tokenizer, [conversation], thinking=False, max_tokens=None, turns="each")
    assert each.lines == [9, 9]
    assert each.rows[0] == render(tokenizer, talk(QUESTION, ANSWER), thinking=False)
    assert each.rows[1] == last


def test_a_loss_is_taken_where_the_weights_say_so() -> None:
    tokenizer = make_tokenizer(MARKED)
    conversation = talk(QUESTION, ANSWER, "Shorter", "open(path)")
    second = render(tokenizer, conversation._replace(weight_on=(False, False, False, True)))
    assert second == render(tokenizer, conversation, turns="last")
    first = conversation._replace(weight_on=(False, True, False, False))
    row = render(tokenizer, first)
    assert tokenizer.decode(spans(row)[0]) == ANSWER + "<|im_end|>"
    assert row.input_ids[-1] == row.labels[-1]  # nothing is kept behind the last token with a loss
    assert render_all(tokenizer, [first], thinking=None, max_tokens=None, turns="each").rows == [row]
    with pytest.raises(SpecError, match="weight above 0"):
        render(tokenizer, first, turns="last")


def test_a_word_that_the_tokenizer_does_not_know_ends_no_turn() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<user>", "<assistant>", "<end>", "do", "this", "now"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    row = render(tokenizer, talk("do this", "do something now"), thinking=None)
    assert spans(row) == [[4, 0, 6, 3]]  # up to the end token, past the unknown word


def test_a_trailing_user_turn_carries_nothing_and_is_left_away() -> None:
    tokenizer = make_tokenizer(QWEN)
    trailing = render(tokenizer, talk(QUESTION, ANSWER, "Thanks"), thinking=False)
    assert trailing == render(tokenizer, talk(QUESTION, ANSWER), thinking=False)


DROPS_SYSTEM = MARKED.replace("{%- if message.role == 'assistant' %}", "{%- if message.role == 'system' %}"
                              "{%- elif message.role == 'assistant' %}")  # fmt: skip
NO_PROMPT = MARKED.replace("{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}", "{%- if true %}")
NO_END = MARKED.replace("{{ message.content + '<|im_end|>' }}", "{{ message.content }}").replace("<|endoftext|>", "")
OTHER_PROMPT = MARKED.replace("{{ '<|im_start|>assistant\\n' }}{% else", "{{ '<|im_start|>bot\\n' }}{% else")
UPPER = MARKED.replace("'\\n' + message.content", "'\\n' + message.content | upper")


@pytest.mark.parametrize(
    ("template", "conversation", "message"),
    [
        (FAMILIES[3].template, talk("hi", "yes", system="Be short"), "refuses it: System role not supported"),
        (DROPS_SYSTEM, talk("hi", "yes", system="Be short"), "leaves out or changes the system message 'Be short'"),
        (UPPER, talk("hi", "yes"), "leaves out or changes the user message 'hi'"),
        (NO_PROMPT, talk("hi", "yes"), r"puts '<\|im_start\|>assistant' between .* ignore add_generation_prompt"),
        (OTHER_PROMPT, talk("hi", "yes"), "another way than its generation prompt"),
        (NO_END, talk("hi", "yes"), "closes the assistant's turn with no token of its own"),
        (MARKED, talk("say <|im_end|> now", "yes"), r"user's text holds the special token '<\|im_end\|>'"),
        (MARKED, talk("hi", "yes</s>"), "assistant's text holds the special token '</s>'"),
        (MARKED, talk("hi"), "has no assistant turn"),
        (LLAMA.replace("'%d %b %Y'", "bos_token"), talk("hi", "yes"), "prints today's date .* a form that it computes"),
        ("{% for x in messages %}", talk("hi", "yes"), "no valid Jinja"),
    ],
)
def test_what_a_template_cannot_render_faithfully_is_refused(template, conversation, message) -> None:
    with pytest.raises(SpecError, match=message):
        render(make_tokenizer(template), conversation)


def test_rows_beyond_the_context_are_refused_with_their_number_unless_a_way_is_chosen() -> None:
    tokenizer = make_tokenizer(MARKED)
    data = [talk("hi", "yes", line=1), talk("hi", "yes " * 40, line=3), talk("hi " * 90, "yes", line=4)]
    whole = render_all(tokenizer, data, thinking=None, max_tokens=None)
    assert (whole.lines, whole.dropped) == ([1, 3, 4], [])
    with pytest.raises(SpecError, match=r"risky, line 3: \d+ tokens, accepted: at most 50 .* 2 of 3 rows are longer"):
        render_all(tokenizer, data, thinking=None, max_tokens=50, source="risky")
    dropped = render_all(tokenizer, data, thinking=None, max_tokens=50, longer="drop")
    assert (dropped.rows, dropped.lines, dropped.dropped) == (whole.rows[:1], [1], [3, 4])
    cut = render_all(tokenizer, data, thinking=None, max_tokens=50, longer="cut")
    assert cut.rows == [whole.rows[0], Row(whole.rows[1].input_ids[:50], whole.rows[1].labels[:50])]
    assert (cut.lines, cut.dropped) == ([1, 3], [4])  # nothing of the last row's answer is left
    with pytest.raises(SpecError, match="longer is 'truncate', accepted: refuse, drop, cut"):
        render_all(tokenizer, data, thinking=None, max_tokens=50, longer="truncate")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_pieces_joined_are_the_row_and_those_with_a_loss_the_replies(family: Family) -> None:
    tokenizer = make_tokenizer(family.template)
    row = render(tokenizer, talk("日本語 🙂?", "naïve 🙂🙂 café"), thinking=family.thinking)
    pieces = token_pieces(tokenizer, row)
    assert "".join(text for text, _ in pieces) == tokenizer.decode(row.input_ids)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(text for text, _ in pieces)
    supervised = "".join(text for text, supervised in pieces if supervised)
    assert supervised == tokenizer.decode(spans(row)[0])
    assert re.search(r"naïve 🙂🙂 café", supervised)
