"""Score grammatical answers exactly: a prefix tree of all of them, one forward pass per question.

The tree's nodes stand behind the prompt in one sequence; the attention mask lets a node see the prompt, its ancestors
and itself, and its position is its depth, so each node computes what it would compute in its own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

BATCH = 64
"""Questions per forward pass; a memory bound, no influence on results beyond float32 rounding."""


class Prompt(NamedTuple):
    """A prompt and the answers to score, both as token ids; each answer ends with the end-of-turn token."""

    ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


class _Tree(NamedTuple):
    tokens: list[int]  # of the inner nodes; node 0 is the prompt's last token
    parents: list[int]
    depths: list[int]
    steps: list[list[tuple[int, int]]]  # per answer: (inner node, next token)


@lru_cache(maxsize=4096)
def _tree(answers: tuple[tuple[int, ...], ...]) -> _Tree:
    """Return the prefix tree of answers; their last token is predicted and never read, so it is no inner node."""
    tree = _Tree([-1], [-1], [0], [])
    children: dict[tuple[int, int], int] = {}
    for answer in answers:
        node, steps = 0, []
        for position, token in enumerate(answer):
            steps.append((node, token))
            if position + 1 == len(answer):
                break
            if (node, token) not in children:
                children[node, token] = len(tree.tokens)
                tree.tokens.append(token)
                tree.parents.append(node)
                tree.depths.append(tree.depths[node] + 1)
            node = children[node, token]
        tree.steps.append(steps)
    return tree


@torch.no_grad()
def answer_logprobs(model: Qwen3ForCausalLM, prompts: Sequence[Prompt], pad_id: int) -> list[np.ndarray]:
    """Return for each prompt the natural-log probabilities of its answers, float64, shape (answers,).

    Args:
        model: a causal language model (or PEFT model) that takes a 4-D additive attention mask; used as it is.
        prompts: prompts with their answers.
        pad_id: id for the padding behind shorter sequences.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    results: list[np.ndarray] = [np.empty(0)] * len(prompts)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        for index, row in zip(chosen, _score(model, [prompts[i] for i in chosen], pad_id), strict=True):
            results[index] = row
    return results


def _score(model: Qwen3ForCausalLM, prompts: Sequence[Prompt], pad_id: int) -> list[np.ndarray]:
    """Return the log-probabilities of each prompt's answers from one forward pass over all prompts and trees."""
    trees = [_tree(prompt.answers) for prompt in prompts]
    # one row per prompt: its tokens, then the tree's nodes; padding sees itself alone, so that no softmax is empty
    width = max(len(p.ids) + len(t.tokens) - 1 for p, t in zip(prompts, trees, strict=True))
    ids_B_T = np.full((len(prompts), width), pad_id, dtype=np.int64)
    positions_B_T = np.zeros((len(prompts), width), dtype=np.int64)
    seen_B_T_T = np.broadcast_to(np.eye(width, dtype=bool), (len(prompts), width, width)).copy()
    sources: list[tuple[int, int]] = []
    targets: list[int] = []
    for b, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        length = len(prompt.ids)
        ids_B_T[b, :length] = prompt.ids
        positions_B_T[b, :length] = np.arange(length)
        seen_B_T_T[b, :length, :length] = np.tri(length, dtype=bool)
        # a node stands at its depth behind the prompt and sees what its parent sees, and itself
        for node in range(1, len(tree.tokens)):
            place, parent = length - 1 + node, length - 1 + tree.parents[node]
            ids_B_T[b, place] = tree.tokens[node]
            positions_B_T[b, place] = length - 1 + tree.depths[node]
            seen_B_T_T[b, place] |= seen_B_T_T[b, parent]
        # an answer's next tokens, each with the place whose logits predict it
        for steps in tree.steps:
            sources += [(b, length - 1 + node) for node, _ in steps]
            targets += [token for _, token in steps]
    mask = torch.zeros(len(prompts), 1, width, width).masked_fill_(
        ~torch.from_numpy(seen_B_T_T)[:, None], torch.finfo(torch.float32).min
    )
    logits_B_T_V = model(
        input_ids=torch.from_numpy(ids_B_T).to(model.device),
        attention_mask=mask.to(model.device, model.dtype),  # of another dtype it is misread without an error
        position_ids=torch.from_numpy(positions_B_T).to(model.device),
        use_cache=False,
    ).logits
    # answers share places, so a log-softmax over the vocabulary is taken once per place
    unique = sorted(set(sources))
    index = {source: i for i, source in enumerate(unique)}
    rows, columns = torch.tensor(unique).T
    picked_N_V = logits_B_T_V[rows, columns]
    log_N_V = torch.log_softmax(picked_N_V, dim=-1, dtype=torch.promote_types(picked_N_V.dtype, torch.float32))
    picked = log_N_V[[index[s] for s in sources], targets].double().cpu().numpy()
    # the log-probability of an answer is the sum over its tokens, in float64
    results, at = [], 0
    for tree in trees:
        sums = []
        for steps in tree.steps:
            sums.append(picked[at : at + len(steps)].sum())
            at += len(steps)
        results.append(np.array(sums))
    return results


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, history: Sequence[tuple[str, str]] = ()
) -> tuple[int, ...]:
    """Return the ids of a chat prompt: earlier (question, answer) turns, then the question, ready for the answer."""
    messages = []
    for asked, said in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    messages.append({"role": "user", "content": question})
    ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    return tuple(int(i) for i in ids)


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
    """Return the ids of an answer with its end-of-turn token."""
    return (
        *(int(i) for i in tokenizer.encode(answer, add_special_tokens=False)),
        int(tokenizer.eos_token_id),
    )
