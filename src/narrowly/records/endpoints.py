"""Describe a model behind an endpoint: where it is, what its server was found to do, and how it computes."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from narrowly.records.arithmetic import UNKNOWN, Arithmetic
from narrowly.records.canonical import content_id
from narrowly.records.errors import SpecError, nearest
from narrowly.records.spec import Spec

Dialect = Literal["full", "transformers", "plain", "completion_tokens"]
"""Fields with which a server takes its sampling, beside OpenAI's own.

`full`: top_k, min_p and repetition penalties too (vLLM, SGLang, llama.cpp). `transformers`: all of it in
generation_config (`transformers serve`, which samples in no other way). `plain`: OpenAI's own alone.
`completion_tokens`: those, with max_completion_tokens in place of max_tokens.
"""

Honoured = Literal["yes", "ignored", "refused", "wrong", "not tested"]
"""What a server makes of a field; `wrong`: it answers something that is not what was asked for."""

LikelihoodRoute = Literal["prompt_logprobs", "echo", "echo_text"]
"""How a server's /completions gives the log-probabilities of given tokens.

`prompt_logprobs` is vLLM's. `echo` repeats a prompt of token ids with its log-probabilities, `echo_text` a prompt of
text (OpenAI's former request; llama-cpp-python).
"""


class EndpointProbe(Spec):
    """What a server was found to do, before anything was asked of it."""

    dialect: Dialect
    samples: bool = Field(description="whether several seeds gave several texts")
    seed_repeats: bool | None = Field(description="whether one seed gave one text; None where it does not sample")
    greedy_repeats: bool = Field(description="whether temperature 0 gave one text twice")
    greedy_sha256: str = Field(description="of that text, the first time")
    alone: bool | None = Field(
        description="whether running requests left a text as it was; None where that cannot be seen"
    )
    n: Honoured = Field(description="two choices for one request")
    logprobs: Honoured = Field(description="log-probabilities of the tokens written")
    top_k: Honoured = Field(description="one text for several seeds where only the likeliest token may be taken")
    likelihood: LikelihoodRoute | None = Field(None, description="how it gives log-probabilities of given tokens")
    likelihood_difference: float | None = Field(
        None,
        description="largest difference, in nats per token, between a text as it was written and as it was scored",
    )
    engine: str = Field(UNKNOWN, description="what computes, as the server's list of models says (owned_by)")


class AskedEndpoint(Spec):
    """Hold what was asked behind an endpoint."""

    name: str = Field(description="of the model there")
    url: str
    arithmetic: Arithmetic
    probe: EndpointProbe

    @property
    def model_id(self) -> str:
        """Return a short id: address, model, arithmetic, and the text that it writes to the probe's question."""
        known = self.probe.greedy_sha256 if self.probe.greedy_repeats else None
        return content_id([self.url, self.name, self.arithmetic.model_dump(mode="json"), self.probe.dialect, known])


_DTYPES = ("float32", "bfloat16", "float16", "float64")


def stated_arithmetic(text: str | None, engine: str) -> Arithmetic:
    """Return how a server computes, as its user states it; no server says it.

    Args:
        text: a dtype, or a quantisation such as q4_1 or nf4; None or "unknown" where the user does not know.
        engine: what the server calls itself.

    Raises:
        SpecError: what is neither.
    """
    if text is None or text == UNKNOWN:
        return Arithmetic(backend="endpoint", engine=engine, dtype=UNKNOWN, device=UNKNOWN)
    if text in _DTYPES:
        return Arithmetic(backend="endpoint", engine=engine, dtype=text, device=UNKNOWN)
    name = text.lower()
    if not re.fullmatch(
        r"(iq|tq|q|nf|fp|mxfp|nvfp|int|w|awq|gptq|exl|hqq|bnb)[a-z0-9_.-]*\d[a-z0-9_.-]*|awq|gptq", name
    ):
        raise SpecError(
            f"--arithmetic is {text!r}{nearest(text, (*_DTYPES, UNKNOWN))}; accepted: {', '.join(_DTYPES)}, the name "
            "of a quantisation such as q4_1, nf4 or fp8, or unknown"
        )
    return Arithmetic(backend="endpoint", engine=engine, dtype=UNKNOWN, quantisation=name, device=UNKNOWN)
