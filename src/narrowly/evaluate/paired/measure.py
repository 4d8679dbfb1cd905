"""Measure the paired bank on a model: the exact log-likelihood of both answers to every question."""

from __future__ import annotations

from collections.abc import Sequence

from narrowly.data.banks.paired import PairedItem
from narrowly.models.backend import Backend, Progress, Request, require
from narrowly.models.paired_texts import Said, paired_texts
from narrowly.records.paired import PairedRow


def paired_rows(
    backend: Backend,
    items: Sequence[PairedItem],
    *,
    system: str | None = None,
    said: Said | None = None,
    progress: Progress | None = None,
) -> list[PairedRow]:
    """Return one row per question, in their order.

    Args:
        backend: that is asked; it must give log-likelihoods.
        items: questions with their answers.
        system: system message in front of every question; None leaves it to the chat template.
        said: how a question is asked; None asks it as it is.
        progress: told of the questions done and of those there are.

    Raises:
        SpecError: the backend gives no log-likelihoods; the template cannot write an answer as it is; a text that is
            longer than the model's positions.
        IntegrityError: logits that are no numbers.
    """
    require(backend, Request.LOGLIKELIHOODS, "the paired bank")
    texts = paired_texts(backend, items, system=system, said=said)

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done // 2, total // 2)

    found = backend.loglikelihoods(texts, tell)
    return [
        PairedRow(
            item.id, item.domain, item.part, aligned.total, harmful.total, len(aligned.tokens), len(harmful.tokens)
        )
        for item, aligned, harmful in zip(items, found[::2], found[1::2], strict=True)
    ]
