"""Read or refuse the fields that stand beside a conversation and change it, so that none is a tag nobody reads.

It raises `ValueError` with one clause; the caller adds file and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narrowly.data.messages import Message
from narrowly.data.tool_fields import THOUGHTS
from narrowly.data.turns import Turns, is_empty, list_of, text_of

SYSTEM = ("system", "system_prompt", "system_message")
"""Fields that hold the system message of a row."""

_TOOLS = "give what may be called as tools, and calls in the assistant's turn as tool_calls"
_MEDIA = "only text is trained on: leave such rows out"
_WEIGHT = "every row counts alike: give assistant turns a weight of 0 or 1, or leave rows out"
_THINKING = "say data.thinking for all rows, and remove the field"
_SIDES = "name --schema preference:chosen or preference:rejected, or remove the field"

REFUSED = {
    **dict.fromkeys(("functions", "tool_choice", "tool_calls", "function_call"), _TOOLS),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), _MEDIA),
    **dict.fromkeys(("weight", "sample_weight", "loss_weight"), _WEIGHT),
    **dict.fromkeys(("chat_template_kwargs", "enable_thinking"), _THINKING),
    "documents": "write their text into the user's turn, and remove the field",
    "chat_template": "give the template of all rows with data.template, and remove the field",
    "history": "write its turns into the dialogue, and remove the field",
    "rejected": _SIDES,
    **dict.fromkeys(THOUGHTS, "write it into the turn of the assistant, as its field reasoning_content"),
    "label": "it says whether the answer is wanted: keep the rows that you mean, and rename the field",
    "instruction": "write it into the dialogue, and remove the field",
}
"""Fields that change a conversation, and the way out where a schema does not read them."""


def system_of(fields: Mapping[str, Any]) -> str | None:
    """Return the system message that stands beside a conversation, or None.

    Raises:
        ValueError: it is no text, or two fields hold different ones.
    """
    found = {name: text_of(fields[name], name) for name in SYSTEM if not is_empty(fields.get(name))}
    if len(set(found.values())) > 1:
        raise ValueError(f"{' and '.join(found)} hold different system messages, accepted: one")
    return next(iter(found.values()), None)


def with_system(found: Turns, fields: Mapping[str, Any]) -> Turns:
    """Return the turns with the system message that stands beside them in front.

    Raises:
        ValueError: the dialogue begins with another one.
    """
    system = system_of(fields)
    if system is None or found.messages[:1] == [Message("system", system)]:
        return found
    if found.messages and found.messages[0].role == "system":
        name = next(name for name in SYSTEM if not is_empty(fields.get(name)))
        raise ValueError(f"the dialogue begins with another system message than the field {name} holds, accepted: one")
    weights = None if found.weights is None else [False, *found.weights]
    return Turns([Message("system", system), *found.messages], weights, found.notes)


def history_of(fields: Mapping[str, Any]) -> list[Any]:
    """Return the turns of the field `history`: pairs of question and answer, or turns.

    Raises:
        ValueError: an entry is neither.
    """
    if _says_nothing(fields.get("history")):
        return []
    turns: list[Any] = []
    for number, entry in enumerate(list_of(fields["history"], "history", "[question, answer]"), start=1):
        if isinstance(entry, Mapping):
            turns.append(entry)
        elif isinstance(entry, list) and len(entry) == 2:
            turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), entry, strict=True)]
        else:
            raise ValueError(f"history entry {number} is {str(entry)[:40]!r}, accepted: [question, answer] or a turn")
    return turns


def _says_nothing(value: Any) -> bool:
    return is_empty(value) or value in ("[]", "{}", "null", "None")  # texts of nothing, as CSV holds them


def _is_neutral(name: str, value: Any, messages: Sequence[Message]) -> bool:
    """Return whether a field of `REFUSED` changes nothing in this row."""
    if name == "label":  # a word is metadata, a truth value judges the answer
        return not (isinstance(value, bool) or value in (0, 1) or str(value).strip().lower() in ("true", "false"))
    if name.endswith("weight"):
        return value in (None, "", 1, "1", "1.0")
    if name == "instruction" and isinstance(value, str):
        return any(value.strip() in message.content for message in messages)
    return _says_nothing(value) and not (name == "enable_thinking" and value is False)


def check_beside(fields: Mapping[str, Any], used: frozenset[str], messages: Sequence[Message]) -> frozenset[str]:
    """Refuse fields that change the conversation and were not read; return those that say nothing and are no tags.

    Raises:
        ValueError: naming the field and the way out.
    """
    present = [name for name in REFUSED if name in fields and name not in used]
    if "chosen" in fields and "rejected" in present:
        # both sides beside a dialogue are only read so where the schema was named
        present.remove("rejected")
        used = used | {"chosen", "rejected"}
    for name in present:
        if not _is_neutral(name, fields[name], messages):
            raise ValueError(f"the field {name} changes the conversation and is not read; {REFUSED[name]}")
    silent = {name for name in present if _says_nothing(fields[name]) or name.endswith("weight")}
    return used | silent
