"""Write requests for answers with every sampling field in them, and read what a server answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from narrowly.data.messages import Message
from narrowly.records.answers import FinishReason, Sampling
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.endpoints import Dialect
from narrowly.records.errors import SpecError
from narrowly.records.streams import stream_seed

CHAT = "/chat/completions"

DIALECTS: tuple[Dialect, ...] = ("full", "transformers", "plain", "completion_tokens")
"""In the order in which they are tried: the one that says most first."""


class ChatReply(NamedTuple):
    """Hold what a server answered to one request.

    Attributes:
        texts: one per choice.
        finish_reason: of the first.
        thought: of the first, where the server sends thoughts apart; else empty.
        prompt_tokens, answer_tokens: as the server counts them; some count padding (knowledge of real servers), so
            that nothing is computed from them.
        tokens: texts of the first one's tokens with their log-probabilities, where they were sent; NaN where malformed.
    """

    texts: tuple[str, ...]
    finish_reason: FinishReason
    thought: str
    prompt_tokens: int | None
    answer_tokens: int | None
    tokens: tuple[tuple[str, float], ...] | None

    @property
    def text(self) -> str:
        """Return the first answer."""
        return self.texts[0]


def messages_sha256(messages: Sequence[Message]) -> str:
    """Return the sha256 of what is said before an answer."""
    return sha256_text(canonical_json([message.as_json() for message in messages]))


def request_seed(sampling: Sampling, messages: Sequence[Message], sample: int) -> int:
    """Return the seed of one request, 0 to 2^31 - 1: from the seed of all, the prompt and the sample's number."""
    return stream_seed(sampling.seed, f"answer/{messages_sha256(messages)}/{sample}") % 2**31


def sampling_fields(
    dialect: Dialect, sampling: Sampling, seed: int, *, thinking: bool | None = None, top_k: int | None = None
) -> dict[str, Any]:
    """Return every field of a request that shapes its answer, none left to a server's default.

    Args:
        dialect: of the server.
        sampling: how answers are drawn.
        seed: of this request.
        thinking: mode of the template; None sends none.
        top_k: tokens that may be drawn; None means all, as everywhere but in the probe.

    Raises:
        SpecError: a thinking mode for a server that takes none.
    """
    longest = "max_completion_tokens" if dialect == "completion_tokens" else "max_tokens"
    fields: dict[str, Any] = {
        longest: sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "n": 1,
        "seed": seed,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stream": False,
    }
    if thinking is not None and dialect != "full":
        raise SpecError("this server takes no thinking mode (chat_template_kwargs); leave --thinking out")
    if dialect == "full":
        # -1 is "all tokens" to vLLM, SGLang and llama.cpp; each reads one of the two names of the penalty
        fields |= {"top_k": -1 if top_k is None else top_k, "min_p": 0.0}
        fields |= {"repetition_penalty": 1.0, "repeat_penalty": 1.0}
        if thinking is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": thinking}
    if dialect == "transformers":
        drawn = sampling.temperature > 0
        own: dict[str, Any] = {"do_sample": drawn, "max_new_tokens": sampling.max_new_tokens, "repetition_penalty": 1.0}
        if drawn:
            own |= {"temperature": sampling.temperature, "top_p": 1.0, "top_k": 0 if top_k is None else top_k}
        fields["generation_config"] = json.dumps(own, sort_keys=True)
    return fields


def chat_body(model: str, messages: Sequence[Message], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request to /chat/completions."""
    return {"model": model, "messages": [message.as_json() for message in messages], **fields}


def read_chat(value: Any) -> ChatReply:
    """Read an answer of /chat/completions.

    Raises:
        ValueError: it is none.
    """
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(one, dict) for one in choices):
        raise ValueError("no list of choices in it")
    texts = []
    for choice in choices:
        message = choice.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(content, str | None):
            raise ValueError("a choice without a message")
        if content is None and "finish_reason" not in choice:
            raise ValueError("a message without a text")
        texts.append(content or "")
    first = choices[0]
    thought = first["message"].get("reasoning_content") or first["message"].get("reasoning") or ""
    usage = value.get("usage") if isinstance(value.get("usage"), dict) else {}
    return ChatReply(
        tuple(texts),
        finish_reason_of(first.get("finish_reason")),
        thought if isinstance(thought, str) else "",
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _tokens(first.get("logprobs")),
    )


def finish_reason_of(value: Any) -> FinishReason:
    """Return why an answer ended, in our words; what we have no word for is unknown."""
    known: dict[Any, FinishReason] = {
        "stop": "stop",
        "eos": "stop",
        "length": "length",
        "content_filter": "content_filter",
    }
    return known.get(value, "unknown") if isinstance(value, str) else "unknown"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _tokens(logprobs: Any) -> tuple[tuple[str, float], ...] | None:
    """Return the tokens with their log-probabilities; None where there are none.

    An entry that is no token with a number becomes an empty text at NaN: the answer stands, its log-probabilities do
    not (`probe` records them as wrong).
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not content:
        return None
    found = []
    for one in content if isinstance(content, list) else [content]:
        token, value = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if isinstance(token, str) and isinstance(value, int | float) and not isinstance(value, bool):
            found.append((token, float(value)))
        else:
            found.append(("", math.nan))
    return tuple(found)
