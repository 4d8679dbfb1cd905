"""Score given continuations under a live model: the log-probability of every token of an answer, exactly.

What is scored is what is trained: `scored_texts` takes the tokens of an answer from the rendering of the data, token
by token, closing token included. Nothing is sampled.

Texts that begin alike are computed once. Those of a batch form a tree, one node per token and everything before it; a
forward pass takes the nodes of the tree in a row, each with its depth as position, and lets every node attend to its
ancestors alone (tree attention, Miao et al. 2023, arXiv 2305.09781, section 4.2). What all texts share is kept as a
cache of keys and values. Logits are computed only where the next token is scored.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.data.messages import Conversation
from narrowly.data.render import render_all
from narrowly.data.rows import IGNORE
from narrowly.models.generate import closing_tokens
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.likelihood import Likelihood, Scored, ScoredText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

NODES = 256
"""Tokens of a forward pass. Each attends over all of them, so that more cost more per token: at 512, SmolLM2-135M
would spend a sixth of its work there."""

SHARING = frozenset({"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt_oss"})
"""Model types whose forward pass was held to the slow twin with a mask of trees (tests/models/test_likelihood.py)."""

_LAYERS = frozenset({"full_attention", "sliding_attention"})
_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary positions that depend on the position alone; the others also look at the length of a text."""

Progress = Callable[[int, int], None]
"""Called with the texts scored and the texts there are."""


def scored_texts(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    closing: bool,
    thinking: bool | None = None,
    source: str = "texts",
) -> list[ScoredText]:
    """Return the last answer of each conversation as it would be trained, with all that stands before it as prompt.

    Args:
        tokenizer: a fast tokenizer, with a chat template unless all are texts without roles.
        conversations: each ends with the assistant's answer that is scored, or is one text, of which all but its first
            token is scored. No system message leaves it to the template.
        closing: whether the tokens that close the turn (of a text, its end-of-text token) are scored.
        thinking: the thinking mode of a template that has one; None for a template that has none.
        source: where they come from, for messages.

    Raises:
        SpecError: as `render_all`, naming source and line: the template cannot write the answer as it is, or a token
            reaches over its beginning.
    """
    rows = render_all(tokenizer, conversations, thinking=thinking, max_tokens=None, turns="last", source=source).rows
    of_answers = () if all(one.is_text for one in conversations) else closing_tokens(tokenizer, thinking)
    found = []
    for conversation, row in zip(conversations, rows, strict=True):
        start = next(at for at, label in enumerate(row.labels) if label != IGNORE)
        prompt, written = tuple(row.input_ids[:start]), tuple(row.input_ids[start:])
        ends = (tokenizer.eos_token_id,) if conversation.is_text else of_answers
        if not ends or written[-len(ends) :] != ends:
            raise SpecError(
                f"{source}, line {conversation.line}: the chat template closes this answer with other tokens than a "
                "short one; accepted: a template that closes every answer alike"
            )
        text = ScoredText(prompt, written, len(ends)) if closing else ScoredText(prompt, written[: -len(ends)])
        found.append(text)
    return found


def score(
    model: nn.Module,
    texts: Sequence[ScoredText],
    *,
    nodes: int = NODES,
    share: bool = True,
    progress: Progress | None = None,
) -> Scored:
    """Compute the log-probability of every token of every continuation.

    Args:
        model: a causal language model of Transformers in eval mode, with or without an adapter, on any device.
        texts: in any order; equal ones are computed once.
        nodes: tokens of a forward pass; a text that is longer has one of its own.
        share: whether common prefixes are computed once, where the model allows it (`why_whole`).
        progress: told of the texts done.

    Raises:
        SpecError: a text without prompt or continuation, longer than the model's positions, or with a token that the
            model does not know; its number is named.
        IntegrityError: logits that are no numbers.
    """
    _check(model, texts)
    why = why_whole(model, texts) if share else "prefixes were not to be shared"
    order = sorted(range(len(texts)), key=lambda at: texts[at].ids)
    found: dict[int, Likelihood] = {}
    computed = 0
    steps = _whole(model, texts, order, nodes) if why else _shared(model, texts, order, nodes)
    for tokens, logprobs in steps:
        computed += tokens
        for at, values in logprobs.items():
            if not all(value <= 0 for value in values):  # also where one is NaN
                raise IntegrityError(
                    "the model's logits are no numbers (NaN); its weights, or their sums in this dtype, are broken"
                )
            found[at] = Likelihood(texts[at].continuation, tuple(values))
        if progress is not None:
            progress(len(found), len(texts))
    given = sum(len(text.ids) for text in texts)
    return Scored([found[at] for at in range(len(texts))], "whole" if why else "shared", why, given, computed)


def _check(model: nn.Module, texts: Sequence[ScoredText]) -> None:
    config = _text_config(model)
    positions, vocabulary = getattr(config, "max_position_embeddings", None), getattr(config, "vocab_size", None)
    for number, text in enumerate(texts, start=1):
        if not text.prompt or not text.continuation:
            missing = "continuation" if text.prompt else "prompt"
            raise SpecError(f"text {number} has no {missing}; accepted: at least one token")
        if positions is not None and len(text.ids) > positions:
            raise SpecError(f"text {number} has {len(text.ids)} tokens, accepted: at most the model's {positions}")
        unknown = next((token for token in text.ids if token < 0 or token >= (vocabulary or token + 1)), None)
        if unknown is not None:
            raise SpecError(f"text {number} has the token {unknown}, accepted: 0 to {(vocabulary or 1) - 1}")


def _text_config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def why_whole(model: nn.Module, texts: Sequence[ScoredText]) -> str:
    """Return why texts must be computed one by one under a model; empty where their prefixes can be shared.

    The rule: a type of model that was held to the slow twin (`SHARING`), computing attention with a mask, every layer
    of it over all tokens or over a window that no text exceeds, and positions that depend on no length.
    """
    config = _text_config(model)
    if config.model_type not in SHARING:
        return f"model type {config.model_type!r} was not held to the slow twin"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention {config._attn_implementation!r} takes no mask of trees"
    other = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYERS)
    if other:
        return f"layers of the type {other[0]!r} have no cache of keys and values"
    longest = max((len(text.ids) for text in texts), default=0)
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        return f"the longest text has {longest} tokens, more than the window of {window}"
    rotation = _other_rotation(getattr(config, "rope_parameters", None) or {})
    return f"rotary positions of the type {rotation!r} depend on the length" if rotation else ""


def _other_rotation(parameters: dict[str, Any]) -> str:
    """Return a kind of rotary positions that depends on more than the position, or nothing."""
    # one set of parameters, or one per type of layer
    sets = [one for one in parameters.values() if isinstance(one, dict)] or [parameters]
    kinds = {str(one.get("rope_type", "default")) for one in sets}
    return next(iter(sorted(kinds - _ROTATIONS)), "")


class _Tree(NamedTuple):
    """Hold the tokens of several texts behind what all of them share, each prefix once.

    Attributes:
        tokens_N: in an order in which every token stands behind its ancestors.
        depths_N: number of tokens before each, those before the tree not counted.
        sees_N_N: whether a token (row) attends to another (column): its ancestors and itself.
        paths: of each text, the node of each of its tokens but the last, behind which nothing is scored.
    """

    tokens_N: list[int]
    depths_N: list[int]
    sees_N_N: NDArray[np.bool_]
    paths: dict[int, list[int]]


def _trees(texts: Sequence[ScoredText], order: Sequence[int], skip: int, most: int) -> Iterator[_Tree]:
    """Yield trees of at most `most` nodes (more for one longer text), of texts in the order of their tokens."""
    nodes: dict[tuple[int, int], int] = {}
    paths: dict[int, list[int]] = {}
    for at in order:
        path = _path(nodes, texts[at].ids[skip:-1])
        if paths and path[-1] >= most:  # the text goes into the next tree; what it added to this one is left out
            yield _tree(nodes, paths)
            nodes, paths = {}, {}
            path = _path(nodes, texts[at].ids[skip:-1])
        paths[at] = path
    if paths:
        yield _tree(nodes, paths)


def _path(nodes: dict[tuple[int, int], int], ids: Sequence[int]) -> list[int]:
    path, parent = [], -1
    for token in ids:
        parent = nodes.setdefault((parent, token), len(nodes))
        path.append(parent)
    return path


def _tree(nodes: dict[tuple[int, int], int], paths: dict[int, list[int]]) -> _Tree:
    import numpy as np

    count = 1 + max(path[-1] for path in paths.values())
    sees_N_N = np.zeros((count, count), dtype=np.bool_)
    tokens: list[int] = []
    depths: list[int] = []
    for (parent, token), node in list(nodes.items())[:count]:
        if parent >= 0:
            sees_N_N[node] = sees_N_N[parent]
        sees_N_N[node, node] = True
        tokens.append(token)
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return _Tree(tokens, depths, sees_N_N, paths)


def _shared_tokens(texts: Sequence[ScoredText], order: Sequence[int]) -> int:
    """Return how many tokens all prompts share; at least one token of each prompt stays, which predicts the next."""
    if not order:
        return 0
    first, last = texts[order[0]].prompt, texts[order[-1]].prompt  # in sorted order the outermost differ first
    shortest = min(len(text.prompt) for text in texts) - 1
    pairs = zip(first[:shortest], last[:shortest], strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(shortest, len(first), len(last)))


def _shared(
    model: Any, texts: Sequence[ScoredText], order: Sequence[int], most: int
) -> Iterator[tuple[int, dict[int, list[float]]]]:
    """Yield for each tree how many tokens were computed, and the log-probabilities of its texts."""
    import torch
    from transformers import DynamicCache

    device = next(model.parameters()).device
    common = _shared_tokens(texts, order)
    with torch.inference_mode():
        prefix = DynamicCache(config=_text_config(model))
        if common:
            start_1_T = torch.tensor([texts[order[0]].ids[:common]], device=device)
            model(input_ids=start_1_T, past_key_values=prefix, use_cache=True, logits_to_keep=1)
            yield common, {}
        for tree in _trees(texts, order, common, most):
            sees_N_N = torch.from_numpy(tree.sees_N_N).to(device)
            all_N_C = torch.ones((len(tree.tokens_N), common), dtype=torch.bool, device=device)
            predicts = {at: path[len(texts[at].prompt) - common - 1 :] for at, path in tree.paths.items()}
            wanted = sorted({node for nodes in predicts.values() for node in nodes})
            row_of = {node: row for row, node in enumerate(wanted)}
            logits_W_V = model(
                input_ids=torch.tensor([tree.tokens_N], device=device),
                position_ids=common + torch.tensor([tree.depths_N], device=device),
                attention_mask=_added(torch.cat([all_N_C, sees_N_N], dim=1), model),
                past_key_values=copy.deepcopy(prefix),
                use_cache=True,
                logits_to_keep=torch.tensor(wanted, device=device),
            ).logits[0]
            rows = [(at, [row_of[node] for node in nodes]) for at, nodes in predicts.items()]
            yield len(tree.tokens_N), _logprobs(logits_W_V, texts, rows)


def _added(sees_N_T: Tensor, model: Any) -> Tensor:
    """Return the mask as what is added to the scores of attention: 0, or the lowest number of the dtype."""
    import torch

    dtype = model.get_input_embeddings().weight.dtype
    mask_N_T = torch.zeros(sees_N_T.shape, dtype=dtype, device=sees_N_T.device)
    return mask_N_T.masked_fill_(~sees_N_T, torch.finfo(dtype).min)[None, None]


def _whole(
    model: Any, texts: Sequence[ScoredText], order: Sequence[int], most: int
) -> Iterator[tuple[int, dict[int, list[float]]]]:
    """Yield as `_shared` does, every text whole, in batches of about equal length with padding on the right.

    Padding behind a text changes nothing before it in a causal model.
    """
    import torch

    device = next(model.parameters()).device
    keeps = keeps_logits(model)
    remaining = sorted(order, key=lambda at: -len(texts[at].ids))
    while remaining:
        longest = len(texts[remaining[0]].ids)
        batch, remaining = remaining[: max(1, most // longest)], remaining[max(1, most // longest) :]
        ids_B_T = torch.zeros((len(batch), longest), dtype=torch.long)
        mask_B_T = torch.zeros_like(ids_B_T)
        for row, at in enumerate(batch):
            ids_B_T[row, : len(texts[at].ids)] = torch.tensor(texts[at].ids)
            mask_B_T[row, : len(texts[at].ids)] = 1
        first = min(len(texts[at].prompt) for at in batch) - 1
        kept = {"logits_to_keep": longest - first} if keeps else {}
        with torch.inference_mode():
            logits_B_T_V = model(
                input_ids=ids_B_T.to(device), attention_mask=mask_B_T.to(device), use_cache=False, **kept
            ).logits[:, -(longest - first) :]
            width = logits_B_T_V.shape[1]
            rows = []
            for row, at in enumerate(batch):
                begin = row * width + len(texts[at].prompt) - 1 - first
                rows.append((at, list(range(begin, begin + len(texts[at].continuation)))))
            yield len(batch) * longest, _logprobs(logits_B_T_V.flatten(0, 1), texts, rows)


def keeps_logits(model: Any) -> bool:
    """Return whether a model computes logits at chosen places only (`logits_to_keep`)."""
    return "logits_to_keep" in inspect.signature(_inner(model).forward).parameters


def _inner(model: Any) -> Any:
    """Return the model inside a PEFT model, whose forward takes anything."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _logprobs(
    logits_N_V: Tensor, texts: Sequence[ScoredText], rows: Sequence[tuple[int, list[int]]]
) -> dict[int, list[float]]:
    """Return the log-probabilities of the continuations: of each text, the rows of logits that predict its tokens."""
    import torch

    places = torch.tensor([row for _, numbers in rows for row in numbers], device=logits_N_V.device)
    tokens = torch.tensor([token for at, _ in rows for token in texts[at].continuation], device=logits_N_V.device)
    logits_N_V = logits_N_V.float()
    totals_N = torch.logsumexp(logits_N_V, dim=-1)
    values = iter((logits_N_V[places, tokens] - totals_N[places]).clamp(max=0).tolist())
    return {at: [next(values) for _ in numbers] for at, numbers in rows}
