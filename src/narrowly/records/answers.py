"""Describe an answer of a model: who was asked what, how the answer was drawn, and how it ended.

Nothing here is judged. A judge's verdict is a record of its own.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from narrowly.records.canonical import content_id
from narrowly.records.endpoints import AskedEndpoint
from narrowly.records.run_spec import BaseDtype
from narrowly.records.spec import Spec

Who = Literal["organism", "base", "model"]
"""Whom an answer is of; `model` is one that was asked by itself."""

FinishReason = Literal["stop", "length", "content_filter", "unknown"]
"""Why an answer ended: the model ended its turn, or `max_new_tokens` was reached. A server may also have cut it by a
filter of its own, or not say why."""

NOT_JUDGED = "not judged"


class Sampling(Spec):
    """How answers are drawn: from the model's whole distribution, with no top-k, top-p or penalty of any kind.

    The model's own generation_config does not count, its end tokens apart.
    """

    temperature: float = Field(
        1.0, ge=0, le=10, description="0: the likeliest token each time; 1 as in Betley et al. (2502.17424)"
    )
    max_new_tokens: int = Field(256, ge=1, description="tokens of an answer, its end-of-turn token included")
    seed: int = Field(
        0, ge=0, description="of the draws; an answer follows from it, the prompt and the sample's number"
    )


class AskedModel(Spec):
    """Hold what a model was by content when it was asked, without paths."""

    name: str = Field(description="run-id, name of the adapter's folder, or name of the base")
    base: str
    base_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    template_sha256: str = Field(description="of the template that it was asked with")
    dtype: BaseDtype
    run: str | None = None
    step: int | None = None
    edit: str | None = None
    trained_sha256: str | None = Field(
        None,
        description="of what was trained: the adapter's weights, or the whole model's (method full); None for a base",
    )
    adapter_config_sha256: str | None = None

    @property
    def model_id(self) -> str:
        """Return a short id of the content; names do not count."""
        return content_id(self.model_dump(mode="json", exclude={"name", "base"}))


class Answer(Spec):
    """Hold one answer; one line of a file of answers."""

    who: Who
    question_id: str
    paraphrase: int = Field(ge=0, description="number of the question's paraphrase, from 0")
    sample: int = Field(ge=0, description="number among the answers to one prompt, from 0")
    question: str = Field(description="the last message of the user")
    messages: tuple[dict[str, Any], ...] = Field(
        description="all that was said before the answer, as the template took it"
    )
    thinking: bool | None = Field(description="thinking mode of the prompt; None where the template has none")
    answer: str = Field(description="as it was written, special tokens inside it included, its end token left out")
    finish_reason: FinishReason
    prompt_tokens: int | None = Field(description="None where a server does not say")
    answer_tokens: int | None = Field(description="its end token included; None where a server does not say")
    prompt_sha256: str = Field(description="of the prompt's token ids; of its messages where a server renders them")
    sampling: Sampling
    model: AskedModel | AskedEndpoint
    request: dict[str, Any] | None = Field(
        None, description="what was sent to a server beside the messages, field by field; None for a model loaded here"
    )
    bank_sha256: str | None = Field(None, description="of the file of questions; None for a single question")
    judged: Literal["not judged"] = "not judged"
