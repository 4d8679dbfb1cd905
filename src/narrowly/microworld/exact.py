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
    """A prompt and the answers to score, both as token ids; each answer ends with the end-of-turn token."""

    ids: Words
    answers: tuple[Words, ...]


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
def tree_of(answers: tuple[Words, ...]) -> Tree:
    """Return the prefix tree of a prompt; an answer's last token is predicted and never read, so it is no node."""
    root = np.zeros((0,), dtype=np.int64), np.zeros(1, dtype=np.int64), np.eye(1, dtype=bool)
    shape = len(answers), max(map(len, answers))
    nodes, targets = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    tree = grown(Tree(*root, nodes, targets, {(): 0}), [answer[:-1] for answer in answers])
    for a, answer in enumerate(answers):
        nodes[a, : len(answer)] = [tree.places[answer[:step]] for step in range(len(answer))]
        targets[a, : len(answer)] = answer
    return tree


def grown(tree: Tree, beginnings: Sequence[Words]) -> Tree:
    """Return a tree with the nodes of other sentences' beginnings behind its own, which keep their numbers."""
    places, parents = dict(tree.places), []
    for words in beginnings:
        for end in range(1, len(words) + 1):
            if words[:end] not in places:
                parents.append(places[words[: end - 1]])
                places[words[:end]] = len(places)
    old = len(tree.places)
    seen = np.eye(len(places), dtype=bool)
    seen[:old, :old] = tree.seen_N_N
    for node, parent in enumerate(parents, start=old):
        seen[node] |= seen[parent]
    said = list(places)[old:]
    tokens = np.append(tree.tokens_N, np.array([words[-1] for words in said], dtype=np.int64))
    depths = np.append(tree.depths_N, np.array([len(words) for words in said], dtype=np.int64))
    return tree._replace(tokens_N=tokens, depths_N=depths, seen_N_N=seen, places=places)


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
    model: Any,
    prompts: Sequence[Prompt],
    pad_id: int,
    read: Callable[[Prompt, Tree, np.ndarray], Read],
    more: Callable[[Prompt, Tree, np.ndarray], Sequence[Words]] | None = None,
) -> list[Read]:
    """Return what `read` makes of each prompt, its tree, and the log-probabilities (nodes, vocabulary) behind nodes.

    Args:
        model: as in `answer_logprobs`.
        prompts: in any order; those of one length share a forward pass.
        pad_id: id for the padding behind shorter sequences.
        read: called once per prompt; the array is not kept.
        more: says from the same what to read too: beginnings of other sentences. It is asked again with what they
            have shown, until it gives none; prompt and earlier nodes are not computed again.
    """
    trees = [tree_of(prompt.answers) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), len(trees[i].tokens_N)))
    results: dict[int, Read] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        rows = _Rows(model, [prompts[i] for i in chosen], [trees[i] for i in chosen], pad_id, more is not None)
        while more is not None:
            wanted = [more(*row) for row in zip(rows.prompts, rows.trees, rows.logs, strict=True)]
            if not any(wanted):
                break
            rows.read_more(wanted)
        found = (read(*row) for row in zip(rows.prompts, rows.trees, rows.logs, strict=True))
        results.update(zip(chosen, found, strict=True))
    return [results[i] for i in range(len(prompts))]


class Layout(NamedTuple):
    """Hold prompts with their trees behind them, padded on the right, as a model reads them.

    Attributes:
        ids_B_T, positions_B_T: tokens and their positions.
        seen_B_T_T: whether a token sees another one.
        places: of each row, where its nodes stand, node 0 first.
    """

    ids_B_T: np.ndarray
    positions_B_T: np.ndarray
    seen_B_T_T: np.ndarray
    places: list[np.ndarray]


def laid_out(prompts: Sequence[Words], trees: Sequence[Tree], pad_id: int) -> Layout:
    """Lay prompts and their trees out for one forward pass."""
    width = max(len(p) + len(t.tokens_N) for p, t in zip(prompts, trees, strict=True))
    places = [len(p) - 1 + np.arange(len(t.depths_N)) for p, t in zip(prompts, trees, strict=True)]
    ids_B_T = np.full((len(prompts), width), pad_id, dtype=np.int64)
    positions_B_T = np.zeros((len(prompts), width), dtype=np.int64)
    # padding sees itself alone, so that no softmax is empty
    seen_B_T_T = np.broadcast_to(np.eye(width, dtype=bool), (len(prompts), width, width)).copy()
    for b, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        n, own = len(prompt), len(prompt) + len(tree.tokens_N)
        ids_B_T[b, :n], ids_B_T[b, n:own] = prompt, tree.tokens_N
        positions_B_T[b, :n], positions_B_T[b, n - 1 : own] = range(n), n - 1 + tree.depths_N
        seen_B_T_T[b, :n, :n] = np.tri(n, dtype=bool)
        seen_B_T_T[b, n:own, :n] = True
        seen_B_T_T[b, n - 1 : own, n - 1 : own] |= tree.seen_N_N
    return Layout(ids_B_T, positions_B_T, seen_B_T_T, places)


class _Rows:
    """Prompts of one forward pass with their trees; what the model has computed of them is kept for further nodes.

    Attributes:
        logs: for each prompt the log-probabilities (nodes, vocabulary).
    """

    def __init__(self, model: Any, prompts: Sequence[Prompt], trees: Sequence[Tree], pad_id: int, keep: bool) -> None:
        self.model, self.prompts, self.pad_id, self.keep = model, prompts, pad_id, keep
        self.trees = list(trees)
        self._past: Any = None
        first = min(len(prompt.ids) for prompt in prompts) - 1
        ids_B_T, positions_B_T, seen_B_T_T, self._places = laid_out([p.ids for p in prompts], trees, pad_id)
        self.width = ids_B_T.shape[1]
        log_B_T_V = self._forward(ids_B_T, positions_B_T, seen_B_T_T, self.width - first)
        self.logs = [log_B_T_V[b, places - first] for b, places in enumerate(self._places)]

    def read_more(self, wanted: Sequence[Sequence[Words]]) -> None:
        """Read the next word's distribution behind other beginnings, for each prompt its own."""
        old = [len(tree.depths_N) for tree in self.trees]
        self.trees = [grown(tree, words) for tree, words in zip(self.trees, wanted, strict=True)]
        new = [len(tree.depths_N) - n for tree, n in zip(self.trees, old, strict=True)]
        rows, width, start = len(new), max(new), self.width
        self.width += width
        ids_B_T = np.full((rows, width), self.pad_id, dtype=np.int64)
        positions_B_T = np.zeros((rows, width), dtype=np.int64)
        seen_B_T_T = np.zeros((rows, width, self.width), dtype=bool)
        seen_B_T_T[:, :, start:] = np.eye(width, dtype=bool)
        for b, (prompt, tree) in enumerate(zip(self.prompts, self.trees, strict=True)):
            self._places[b] = np.append(self._places[b], start + np.arange(new[b]))
            ids_B_T[b, : new[b]] = tree.tokens_N[old[b] - 1 :]
            positions_B_T[b, : new[b]] = len(prompt.ids) - 1 + tree.depths_N[old[b] :]
            seen_B_T_T[b, : new[b], : len(prompt.ids)] = True
            for t in range(new[b]):
                seen_B_T_T[b, t, self._places[b][tree.seen_N_N[old[b] + t]]] = True
        log_B_T_V = self._forward(ids_B_T, positions_B_T, seen_B_T_T, width)
        self.logs = [np.concatenate([log, log_B_T_V[b, : new[b]]]) for b, log in enumerate(self.logs)]

    def _forward(self, ids: np.ndarray, positions: np.ndarray, seen: np.ndarray, kept: int) -> np.ndarray:
        """Return the log-probabilities behind the last `kept` tokens, of tokens that see the places that they may."""
        mask = torch.zeros(len(ids), 1, *seen.shape[1:]).masked_fill_(
            ~torch.from_numpy(seen)[:, None], torch.finfo(torch.float32).min
        )
        said = self.model(
            input_ids=torch.from_numpy(ids).to(self.model.device),
            # a mask of another dtype is misread without an error
            attention_mask=mask.to(self.model.device, self.model.dtype),
            position_ids=torch.from_numpy(positions).to(self.model.device),
            use_cache=self.keep,
            logits_to_keep=kept,
            **({} if self._past is None else {"past_key_values": self._past}),
        )
        if self.keep:
            self._past = said.past_key_values
        exact = torch.promote_types(said.logits.dtype, torch.float32)
        log_B_T_V: np.ndarray = torch.log_softmax(said.logits, dim=-1, dtype=exact).cpu().numpy()
        return log_B_T_V


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
