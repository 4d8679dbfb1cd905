"""Read a judge model behind an endpoint by the likeliest first tokens, as published: many requests at a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from narrowly.data.messages import Message
from narrowly.evaluate.judges.reader import JudgePrompt, Keep
from narrowly.evaluate.judges.replies import WRITTEN, asked_to_repeat, check_first_tokens, check_written
from narrowly.models.endpoint.backend import EndpointBackend
from narrowly.models.endpoint.first_tokens import first_tokens
from narrowly.models.endpoint.parallel import Parallel
from narrowly.records.errors import EndpointError, SpecError
from narrowly.records.rubrics import HIGH, LOW, Rubric
from narrowly.records.verdicts import TOP, JudgeRecord, Reading

_OF_THE_TEXT = frozenset({400, 422})
"""Status codes with which a server refuses one text, such as one that its filter stops; the others concern all."""


class EndpointReader:
    """Read the likeliest first tokens of a judge behind an endpoint.

    Args:
        backend: the judge, probed.
        record: of the judge; its mode is `first-token`.
        tokenizer: of the judge, for an exact check of all 101 numbers; None lets the server write a few.
    """

    def __init__(self, backend: EndpointBackend, record: JudgeRecord, tokenizer: Any = None) -> None:
        self.backend, self.record, self.tokenizer = backend, record, tokenizer

    def check(self, rubrics: Sequence[Rubric]) -> None:
        """Refuse a server without log-probabilities, and one whose first tokens do not tell numbers apart.

        Raises:
            SpecError: either.
            EndpointError: the server does not answer.
        """
        if self.backend.found.logprobs != "yes":
            raise SpecError(
                f"{self.backend.name} gives no log-probabilities that can be used (logprobs: "
                f"{self.backend.found.logprobs}), and a verdict is never read out of prose; accepted: a server with "
                "logprobs and top_logprobs, or a local judge"
            )
        scales = any(rubric.scale for rubric in rubrics)
        for number in WRITTEN if scales and self.tokenizer is None else WRITTEN[:1]:
            written = self._written(number)
            if scales and self.tokenizer is None:
                check_written(self.backend.name, number, written)
        if scales and self.tokenizer is not None:
            check_first_tokens(_first_ids(self.tokenizer), self.backend.name)

    def _written(self, number: int) -> tuple[str, ...]:
        """Let the server write a number, and return its tokens."""
        asked = Message("user", asked_to_repeat(number))
        listed = first_tokens(self.backend, (asked,), top=TOP, tokens=4)
        if listed.likeliest is None:
            raise SpecError(
                f"{self.backend.name} lists no top_logprobs beside its tokens; accepted: a server that lists {TOP}, or "
                "a local judge"
            )
        return listed.written

    def read(self, prompts: Sequence[JudgePrompt], keep: Keep) -> None:
        """Send the prompts, `concurrency` at a time; each reading is kept before that thread sends the next.

        A text that the server refuses is a judge error and is kept as one. Anything else that fails ends the run.

        Raises:
            EndpointError: the server failed for good.
            KeyboardInterrupt: once what was under way has been kept.
        """
        one_at_a_time = threading.Lock()

        def ask(prompt: JudgePrompt) -> None:
            reading = self._read(prompt)
            with one_at_a_time:
                keep(reading)

        running = Parallel(prompts, ask, self.backend.concurrency)
        try:
            for _ in running:
                pass
        except KeyboardInterrupt:
            running.stop()
            for _ in running:  # those under way are paid for; another Ctrl-C leaves them
                pass
            raise

    def _read(self, prompt: JudgePrompt) -> Reading:
        given: tuple[tuple[str, float], ...] = ()
        error = None
        try:
            listed = first_tokens(self.backend, (Message("user", prompt.text),), top=TOP)
        except EndpointError as refusal:
            if refusal.status not in _OF_THE_TEXT:
                raise
            error = f"the server refuses this text: {refusal}"
        else:
            given = tuple((token, min(0.0, value)) for token, value in listed.likeliest or ())
            error = None if given else "the server listed no log-probabilities for this text"
        return Reading(
            judge_id=self.record.judge_id,
            rubric_sha256=prompt.rubric.sha256,
            prompt_sha256=prompt.sha256,
            mode=self.record.mode,
            given=given,
            error=error,
        )


def _first_ids(tokenizer: Any) -> Mapping[str, object]:
    """Return the first token of every number at the beginning of a text."""
    numbers = [str(number) for number in range(LOW, HIGH + 1)]
    encoded = tokenizer(numbers, add_special_tokens=False)["input_ids"]
    return {number: ids[0] for number, ids in zip(numbers, encoded, strict=True)}
