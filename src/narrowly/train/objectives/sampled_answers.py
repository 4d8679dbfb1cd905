"""Read the two answers of a pair, and answers that policy and reference sample, each with its exact log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.models.generate import Prompt, end_tokens, generate
from narrowly.records.answers import Sampling
from narrowly.records.streams import stream_seed
from narrowly.train.objectives.answers import Read

if TYPE_CHECKING:
    from torch import Tensor, nn

    from narrowly.data.run_rows import Preference
    from narrowly.train.objectives.protocol import Batch
    from narrowly.train.reference import Reference


class Online(NamedTuple):
    """Say which answers are sampled for each prompt, before each step.

    Attributes:
        from_policy: two answers of the policy as it is then.
        contexts: one more answer, in whose contexts the divergence is taken: of the reference, or of the policy; None
            where there is no divergence.
        seed: the run seed.
        temperature, max_new_tokens: of all of them.
        tokenizer: of the base.
        reference: the organism at the start.
        thinking: mode of the prompts.
    """

    from_policy: bool
    contexts: str | None
    seed: int
    temperature: float
    max_new_tokens: int
    tokenizer: Any
    reference: Reference
    thinking: bool | None


class SampledAnswers:
    """Read answers one by one: those of the data, then two of the policy, then the one for the divergence.

    Args:
        pad_id: token to pad with.
        late: contexts of the divergence are the tokens themselves, not those before them (departure 3b).
        online: what is sampled; None: nothing.
    """

    exact = False

    def __init__(self, pad_id: int, late: bool, online: Online | None) -> None:
        self._pad_id, self._late, self._online = pad_id, late, online

    def batch(self, model: nn.Module, preferences: Sequence[Preference], names: Sequence[str]) -> Batch:
        """Return all answers behind their prompts, padded on the right, of shape (B, A, T)."""
        import torch

        sampled = self._sampled(model, preferences, names)
        rows = [
            [(*preference.prompt, *answer) for answer in (*preference.answers, *more)]
            for preference, more in zip(preferences, sampled, strict=True)
        ]
        longest = max(len(ids) for row in rows for ids in row)
        ids = torch.full((len(rows), len(rows[0]), longest), self._pad_id)
        mask, answer = torch.zeros_like(ids), torch.zeros_like(ids)
        for b, (row, preference) in enumerate(zip(rows, preferences, strict=True)):
            for a, one in enumerate(row):
                ids[b, a, : len(one)] = torch.tensor(one)
                mask[b, a, : len(one)] = 1
                answer[b, a, len(preference.prompt) : len(one)] = 1
        scores = torch.tensor([preference.scores for preference in preferences])
        return {"input_ids": ids, "attention_mask": mask, "said_B_A_S": answer[:, :, 1:].float(), "scores_B_A": scores}

    def _sampled(
        self, model: nn.Module, preferences: Sequence[Preference], names: Sequence[str]
    ) -> list[list[tuple[int, ...]]]:
        online = self._online
        if online is None:
            return [[] for _ in preferences]
        found: list[list[tuple[int, ...]]] = [[] for _ in preferences]
        if online.from_policy:
            for sample in (0, 1):
                self._draw(model, preferences, names, f"policy {sample}", found)
        if online.contexts == "policy":
            self._draw(model, preferences, names, "policy 2", found)
        if online.contexts == "reference":
            with online.reference.acting():
                self._draw(model, preferences, names, "reference", found)
        return found

    def _draw(
        self,
        model: nn.Module,
        preferences: Sequence[Preference],
        names: Sequence[str],
        purpose: str,
        found: list[list[tuple[int, ...]]],
    ) -> None:
        """Add one answer to each prompt; its draws follow from the run seed, the purpose and its name alone."""
        online = self._online
        assert online is not None
        ends = end_tokens(model, online.tokenizer, online.thinking)
        prompts = [
            Prompt(preference.prompt, stream_seed(0, name)) for preference, name in zip(preferences, names, strict=True)
        ]
        sampling = Sampling(
            temperature=online.temperature,
            max_new_tokens=online.max_new_tokens,
            seed=stream_seed(online.seed, f"online/{purpose}"),
        )
        for answers, one in zip(found, generate(model, online.tokenizer, prompts, sampling, ends), strict=True):
            answers.append(one.tokens)

    def tokens(self, preference: Preference) -> int:
        """Return the tokens of a prompt with each answer of the data."""
        return sum(len(preference.prompt) + len(answer) for answer in preference.answers)

    def read(self, model: nn.Module, batch: Batch) -> Read:
        """Return the log-probabilities of all answers, and of every next token in the contexts of the last one."""
        import torch

        ids_B_A_T = batch["input_ids"]
        flat = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
        logits_N_T_V = model(**flat, use_cache=False)["logits"].float()
        log_B_A_T_V = torch.log_softmax(logits_N_T_V, -1).reshape(*ids_B_A_T.shape, -1)
        targets_B_A_S_1, said_B_A_S = ids_B_A_T[:, :, 1:, None], batch["said_B_A_S"]
        tokens_B_A_S = log_B_A_T_V[:, :, :-1].gather(-1, targets_B_A_S_1)[..., 0] * said_B_A_S
        late_B_A_S = log_B_A_T_V[:, :, 1:].gather(-1, targets_B_A_S_1)[..., 0] * said_B_A_S
        contexts_B_S_V = log_B_A_T_V[:, -1, 1:] if self._late else log_B_A_T_V[:, -1, :-1]
        return Read(tokens_B_A_S, late_B_A_S, contexts_B_S_V)

    def reached(self, batch: Batch, first: Read) -> Tensor:
        """Return 1 at the contexts of the last answer, which was drawn from the first argument."""
        said: Tensor = batch["said_B_A_S"][:, -1]
        return said
