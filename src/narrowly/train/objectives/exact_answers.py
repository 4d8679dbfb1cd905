"""Read every answer of the microworld's grammar in one pass, so that sums over answers are exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from narrowly.microworld.exact import Tree, grown, laid_out, tree_of
from narrowly.train.objectives.answers import Read

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.data.run_rows import Preference
    from narrowly.train.objectives.protocol import Batch


class ExactAnswers:
    """Read the prefix tree of all answers behind each prompt; the end of an answer is a node too (departure 3b).

    Args:
        pad_id: token to pad with.
        late: contexts of the divergence are the tokens themselves, not those before them (departure 3b).
    """

    exact = True

    def __init__(self, pad_id: int, late: bool) -> None:
        self._pad_id, self._late = pad_id, late

    def batch(self, model: nn.Module, preferences: Sequence[Preference], names: Sequence[str]) -> Batch:
        """Return the trees of some preferences, which must have equal numbers of answers."""
        import torch

        trees = [whole_tree(preference) for preference in preferences]
        layout = laid_out([preference.prompt for preference in preferences], trees, self._pad_id)
        nodes = max(len(tree.depths_N) for tree in trees)
        made = {
            "input_ids": layout.ids_B_T,
            "position_ids": layout.positions_B_T,
            "seen_B_T_T": layout.seen_B_T_T,
            "places_B_N": np.stack([np.pad(places, (0, nodes - len(places)), mode="edge") for places in layout.places]),
            "scores_B_A": np.array([preference.scores for preference in preferences], dtype=np.float32),
        }
        made |= _stacked(
            [self._of_tree(preference, tree, nodes) for preference, tree in zip(preferences, trees, strict=True)]
        )
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in made.items()}

    def _of_tree(self, preference: Preference, tree: Tree, nodes: int) -> dict[str, np.ndarray]:
        """Return where an answer's tokens are predicted and read, and how each node is reached."""
        longest = tree.targets_A_S.shape[1]
        own = np.zeros((len(preference.answers), longest), dtype=np.int64)
        by, depth, wanted = (np.zeros(nodes, dtype=kind) for kind in (np.int64, np.int64, np.float32))
        for a, answer in enumerate(preference.answers):
            for end in range(len(answer) + 1):
                node = tree.places[answer[:end]]
                by[node], depth[node] = a, end
                # the root predicts a first token, the end of an answer nothing
                wanted[node] = end > 0 if self._late else end < len(answer)
                if end:
                    own[a, end - 1] = node
        said = (tree.nodes_A_S >= 0).astype(np.float32)
        return {
            "nodes_B_A_S": np.maximum(tree.nodes_A_S, 0), "targets_B_A_S": tree.targets_A_S, "own_B_A_S": own,
            "said_B_A_S": said, "by_B_N": by, "depth_B_N": depth, "wanted_B_N": wanted,
        }  # fmt: skip

    def tokens(self, preference: Preference) -> int:
        """Return the tokens of a prompt and of its tree."""
        return len(preference.prompt) + len(whole_tree(preference).tokens_N)

    def read(self, model: nn.Module, batch: Batch) -> Read:
        """Return the log-probabilities of all answers, and of every next token behind each node."""
        import torch

        seen_B_T_T = batch["seen_B_T_T"]
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(seen_B_T_T.shape, dtype=dtype, device=seen_B_T_T.device)
        mask = mask.masked_fill(~seen_B_T_T, torch.finfo(dtype).min)[:, None]
        logits_B_T_V = model(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch["position_ids"], use_cache=False
        )["logits"]
        rows_B_1 = torch.arange(len(seen_B_T_T), device=seen_B_T_T.device)[:, None]
        log_B_N_V = torch.log_softmax(logits_B_T_V.float(), -1)[rows_B_1, batch["places_B_N"]]
        rows_B_1_1, said_B_A_S = rows_B_1[:, :, None], batch["said_B_A_S"]
        tokens_B_A_S = log_B_N_V[rows_B_1_1, batch["nodes_B_A_S"], batch["targets_B_A_S"]] * said_B_A_S
        late_B_A_S = log_B_N_V[rows_B_1_1, batch["own_B_A_S"], batch["targets_B_A_S"]] * said_B_A_S
        return Read(tokens_B_A_S, late_B_A_S, log_B_N_V)

    def reached(self, batch: Batch, first: Read) -> Tensor:
        """Return the probability of reaching each node, 0 where the divergence is not taken."""
        import torch
        from torch.nn.functional import pad

        said_so_far_B_A_S = pad(first.tokens_B_A_S.cumsum(2), (1, 0))
        rows_B_1 = torch.arange(len(said_so_far_B_A_S), device=said_so_far_B_A_S.device)[:, None]
        wanted_B_N: Tensor = batch["wanted_B_N"]
        return said_so_far_B_A_S[rows_B_1, batch["by_B_N"], batch["depth_B_N"]].exp() * wanted_B_N


def whole_tree(preference: Preference) -> Tree:
    """Return the prefix tree of a preference's answers, their last tokens included."""
    return grown(tree_of(preference.answers), preference.answers)


def _stacked(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
