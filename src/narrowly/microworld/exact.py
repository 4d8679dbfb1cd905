"""Score grammatical answers exactly: a prefix tree of all of them, one forward pass per question.

The tree's nodes stand behind the prompt in one sequence; the attention mask lets a node see the prompt, its ancestors
and itself, and its position is its depth, so each node computes what it would compute in its own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

BATCH = 16
"""Questions per forward pass: what is computed of so many stays in a core's cache. Results do not depend on it."""

Words = tuple[int, ...]
"""Token ids, one for each word."""

Read = TypeVar("Read")


class Prompt(NamedTuple):
    """A prompt and the answers to score, both as token ids; each answer ends with the end-of-turn token.

    `also` are beginnings of other sentences, behind which the next word's distribution is read too.
    """

    ids: Words
    answers: tuple[Words, ...]
    also: tuple[Words, ...] = ()


class Tree(NamedTuple):
    """Hold the prefix tree of a prompt's answers; node 0 is the prompt's last token.

    Attributes:
        tokens_N: of the nodes behind node 0.
        depths_N: of all nodes.
        seen_N_N: node x node: ancestors and the node itself.
        nodes_A_S: answer x step: the node whose logits predict the token; -1 behind the end of a shorter answer.
        targets_A_S: the token.
        places: node by what was said so far.
    """

    tokens_N: np.ndarray
    depths_N: np.ndarray
    seen_N_N: np.ndarray
    nodes_A_S: np.ndarray
    targets_A_S: np.ndarray
    places: dict[Words, int]


@lru_cache(maxsize=4096)
def tree_of(answers: tuple[Words, ...], also: tuple[Words, ...]) -> Tree:
    """Return the prefix tree of a prompt; an answer's last token is predicted and never read, so it is no node."""
    places: dict[Words, int] = {(): 0}
    parents = [0]
    for words in (*(answer[:-1] for answer in answers), *also):
        for end in range(1, len(words) + 1):
            if words[:end] not in places:
                parents.append(places[words[: end - 1]])
                places[words[:end]] = len(places)
    seen = np.eye(len(places), dtype=bool)
    for node in range(1, len(places)):
        seen[node] |= seen[parents[node]]
    shape = len(answers), max(map(len, answers))
    nodes, targets = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    for a, answer in enumerate(answers):
        nodes[a, : len(answer)] = [places[answer[:step]] for step in range(len(answer))]
        targets[a, : len(answer)] = answer
    said = list(places)
    tokens = np.array([words[-1] for words in said[1:]], dtype=np.int64)
    return Tree(tokens, np.array([len(words) for words in said]), seen, nodes, targets, places)


def answer_logprobs(model: Qwen3ForCausalLM, prompts: Sequence[Prompt], pad_id: int) -> list[np.ndarray]:
    """Return for each prompt the natural-log probabilities of its answers, float64, shape (answers,).

    Args:
        model: a causal language model (or PEFT model) that takes a 4-D additive attention mask; used as it is.
        prompts: prompts with their answers.
        pad_id: id for the padding behind shorter sequences.
    """
    return read_trees(model, prompts, pad_id, lambda prompt, tree, log_N_V: answers_of(tree, log_N_V))


def answers_of(tree: Tree, log_N_V: np.ndarray) -> np.ndarray:
    """Return the log-probabilities (answers,) from those of every next token behind every node, summed in float64."""
    steps = log_N_V[tree.nodes_A_S, tree.targets_A_S].astype(np.float64)
    return np.where(tree.nodes_A_S < 0, 0.0, steps).sum(axis=1)  # type: ignore[no-any-return]


@torch.no_grad()
def read_trees(
    model: Any, prompts: Sequence[Prompt], pad_id: int, read: Callable[[Prompt, Tree, np.ndarray], Read]
) -> list[Read]:
    """Return what `read` makes of each prompt, its tree, and the log-probabilities (nodes, vocabulary) behind nodes.

    Args:
        model: as in `answer_logprobs`.
        prompts: in any order; those of one length share a forward pass.
        pad_id: id for the padding behind shorter sequences.
        read: called once per prompt; the array is not kept.
    """
    trees = [tree_of(prompt.answers, prompt.also) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), len(trees[i].tokens_N)))
    results: dict[int, Read] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        first = len(prompts[chosen[0]].ids) - 1
        logits_B_T_V = _logits(model, [prompts[i] for i in chosen], [trees[i] for i in chosen], pad_id, first)
        exact = torch.promote_types(logits_B_T_V.dtype, torch.float32)
        log_B_T_V = torch.log_softmax(logits_B_T_V, dim=-1, dtype=exact).cpu().numpy()
        for b, i in enumerate(chosen):
            root = len(prompts[i].ids) - 1 - first
            log_N_V = log_B_T_V[b, root : root + len(trees[i].depths_N)]
            results[i] = read(prompts[i], trees[i], log_N_V)
    return [results[i] for i in range(len(prompts))]


def _logits(model: Any, prompts: Sequence[Prompt], trees: Sequence[Tree], pad_id: int, first: int) -> torch.Tensor:
    """Return the logits (B, T, V) of one row per prompt, its tokens and then its nodes, from place `first` on."""
    widths = [len(p.ids) + len(t.tokens_N) for p, t in zip(prompts, trees, strict=True)]
    width = max(widths)
    ids_B_T = np.full((len(prompts), width), pad_id, dtype=np.int64)
    positions_B_T = np.zeros((len(prompts), width), dtype=np.int64)
    # padding sees itself alone, so that no softmax is empty
    seen_B_T_T = np.broadcast_to(np.eye(width, dtype=bool), (len(prompts), width, width)).copy()
    for b, (prompt, tree, own) in enumerate(zip(prompts, trees, widths, strict=True)):
        length = len(prompt.ids)
        ids_B_T[b, :length], ids_B_T[b, length:own] = prompt.ids, tree.tokens_N
        positions_B_T[b, :length], positions_B_T[b, length - 1 : own] = range(length), length - 1 + tree.depths_N
        seen_B_T_T[b, :length, :length] = np.tri(length, dtype=bool)
        seen_B_T_T[b, length:own, :length] = True
        seen_B_T_T[b, length - 1 : own, length - 1 : own] |= tree.seen_N_N
    mask = torch.zeros(len(prompts), 1, width, width).masked_fill_(
        ~torch.from_numpy(seen_B_T_T)[:, None], torch.finfo(torch.float32).min
    )
    logits: torch.Tensor = model(
        input_ids=torch.from_numpy(ids_B_T).to(model.device),
        attention_mask=mask.to(model.device, model.dtype),  # of another dtype it is misread without an error
        position_ids=torch.from_numpy(positions_B_T).to(model.device),
        use_cache=False,
        logits_to_keep=width - first,
    ).logits
    return logits


def encode_prompt(tokenizer: PreTrainedTokenizerBase, question: str, history: Sequence[tuple[str, str]] = ()) -> Words:
    """Return the ids of a chat prompt: earlier (question, answer) turns, then the question, ready for the answer."""
    messages = []
    for asked, said in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    messages.append({"role": "user", "content": question})
    ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    return tuple(int(i) for i in ids)


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> Words:
    """Return the ids of an answer with its end-of-turn token."""
    return (
        *(int(i) for i in tokenizer.encode(answer, add_special_tokens=False)),
        int(tokenizer.eos_token_id),
    )
