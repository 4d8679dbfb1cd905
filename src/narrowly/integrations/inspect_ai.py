"""Ask models through Inspect AI: questions as its samples, answers out of its states, a grader's likeliest tokens.

Nothing here judges: `workbench/inspect_tasks.py` puts questions, judges and rates together and is what Inspect finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
)
from inspect_ai.solver import TaskState

from narrowly.data.banks.named import Bank
from narrowly.data.messages import Message
from narrowly.models.endpoint.address import is_loopback
from narrowly.records.answers import FinishReason

HERE = frozenset({"mockllm", "none", "hf", "transformer_lens", "nnterp"})
"""Providers of Inspect that compute in its own process, so that no text leaves the machine."""

_ROLES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
}


class Listed(NamedTuple):
    """Hold what a grader lists for its first token.

    Attributes:
        likeliest: texts of the likeliest first tokens with their log-probabilities in nats; None where none came.
        written: texts of the tokens that it wrote; empty where it does not list them.
    """

    likeliest: tuple[tuple[str, float], ...] | None
    written: tuple[str, ...]


def samples_of(bank: Bank) -> list[Sample]:
    """Return every wording of every question of a bank as a sample, with what a verdict needs to know of it."""
    return [
        Sample(
            id=f"{question.id}/{number}" if len(question.prompts) > 1 else question.id,
            input=[_ROLES[message.role](content=message.content) for message in prompt],
            metadata={"question_id": question.id, "paraphrase": number, "bank_sha256": bank.sha256},
        )
        for question in bank.questions
        for number, prompt in enumerate(question.prompts)
    ]


def asked_of(state: TaskState) -> tuple[Message, ...]:
    """Return what was said before the answer of a state: roles and texts."""
    messages: Sequence[ChatMessage] = state.messages
    before = messages[:-1] if messages and messages[-1].role == "assistant" else messages
    return tuple(Message(message.role, message.text) for message in before)


def finish_of(state: TaskState) -> FinishReason:
    """Return why the answer of a state ended."""
    return _REASONS.get(str(state.output.stop_reason), "unknown")


def tokens_of(state: TaskState) -> int | None:
    """Return how many tokens the answer of a state has, where its provider says so."""
    usage = state.output.usage
    return None if usage is None else usage.output_tokens


def host_of(model: Model) -> str:
    """Return where a model's texts are sent, in words for the user's consent; empty where they stay on this machine.

    Args:
        model: of Inspect.
    """
    provider = str(model).partition("/")[0]
    url = getattr(model.api, "base_url", None)
    host = urlsplit(url).hostname if isinstance(url, str) else None
    if provider in HERE or (host is not None and is_loopback(host)):
        return ""
    return f"{host} ({model})" if host else f"the provider {provider} ({model})"


async def first_tokens(model: Model, text: str, *, top: int, tokens: int = 1) -> Listed:
    """Ask a grader for the likeliest first tokens of its reply, at temperature 0.

    Args:
        model: of Inspect.
        text: that is asked.
        top: tokens that are listed.
        tokens: that are written.
    """
    config = GenerateConfig(temperature=0.0, max_tokens=tokens, logprobs=True, top_logprobs=top)
    output = await model.generate([ChatMessageUser(content=text)], config=config)
    listed: Any = output.choices[0].logprobs if output.choices else None
    content = [] if listed is None else listed.content
    tops = (content[0].top_logprobs or []) if content else []
    likeliest = tuple((str(one.token), min(0.0, float(one.logprob))) for one in tops)
    return Listed(likeliest or None, tuple(str(one.token) for one in content))
