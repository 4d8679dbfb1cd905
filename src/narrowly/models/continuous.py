"""Let a model write many answers: a row that has ended makes room for the next prompt at once (continuous batching).

In a batch that runs until its longest answer ends, most rows wait. Here every row has a slot in the cache of keys and
values and a length of its own; a slot that is free takes the next prompt (Yu et al. 2022, Orca, OSDI 22, section 4).
Tokens are chosen as `generate` does, so that an answer depends on its prompt alone, up to rounding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from narrowly.models.generate import Prompt, Written, choose, draws, generate, written
from narrowly.models.likelihood import why_whole
from narrowly.records.answers import Sampling
from narrowly.records.likelihood import ScoredText

if TYPE_CHECKING:
    from torch import Tensor, nn

STEP = 64
"""Columns by which the cache grows."""


def generate_all(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    ends: frozenset[int],
    batch: int,
) -> list[Written]:
    """Write one answer to each prompt, at most `batch` at a time, and return them in the order of the prompts.

    Models that take no explicit positions and masks (`likelihood.why_whole`) write batch by batch.

    Args:
        model: in eval mode, with or without an adapter.
        tokenizer: of the model.
        prompts: of any lengths.
        sampling: how answers are drawn.
        ends: tokens that end an answer (`generate.end_tokens`).
        batch: answers written at a time, at least 1.

    Raises:
        IntegrityError: the model's logits are no numbers.
    """
    steps = generate_each(model, tokenizer, prompts, sampling, ends, batch)
    found = {at: one for step in steps for at, one in step}
    return [found[at] for at in range(len(prompts))]


def generate_each(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    ends: frozenset[int],
    batch: int,
) -> Iterator[list[tuple[int, Written]]]:
    """Yield answers as they end, each with the number of its prompt; arguments and errors are those of `generate_all`.

    Between two yields at most `batch` answers are under way, which a caller that stops here loses.
    """
    longest = max((len(prompt.ids) for prompt in prompts), default=0) + sampling.max_new_tokens
    if why_whole(model, [ScoredText((0,) * longest, ())]):
        for start in range(0, len(prompts), batch):
            own = prompts[start : start + batch]
            yield list(enumerate(generate(model, tokenizer, own, sampling, ends), start))
        return
    for ended in _rows(model, prompts, sampling, ends, batch):
        yield [(row.at, written(tokenizer, row.tokens, ends)) for row in ended]


class _Row:
    """One answer that is being written."""

    def __init__(self, at: int, prompt: Prompt, seed: int) -> None:
        self.at, self.length, self.numbers = at, len(prompt.ids), draws(prompt, seed)
        self.tokens: list[int] = []


def _rows(
    model: Any, prompts: Sequence[Prompt], sampling: Sampling, ends: frozenset[int], batch: int
) -> Iterator[list[_Row]]:
    """Yield the rows that have ended, step by step."""
    import torch

    from narrowly.models.few_rows import FewRows

    waiting = deque(enumerate(prompts))
    rows: list[_Row] = []
    slots = _Slots()
    while waiting or rows:
        with torch.inference_mode(), FewRows():  # left before a yield: both act on whatever the caller does
            new = [waiting.popleft() for _ in range(min(batch - len(rows), len(waiting)))]
            if new:
                started = [_Row(at, prompt, sampling.seed) for at, prompt in new]
                _take(slots.begin(model, [prompt.ids for _, prompt in new]), started, sampling.temperature)
                rows += started
            else:
                _take(slots.step(model, rows), rows, sampling.temperature)
            going = [len(row.tokens) < sampling.max_new_tokens and row.tokens[-1] not in ends for row in rows]
            if not all(going):
                slots.keep([place for place, on in enumerate(going) if on])
        if not all(going):
            yield [row for row, on in zip(rows, going, strict=True) if not on]
            rows = [row for row, on in zip(rows, going, strict=True) if on]


def _take(logits_B_V: Tensor, rows: Sequence[_Row], temperature: float) -> None:
    """Append the next token of every row."""
    import torch

    drawn_B = torch.tensor([next(row.numbers) for row in rows], dtype=torch.float64)
    for row, token in zip(rows, choose(logits_B_V.float(), drawn_B, temperature).tolist(), strict=True):
        row.tokens.append(token)


class _Slots:
    """The keys and values of all rows, one tensor per layer; each row fills its columns from the left."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        self._lengths: list[int] = []

    def begin(self, model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts into slots of their own, behind those there are, and return the logits behind each."""
        import torch
        from transformers import DynamicCache

        device = next(model.parameters()).device
        longest = max(map(len, prompts))
        ids_B_T = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_B_T[row, : len(prompt)] = torch.tensor(list(prompt))
        last_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        places_U, column_B = torch.unique(last_B, return_inverse=True)
        cache = DynamicCache()
        logits_B_U_V = model(  # padding stands on the right, where a causal model does not see it
            input_ids=ids_B_T.to(device), past_key_values=cache, use_cache=True, logits_to_keep=places_U
        ).logits
        self._add([(layer.keys, layer.values) for layer in cache.layers], [len(prompt) for prompt in prompts])
        logits_B_V: Tensor = logits_B_U_V[torch.arange(len(prompts), device=device), column_B]
        return logits_B_V

    def _add(self, layers: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> None:
        import torch

        columns = max([*self._lengths, *lengths]) + STEP
        if not self.layers:
            self.layers = [(_wider(keys, columns), _wider(values, columns)) for keys, values in layers]
        else:
            columns = max(columns, self.layers[0][0].shape[2])
            self.layers = [
                (
                    torch.cat([_wider(mine[0], columns), _wider(new[0], columns)]),
                    torch.cat([_wider(mine[1], columns), _wider(new[1], columns)]),
                )
                for mine, new in zip(self.layers, layers, strict=True)
            ]
        self._lengths += lengths

    def keep(self, places: Sequence[int]) -> None:
        """Free the slots of all other rows."""
        self.layers = [(keys[list(places)], values[list(places)]) for keys, values in self.layers] if places else []
        self._lengths = [self._lengths[place] for place in places]

    def step(self, model: Any, rows: Sequence[_Row]) -> Tensor:
        """Read the last token of every row, and return the logits behind it."""
        import torch

        device = next(model.parameters()).device
        width = max(self._lengths) + 1
        if width > self.layers[0][0].shape[2]:
            self.layers = [(_wider(keys, width + STEP), _wider(values, width + STEP)) for keys, values in self.layers]
        lengths_B = torch.tensor(self._lengths, device=device)
        unseen_B_T = torch.arange(width, device=device) > lengths_B[:, None]
        dtype = self.layers[0][0].dtype
        mask_B_1_1_T = torch.zeros(unseen_B_T.shape, dtype=dtype, device=device)
        mask_B_1_1_T = mask_B_1_1_T.masked_fill_(unseen_B_T, torch.finfo(dtype).min)[:, None, None]
        logits_B_V: Tensor = model(
            input_ids=torch.tensor([[row.tokens[-1]] for row in rows], device=device),
            position_ids=lengths_B[:, None],
            attention_mask=mask_B_1_1_T,
            past_key_values=_cache(self.layers, lengths_B, width),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._lengths = [length + 1 for length in self._lengths]
        return logits_B_V


def _wider(states_B_H_T_D: Tensor, columns: int) -> Tensor:
    """Return keys or values with zeros up to so many columns; what a mask hides must be a number."""
    import torch

    return torch.nn.functional.pad(states_B_H_T_D, (0, 0, 0, columns - states_B_H_T_D.shape[2]))


def _cache(layers: Sequence[tuple[Tensor, Tensor]], lengths_B: Tensor, width: int) -> Any:
    """Return the slots as a cache of Transformers that writes one token per row, each at the row's own column."""
    import torch
    from transformers.cache_utils import Cache, DynamicLayer

    rows_B = torch.arange(len(lengths_B), device=lengths_B.device)

    class Slot(DynamicLayer):  # type: ignore[misc]
        """One layer of the slots."""

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            """Write one token per row, and return all columns that a row has filled."""
            for states, new in ((self.keys, key_states), (self.values, value_states)):
                states[rows_B, :, lengths_B] = new[:, :, 0]
            return self.keys[:, :, :width], self.values[:, :, :width]

        def get_seq_length(self) -> int:
            """Return the columns before this token."""
            return width - 1

    made = []
    for keys, values in layers:
        layer = Slot()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        made.append(layer)
    return Cache(layers=made)
