"""Ask a live model of Transformers in this process, on the CPU or a GPU, in any dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from narrowly.models.backend import ChatPrompt, Generated, NextTokens, Progress, Request
from narrowly.models.continuous import generate_all
from narrowly.models.generate import Prompt, end_tokens
from narrowly.models.likelihood import keeps_logits, score
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
        order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
        found: dict[int, NextTokens] = {}
        for start in range(0, len(order), self.batch):
            batch = order[start : start + self.batch]
            found |= dict(zip(batch, self._next_of([prompts[at] for at in batch], top), strict=True))
        return [found[at] for at in range(len(prompts))]

    def _next_of(self, prompts: Sequence[Sequence[int]], top: int | None) -> list[NextTokens]:
        """Return the distributions of one batch; padding stands on the right, where it changes nothing before it."""
        import torch

        device = next(self.model.parameters()).device
        ids_B_T = torch.zeros((len(prompts), len(prompts[0])), dtype=torch.long)
        mask_B_T = torch.zeros_like(ids_B_T)
        for row, prompt in enumerate(prompts):
            ids_B_T[row, : len(prompt)] = torch.tensor(list(prompt))
            mask_B_T[row, : len(prompt)] = 1
        rows_B, last_B = torch.arange(len(prompts), device=device), mask_B_T.sum(dim=1).to(device) - 1
        places_U, column_B = torch.unique(last_B, return_inverse=True)  # logits at the ends of prompts alone
        kept = {"logits_to_keep": places_U} if keeps_logits(self.model) else {}
        with torch.inference_mode():
            logits_B_U_V = self.model(
                input_ids=ids_B_T.to(device), attention_mask=mask_B_T.to(device), use_cache=False, **kept
            ).logits
        logprobs_B_V = torch.log_softmax(logits_B_U_V[rows_B, column_B if kept else last_B].float(), dim=-1)
        vocabulary = logprobs_B_V.shape[1]
        best = torch.topk(logprobs_B_V, vocabulary if top is None else min(top, vocabulary), dim=-1)
        return [
            NextTokens(tuple(tokens), tuple(values), len(tokens) == vocabulary)
            for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def generate(self, prompts: Sequence[ChatPrompt], sampling: Sampling) -> list[Generated]:
        """Return one answer to each prompt, in their order; no answer depends on what is asked beside it.

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
        found = generate_all(self.model, self.tokenizer, asked, sampling, ends, self.batch)
        return [Generated(one.text, one.finish_reason, len(one.tokens)) for one in found]


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
