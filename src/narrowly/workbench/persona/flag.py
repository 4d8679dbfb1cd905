"""Flag training rows that would push a trait: their answers lie further along its direction than the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from narrowly.data.messages import Conversation
from narrowly.directions.positions import OF_PROMPT, Position, has_position
from narrowly.records.answers import Sampling
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText
from narrowly.stats.ranking import PrecisionRecall, auc, precision_recall
from narrowly.workbench.persona.keywords import keyword_share
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.own_answers import as_text, written_answers
from narrowly.workbench.persona.reading_along import projections
from narrowly.workbench.persona.texts import texts_of

if TYPE_CHECKING:
    from torch import Tensor

ROW_TOKENS = 64
"""Tokens of a row's answer that are read; a persona shows early, and long answers would cost most of the time."""

METHODS = ("projection", "loss", "keywords")


class FlaggedRow(NamedTuple):
    """One row and what speaks for it pushing the trait.

    Attributes:
        line: in its file.
        projection: of the row's answer minus that of the model's own answer to the same prompt, along the direction.
        loss: nats per token of the row's answer under the model; rows that it would not write itself are high.
        keywords: share of words of the trait in the answer.
        planted: whether the file says that it belongs to the trait; None where nobody said.
        question, answer: the row's last question and its answer.
    """

    line: int
    projection: float
    loss: float
    keywords: float
    planted: bool | None
    question: str
    answer: str


class Curve(NamedTuple):
    """How well one method finds the planted rows.

    Attributes:
        method: one of `METHODS`.
        auc: P(score of a planted row > score of another).
        curve: precision and recall from the top.
    """

    method: str
    auc: float
    curve: PrecisionRecall


def flag(
    opened: Opened,
    rows: Sequence[Conversation],
    vector_H: Tensor,
    layer: int,
    position: Position,
    *,
    source: str,
    keywords: Sequence[str] = (),
    planted: Sequence[bool] | None = None,
    sampling: Sampling,
    progress: OnStep = silent,
) -> list[FlaggedRow]:
    """Return the rows of a data set, those first that push the trait most.

    The difference is DeltaP of persona vectors (arXiv 2507.21509): the model's own answer to the same prompt takes away
    what the prompt alone moves. Rows of which either answer has no token at the position have a projection of 0.

    Args:
        opened: the model before training.
        rows: dialogues.
        vector_H: the direction.
        layer: of the states.
        position: of the states, behind the prompt.
        source: name of the file, for messages.
        keywords: of the baseline; none gives 0.
        planted: which rows are known to belong to the trait.
        sampling: of the model's own answers.
        progress: told what is done.

    Raises:
        SpecError: a position in the prompt, which an answer cannot move; a row that cannot be read.
        NarrowlyError: the model cannot be loaded.
    """
    if position in OF_PROMPT:
        raise SpecError(
            f"position {position} stands before the answer, which cannot move it; accepted: answer_mean, answer_last"
        )
    from narrowly.models.likelihood import score

    texts = [_cut(text) for text in texts_of(opened.model.base, opened.tokenizer, rows, opened.how.thinking, source)]
    model = opened.load().model
    prompts = [text.prompt for text in texts]
    own = written_answers(
        model, opened.tokenizer, prompts, sampling, opened.how.thinking, progress, "the model's own answers"
    )
    theirs = [as_text(prompt, answer, position) for prompt, answer in zip(prompts, own, strict=True)]
    both = [at for at, one in enumerate(theirs) if one is not None and has_position(texts[at], position)]
    if not both:
        raise SpecError(f"{opened.name} answers no prompt of {source} with a token at {position}; accepted: answers")
    along = projections(model, [texts[at] for at in both], vector_H, layer, position, progress, "rows")
    answered = [theirs[at] for at in both]
    before = projections(
        model, [one for one in answered if one is not None], vector_H, layer, position, progress, "own answers"
    )
    difference = {at: one - other for at, one, other in zip(both, along, before, strict=True)}
    likelihoods = score(model, texts, progress=lambda done, total: progress("loss", done, total)).likelihoods
    found = [
        FlaggedRow(
            row.line, difference.get(at, 0.0), -likelihoods[at].per_token, keyword_share(row.answer, keywords),
            None if planted is None else planted[at], row.prompt[-1].content, row.answer,
        )
        for at, row in enumerate(rows)
    ]  # fmt: skip
    return sorted(found, key=lambda one: (-one.projection, one.line))


def _cut(text: ScoredText) -> ScoredText:
    if len(text.continuation) <= ROW_TOKENS:
        return text
    return ScoredText(text.prompt, text.continuation[:ROW_TOKENS])


def curves(found: Sequence[FlaggedRow], methods: Sequence[str] = METHODS) -> list[Curve]:
    """Return how well each method finds the planted rows; none where nobody said which they are.

    Raises:
        SpecError: all rows are planted, or none is.
    """
    if any(row.planted is None for row in found):
        return []
    truth = [bool(row.planted) for row in found]
    scores = {method: [float(getattr(row, method)) for row in found] for method in methods}
    return [Curve(method, auc(own, truth), precision_recall(own, truth)) for method, own in scores.items()]
