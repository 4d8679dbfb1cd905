"""Define how a preference objective reads the answers to a prompt, exactly or by sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.data.run_rows import Preference
    from narrowly.train.objectives.protocol import Batch


class Read(NamedTuple):
    """Hold log-probabilities in nats that one pass over a micro-batch has given.

    Attributes:
        tokens_B_A_S: of each token of each answer, behind the one before it; 0 where there is none.
        late_B_A_S: of the same tokens, read at themselves and so one too late (departure 3b).
        contexts_B_C_V: of the next token behind each context in which the divergence is taken.
    """

    tokens_B_A_S: Tensor
    late_B_A_S: Tensor
    contexts_B_C_V: Tensor


class AnswerReader(Protocol):
    """Turn preferences into micro-batches, and read a model on them.

    Every batch holds said_B_A_S, 1 where an answer has a token, and scores_B_A of the answers of the data.
    """

    exact: bool
    """Whether the answers are all of the grammar; else those of the data come first, then two of the policy."""

    def batch(self, model: nn.Module, preferences: Sequence[Preference], names: Sequence[str]) -> Batch:
        """Return the micro-batch of some preferences; `names` tell the draws of each apart from all others."""

    def tokens(self, preference: Preference) -> int:
        """Return how many tokens a pass reads for a preference, padding left out; without sampled answers."""

    def read(self, model: nn.Module, batch: Batch) -> Read:
        """Return what a model says of a micro-batch that is on its device."""

    def reached(self, batch: Batch, first: Read) -> Tensor:
        """Return the weight (B, C) of each context under the first argument of the divergence."""
