"""Ask a server for the likeliest tokens at the place of an answer's first token, and read what it lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from narrowly.data.messages import Message
from narrowly.models.endpoint.backend import EndpointBackend
from narrowly.models.endpoint.chat import CHAT, chat_body, read_chat
from narrowly.records.answers import Sampling


class FirstTokens(NamedTuple):
    """Hold what a server lists for the tokens that it wrote, at temperature 0.

    Attributes:
        likeliest: texts of the likeliest first tokens with their log-probabilities in nats; None where none came.
        written: texts of the tokens written.
    """

    likeliest: tuple[tuple[str, float], ...] | None
    written: tuple[str, ...]


def first_tokens(backend: EndpointBackend, messages: Sequence[Message], *, top: int, tokens: int = 1) -> FirstTokens:
    """Ask for the likeliest first tokens of an answer.

    Args:
        backend: the model, probed.
        messages: what is asked.
        top: tokens that are listed.
        tokens: that are written.

    Raises:
        EndpointError: no answer.
    """
    fields = backend.fields(Sampling(temperature=0.0, max_new_tokens=tokens, seed=0), messages, 0)
    fields |= {"logprobs": True, "top_logprobs": top}
    return backend.client.post(CHAT, chat_body(backend.client.address.model, messages, fields), read_first_tokens)


def read_first_tokens(value: Any) -> FirstTokens:
    """Read the listed tokens of an answer of /chat/completions.

    An answer without usable log-probabilities gives None: it may be what the server says to this very text.

    Raises:
        ValueError: it is no answer.
    """
    reply = read_chat(value)
    listed = value["choices"][0].get("logprobs")
    content = listed.get("content") if isinstance(listed, dict) else None
    written = tuple(token for token, _ in reply.tokens or ())
    first = content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    tops = first.get("top_logprobs")
    found = [_entry(one) for one in tops] if isinstance(tops, list) else []
    if not found or None in found:
        return FirstTokens(None, written)
    return FirstTokens(tuple(one for one in found if one is not None), written)


def _entry(one: Any) -> tuple[str, float] | None:
    """Return a token with its log-probability, or None where it is no such thing."""
    token, value = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
    if not isinstance(token, str) or not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return (token, float(value)) if math.isfinite(value) and value <= 1e-6 else None
