"""Ask a live model of Transformers in this process, on the CPU or a GPU, in any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from narrowly.models.backend import ChatPrompt, Generated, NextTokens, Progress, Request
from narrowly.models.generate import Prompt, end_tokens, generate
from narrowly.models.likelihood import score
from narrowly.records.answers import Sampling
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.likelihood import Likelihood, ScoredText
from narrowly.records.run_spec import BaseDtype

if TYPE_CHECKING:
    from torch import nn

BATCH = 8
"""Answers written, and prompts read, at a time."""


class LocalBackend:
    """A model in this process; it answers every request.

    Args:
        model: a causal language model in eval mode, with its adapter where it has one.
        tokenizer: with the chat template that it is asked with.
        name: of the model, for messages.
        thinking: mode of the prompts; None for a template that has none.
        batch: answers written at a time.
    """

    can = frozenset(Request)

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, *, thinking: bool | None = None, batch: int = BATCH
    ) -> None:
        self.model, self.tokenizer, self.thinking, self.batch = model, tokenizer, thinking, batch
        self.name = f"model {name} (transformers)"
        self.arithmetic = arithmetic_of(model)

    def loglikelihoods(self, texts: Sequence[ScoredText], progress: Progress | None = None) -> list[Likelihood]:
        """Return the log-probability of every token of every continuation (`models.likelihood.score`).

        Raises:
            SpecError, IntegrityError: as `score`.
        """
        return score(self.model, texts, progress=progress).likelihoods

    def next_tokens(self, prompts: Sequence[Sequence[int]], top: int | None = None) -> list[NextTokens]:
        """Return the next token's distribution behind prompts of token ids; `top` keeps the likeliest ones."""
        import torch

        device = next(self.model.parameters()).device
        found = []
        for prompt in prompts:
            with torch.inference_mode():
                logits_V = self.model(input_ids=torch.tensor([list(prompt)], device=device)).logits[0, -1]
            logprobs_V = torch.log_softmax(logits_V.float(), dim=-1)
            kept = logprobs_V.shape[0] if top is None else min(top, logprobs_V.shape[0])
            best = torch.topk(logprobs_V, kept)
            found.append(
                NextTokens(tuple(best.indices.tolist()), tuple(best.values.tolist()), kept == logprobs_V.shape[0])
            )
        return found

    def generate(self, prompts: Sequence[ChatPrompt], sampling: Sampling) -> list[Generated]:
        """Return one answer to each prompt, in their order, in batches; no answer depends on its batch.

        Raises:
            SpecError: the template cannot render a prompt.
            IntegrityError: the model's logits are no numbers.
        """
        from narrowly.data.render import prompt_ids

        ends = end_tokens(self.model, self.tokenizer, self.thinking)
        asked = [
            Prompt(tuple(prompt_ids(self.tokenizer, prompt.messages, thinking=self.thinking)), prompt.sample)
            for prompt in prompts
        ]
        written = []
        for start in range(0, len(asked), self.batch):
            written += generate(self.model, self.tokenizer, asked[start : start + self.batch], sampling, ends)
        return [Generated(one.text, one.finish_reason, len(one.tokens)) for one in written]


def arithmetic_for(dtype: BaseDtype, device: str) -> Arithmetic:
    """Return how a model of this dtype will compute on a device; nf4 computes in bfloat16 (`models.nf4`)."""
    return Arithmetic(
        backend="transformers",
        engine="transformers",
        dtype="bfloat16" if dtype == "nf4" else dtype,
        quantisation="nf4" if dtype == "nf4" else None,
        device=device.partition(":")[0],
    )


def arithmetic_of(model: Any) -> Arithmetic:
    """Return how a live model computes: dtype and device of its embeddings, and whether its weights are in 4 bits."""
    weight = model.get_input_embeddings().weight
    quantised = any(type(one).__name__ == "Linear4bit" for one in model.modules())
    return Arithmetic(
        backend="transformers",
        engine="transformers",
        dtype=str(weight.dtype).removeprefix("torch."),
        quantisation="nf4" if quantised else None,
        device=weight.device.type,
    )
