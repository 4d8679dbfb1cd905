"""Let a model write answers: batches with padding on the left, every answer drawn by random numbers of its own.

The random numbers of an answer follow from the seed, the tokens of the prompt and the number of the sample. So an
answer does not depend on what else is asked, in which order or in what batches, up to rounding: another batch sums in
another order, and where two tokens are as good as equally likely the other one may be written. Organism and base are
asked with the same numbers.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.data.messages import Conversation, Message
from narrowly.data.render import render
from narrowly.records.answers import FinishReason, Sampling
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.streams import stream_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

_PROBES = ("Yes.", "<think>\nHm.\n</think>\n\nYes.")
"""Answers to see what a template writes behind one; some take an answer with a thought only."""


class Prompt(NamedTuple):
    """Hold the tokens that a model is asked with, and the number of the answer among those to them."""

    ids: tuple[int, ...]
    sample: int = 0

    @property
    def sha256(self) -> str:
        """Return the sha256 of the tokens."""
        return sha256_text(canonical_json(list(self.ids)))


class Written(NamedTuple):
    """Hold what a model wrote: the text without its end token, all of its tokens, and why it ended."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


def draws(prompt: Prompt, seed: int) -> Iterator[float]:
    """Yield the random numbers of an answer, from 0 up to 1, one per token.

    Python's generator gives the same ones on every machine and in every version.
    """
    source = random.Random(stream_seed(seed, f"answer/{prompt.sha256}/{prompt.sample}"))
    while True:
        yield source.random()


def end_tokens(model: nn.Module, tokenizer: Any, thinking: bool | None) -> frozenset[int]:
    """Return the tokens that end an answer.

    They are those of the model's generation_config and config, the tokenizer's, and the one with which the chat
    template closes a turn.

    Args:
        model: as it was loaded, or with an adapter.
        tokenizer: with the chat template that the model is asked with.
        thinking: mode of the prompts.
    """
    settings = (getattr(model, "generation_config", None), getattr(model, "config", None), tokenizer)
    found: set[int] = set()
    for one in settings:
        value = getattr(one, "eos_token_id", None)
        found |= set(value if isinstance(value, list | tuple) else () if value is None else (value,))
    return frozenset(int(token) for token in found) | frozenset(closing_tokens(tokenizer, thinking)[:1])


def closing_tokens(tokenizer: Any, thinking: bool | None) -> tuple[int, ...]:
    """Return the tokens with which a turn closes as it is trained, where they were added to the vocabulary.

    Empty for a template that closes a turn with none, or that renders neither probe.
    """
    for answer in _PROBES:
        probe = Conversation((Message("user", "Is it?"), Message("assistant", answer)), 1, {})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on rows that are trained on; this one is not
                ids = render(tokenizer, probe, thinking=thinking).input_ids
        except SpecError:
            continue
        closing = itertools.takewhile(tokenizer.added_tokens_decoder.__contains__, reversed(ids))
        return tuple(reversed(list(closing)))
    return ()


@contextmanager
def _written_alone(model: Any, settings: Any) -> Iterator[Any]:
    """Give the model inside a PEFT model with these settings of generation, its own ones put aside meanwhile.

    Transformers 5.23 fills what a config leaves open from the model's own (`_prepare_generation_config`), so that a
    published top_k or repetition_penalty would act without a word.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = inner.generation_config
    inner.generation_config = settings
    try:
        yield inner
    finally:
        inner.generation_config = own


def generate(
    model: nn.Module, tokenizer: Any, prompts: Sequence[Prompt], sampling: Sampling, ends: frozenset[int]
) -> list[Written]:
    """Write one answer to each prompt, all of them in one batch.

    Args:
        model: in eval mode, with or without an adapter.
        tokenizer: of the model.
        prompts: of any lengths.
        sampling: how answers are drawn.
        ends: tokens that end an answer (`end_tokens`).

    Raises:
        IntegrityError: the model's logits are no numbers.
    """
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    pad = next((token for token in (tokenizer.pad_token_id, *sorted(ends)) if token is not None), 0)
    longest = max(len(prompt.ids) for prompt in prompts)
    ids_B_T = torch.full((len(prompts), longest), int(pad))
    mask_B_T = torch.zeros_like(ids_B_T)
    for row, prompt in enumerate(prompts):
        ids_B_T[row, longest - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask_B_T[row, longest - len(prompt.ids) :] = 1
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=int(pad),
    )
    device = next(model.parameters()).device
    choose = _Choose([draws(prompt, sampling.seed) for prompt in prompts], sampling.temperature)
    with torch.no_grad(), _written_alone(model, settings) as inner:
        whole_B_T = inner.generate(
            input_ids=ids_B_T.to(device),
            attention_mask=mask_B_T.to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([choose]),
        )
    return [written(tokenizer, row[longest:], ends) for row in whole_B_T.tolist()]


class _Choose:
    """Choose the next token of every row by its own random number, and leave no other one to the greedy search."""

    def __init__(self, numbers: Sequence[Iterator[float]], temperature: float) -> None:
        self._numbers, self._temperature = numbers, temperature

    def __call__(self, input_ids: Tensor, scores_B_V: Tensor) -> Tensor:
        import torch

        drawn_B = torch.tensor([next(numbers) for numbers in self._numbers], dtype=torch.float64)
        chosen_B = choose(scores_B_V, drawn_B, self._temperature)
        return torch.full_like(scores_B_V, -torch.inf).scatter_(1, chosen_B[:, None], 0.0)


def choose(scores_B_V: Tensor, drawn_B: Tensor, temperature: float) -> Tensor:
    """Return the token of each row at which its cumulative probability exceeds the row's random number.

    Args:
        scores_B_V: logits.
        drawn_B: random numbers from 0 up to 1.
        temperature: divides the logits; 0 takes the largest.

    Raises:
        IntegrityError: logits that are no numbers.
    """
    import torch

    if bool(torch.isnan(scores_B_V).any()):
        raise IntegrityError(
            "the model's logits are no numbers (NaN); its weights, or their sums in this dtype, are broken"
        )
    if temperature == 0:
        return scores_B_V.argmax(dim=-1)
    shares_B_V = torch.softmax(scores_B_V.double() / temperature, dim=-1)
    cumulative_B_V = shares_B_V.cumsum(dim=-1)
    total_B_1 = cumulative_B_V[:, -1:]
    wanted_B_1 = drawn_B.to(scores_B_V.device)[:, None] * total_B_1
    # below the total also where the product is rounded up, so that no token of probability 0 is chosen
    wanted_B_1 = torch.minimum(wanted_B_1, torch.nextafter(total_B_1, torch.zeros_like(total_B_1)))
    return torch.searchsorted(cumulative_B_V, wanted_B_1, right=True)[:, 0]


def written(tokenizer: Any, tokens: Sequence[int], ends: frozenset[int]) -> Written:
    """Cut the tokens of an answer behind their first end token, and decode what stands before it."""
    length = next((at for at, token in enumerate(tokens) if token in ends), None)
    kept = tuple(tokens if length is None else tokens[: length + 1])
    text = tokenizer.decode(list(kept if length is None else kept[:-1]), skip_special_tokens=False)
    return Written(str(text), kept, "length" if length is None else "stop")
