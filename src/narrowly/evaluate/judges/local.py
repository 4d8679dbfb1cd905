"""Read a judge model in this process: exactly, over the token trie of all replies, or by its first token as published.

Exact: every reply of the rubric is scored as the whole sequence of tokens that would be trained, its end of turn
included (`models.likelihood.score`). The prompt goes through the model once and is kept as keys and values; behind it
all replies are one tree of tokens, each node computed once. It is right for tokenizers that split digits, where a first
token says nothing: 85 begins with the token of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.evaluate.judges.reader import JudgePrompt, Keep
from narrowly.evaluate.judges.replies import ReplyTokens, check_first_tokens, reply_tokens
from narrowly.models.likelihood import NODES, score
from narrowly.models.local_backend import LocalBackend
from narrowly.records.likelihood import ScoredText
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import TOP, JudgeRecord, Reading


class ExactReader:
    """Read every reply of a rubric exactly.

    Args:
        model: a causal language model of Transformers in eval mode.
        tokenizer: with the chat template that it is asked with.
        record: of the judge; its mode is `exact`.
    """

    def __init__(self, model: Any, tokenizer: Any, record: JudgeRecord) -> None:
        self.model, self.tokenizer, self.record = model, tokenizer, record
        self._replies: dict[tuple[str, ...], dict[str, ReplyTokens]] = {}

    def check(self, rubrics: Sequence[Rubric]) -> None:
        """Find the tokens of all replies, and refuse what cannot be scored.

        Raises:
            SpecError: as `reply_tokens`.
        """
        for rubric in rubrics:
            self.replies(rubric)

    def replies(self, rubric: Rubric) -> dict[str, ReplyTokens]:
        """Return the tokens of every reply of a rubric."""
        if rubric.replies not in self._replies:
            self._replies[rubric.replies] = reply_tokens(self.tokenizer, rubric.replies, self.record.thinking)
        return self._replies[rubric.replies]

    def read(self, prompts: Sequence[JudgePrompt], keep: Keep) -> None:
        """Read one prompt after the other; one that is too long for the model is a judge error.

        Raises:
            IntegrityError: the model's logits are no numbers.
        """
        for prompt in prompts:
            keep(_reading(self.record, prompt, *self._read(prompt)))

    def _read(self, prompt: JudgePrompt) -> tuple[list[tuple[str, float]], str | None]:
        replies = self.replies(prompt.rubric)
        ids = tuple(prompt_ids(self.tokenizer, (Message("user", prompt.text),), thinking=self.record.thinking))
        longest = len(ids) + max(len(tokens.ids) for tokens in replies.values())
        if (why := too_long(self.model, longest)) is not None:
            return [], why
        texts = [ScoredText(ids, tokens.ids, tokens.closing) for tokens in replies.values()]
        nodes = max(NODES, 1 + sum(len(tokens.ids) for tokens in replies.values()))  # all replies are one tree
        found = score(self.model, texts, nodes=nodes).likelihoods
        return [(reply, one.total) for reply, one in zip(replies, found, strict=True)], None


class FirstTokenReader:
    """Read the likeliest first tokens of a judge in this process, to compare with published numbers.

    Args:
        backend: the judge.
        record: of the judge; its mode is `first-token`.
    """

    def __init__(self, backend: LocalBackend, record: JudgeRecord) -> None:
        self.backend, self.record = backend, record

    def check(self, rubrics: Sequence[Rubric]) -> None:
        """Refuse a tokenizer whose first tokens do not tell the numbers apart.

        Raises:
            SpecError: as `check_first_tokens`.
        """
        numbers = next((rubric.numbers for rubric in rubrics if rubric.scale), ())
        if numbers:
            tokens = reply_tokens(self.backend.tokenizer, numbers, self.record.thinking)
            check_first_tokens({number: tokens[number].ids[0] for number in numbers}, self.backend.name)

    def read(self, prompts: Sequence[JudgePrompt], keep: Keep) -> None:
        """Read the prompts in batches; one that is too long for the model is a judge error."""
        tokenizer = self.backend.tokenizer
        for start in range(0, len(prompts), self.backend.batch):
            fitting = []
            for prompt in prompts[start : start + self.backend.batch]:
                ids = prompt_ids(tokenizer, (Message("user", prompt.text),), thinking=self.record.thinking)
                why = too_long(self.backend.model, len(ids) + 1)
                if why is not None:
                    keep(_reading(self.record, prompt, [], why))
                else:
                    fitting.append((prompt, ids))
            listed = self.backend.next_tokens([ids for _, ids in fitting], top=TOP)
            for (prompt, _), one in zip(fitting, listed, strict=True):
                given = [
                    (str(tokenizer.decode([token])), value)
                    for token, value in zip(one.tokens, one.logprobs, strict=True)
                ]
                keep(_reading(self.record, prompt, given, None))


def too_long(model: Any, tokens: int) -> str | None:
    """Return why so many tokens are too long for a model, or None."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or tokens <= positions:
        return None
    return f"the judge's prompt and reply have {tokens} tokens, accepted: at most its {positions} positions"


def _reading(
    record: JudgeRecord, prompt: JudgePrompt, given: Sequence[tuple[str, float]], error: str | None
) -> Reading:
    return Reading(
        judge_id=record.judge_id,
        rubric_sha256=prompt.rubric.sha256,
        prompt_sha256=prompt.sha256,
        mode=record.mode,
        given=tuple((reply, min(0.0, value)) for reply, value in given),
        error=error,
    )
