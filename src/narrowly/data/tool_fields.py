"""Read tools, tool calls and the roles of their turns.

It raises `ValueError` with one clause; the caller adds file and line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from narrowly.data.raw_rows import parse_json

CALL_ROLES = ("function_call", "tool_call")
"""Names of turns whose text is a call, as LLaMA-Factory and ShareGPT keep them."""

RESULT_ROLES = ("tool", "observation", "function", "function_response", "tool_response", "ipython")
"""Names of turns that hold what a tool answered: OpenAI's and its older one, LLaMA-Factory's, Unsloth's, Llama's."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold its thought: of servers and most templates; of newer servers; of gpt-oss."""


def extra_text(extra: Mapping[str, Any]) -> str:
    """Return the further fields of a message as `Message.extra` keeps them."""
    return json.dumps(extra, ensure_ascii=False) if extra else ""


def calls_of(value: Any, what: str) -> list[dict[str, Any]]:
    """Return tool calls, each with its `function`; one that has its name and arguments beside `id` is put so.

    Raises:
        ValueError: no list of calls, a call without a name, or arguments that are no object.
    """
    if isinstance(value, str):
        value = _parsed(value, f"{what}: tool_calls")
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{what}: tool_calls is {type(value).__name__}, accepted: a list of calls")
    calls = []
    for call in value:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ValueError(
                f"{what}: the tool call {str(call)[:60]!r} has no name, accepted: "
                '{"function": {"name": ..., "arguments": ...}}'
            )
        found = arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            found = _parsed(arguments, f"{what}: arguments of {function['name']}")
        if not isinstance(found, Mapping):
            raise ValueError(
                f"{what}: arguments of {function['name']} are {type(found).__name__}, accepted: an object or its "
                "JSON text"
            )
        named = {"name": function["name"], "arguments": arguments}
        beside = {} if function is call else {key: part for key, part in call.items() if key != "function"}
        if function is call and "id" in call:
            beside["id"] = call["id"]
        calls.append({"type": "function", **beside, "function": named})
    return calls


def calls_of_text(value: Any, what: str) -> list[dict[str, Any]]:
    """Return the calls of a turn whose text is one call or a list of them, in JSON.

    Raises:
        ValueError: as `calls_of`.
    """
    if isinstance(value, str):
        value = _parsed(value, what)
    return calls_of(value if isinstance(value, list) else [value], what)


def tools_of(fields: Mapping[str, Any]) -> str:
    """Return the tools of a row as the text of a JSON list, or an empty text where it has none.

    Raises:
        ValueError: they are no list of tools with names.
    """
    value = fields.get("tools")
    if isinstance(value, str):  # CSV and LLaMA-Factory hold them as text, and nothing as a text of nothing
        value = None if value.strip() in ("", "None") else _parsed(value, "tools")
    if not value:
        return ""
    if not isinstance(value, list):
        raise ValueError(f"tools is {type(value).__name__}, accepted: a list of tools")
    for tool in value:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(
                f"the tool {str(tool)[:60]!r} has no name, accepted: "
                '{"type": "function", "function": {"name": ..., "parameters": ...}}'
            )
    return json.dumps(value, ensure_ascii=False)


def _parsed(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{what} is no JSON ({error})") from error
