"""Keep every log-likelihood that an endpoint gives as soon as it has come, so that none is asked for twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from narrowly.models.backend import ChatPrompt, Generated, NextTokens, Progress, Request
from narrowly.models.endpoint.backend import EndpointBackend
from narrowly.models.endpoint.parallel import Parallel
from narrowly.records.answers import Sampling
from narrowly.records.arithmetic import Arithmetic
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import IntegrityError
from narrowly.records.files import append_jsonl, read_jsonl
from narrowly.records.likelihood import Likelihood, ScoredText
from narrowly.workbench.answer_file import mend


class KeptScores:
    """A model behind an endpoint whose scores stand in a file, one text a line.

    Args:
        backend: of the model, probed.
        file: of this model in this arithmetic; it need not be there.
        begin: called before the first line is written.

    Raises:
        IntegrityError: a line of the file is no score.
    """

    def __init__(self, backend: EndpointBackend, file: Path, begin: Callable[[], None]) -> None:
        self._backend, self._file, self._begin = backend, file, begin
        self._one_at_a_time = threading.Lock()
        self._kept = _kept_scores(file)
        mend(file)

    @property
    def name(self) -> str:
        """Return the name of the backend."""
        return self._backend.name

    @property
    def can(self) -> frozenset[Request]:
        """Return what the backend answers."""
        return self._backend.can

    @property
    def arithmetic(self) -> Arithmetic:
        """Return the arithmetic of the backend."""
        return self._backend.arithmetic

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer of the backend."""
        return self._backend.tokenizer

    @property
    def thinking(self) -> bool | None:
        """Return the thinking mode of the backend."""
        return self._backend.thinking

    def next_tokens(self, prompts: Sequence[Sequence[int]], top: int | None = None) -> list[NextTokens]:
        """Return what the backend says; it is not kept."""
        return self._backend.next_tokens(prompts, top)

    def generate(self, prompts: Sequence[ChatPrompt], sampling: Sampling) -> list[Generated]:
        """Return what the backend says; it is not kept."""
        return self._backend.generate(prompts, sampling)

    def loglikelihoods(self, texts: Sequence[ScoredText], progress: Progress | None = None) -> list[Likelihood]:
        """Return the log-probability of every token of every continuation; only texts without a score are sent.

        Raises:
            EndpointError, IntegrityError: as the backend. Scores that have come are in the file.
            KeyboardInterrupt: once the requests under way are answered and in the file.
        """
        found = {at: self._likelihood(text) for at, text in enumerate(texts) if _key(text) in self._kept}
        missing = [at for at in range(len(texts)) if at not in found]

        def ask(at: int) -> Likelihood:
            (one,) = self._backend.loglikelihoods([texts[at]])
            with self._one_at_a_time:
                self._begin()
                append_jsonl(self._file, {"text": _key(texts[at]), "logprobs": list(one.logprobs)})
            return one

        running = Parallel(missing, ask, self._backend.concurrency)
        try:
            for number, one in running:
                found[missing[number]] = one
                if progress is not None:
                    progress(len(found), len(texts))
        except KeyboardInterrupt:
            running.stop()
            for _ in running:  # those under way are paid for; another Ctrl-C leaves them
                pass
            raise
        return [found[at] for at in range(len(texts))]

    def _likelihood(self, text: ScoredText) -> Likelihood:
        logprobs = self._kept[_key(text)]
        if len(logprobs) != len(text.continuation):
            raise IntegrityError(f"{self._file} holds a score of another number of tokens; remove it")
        return Likelihood(text.continuation, logprobs)


def _key(text: ScoredText) -> str:
    """Return the sha256 of the tokens of a prompt and of what is scored behind it."""
    return sha256_text(canonical_json([list(text.prompt), list(text.continuation)]))


def _kept_scores(file: Path) -> dict[str, tuple[float, ...]]:
    """Return the scores of a file by the key of their text.

    Raises:
        IntegrityError: a line is no score; its number is named.
    """
    found: dict[str, tuple[float, ...]] = {}
    for number, line in enumerate(read_jsonl(file) if file.exists() else [], start=1):
        values = line.get("logprobs") if isinstance(line, dict) else None
        if not isinstance(values, list) or not all(isinstance(one, float | int) and one <= 1e-6 for one in values):
            raise IntegrityError(f"{file}, line {number} is no score of a text; remove the file")
        found[str(line.get("text"))] = tuple(float(one) for one in values)
    return found
