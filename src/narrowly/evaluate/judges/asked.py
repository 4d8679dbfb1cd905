"""Say how judged answers were asked for, so that rates are compared only where nothing but the model differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from narrowly.evaluate.judges.judged import ToJudge
from narrowly.records.answers import Answer, AskedModel
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import SpecError
from narrowly.records.spec import Spec


class AnsweredAs(Spec):
    """How answers were drawn, apart from the seed of the draws.

    Attributes:
        temperature, max_new_tokens: of the sampling; there is no top-k, top-p or penalty.
        thinking: mode of the prompts; None where the template has none.
        prompts_sha256: of every question's id, paraphrase and messages, system messages included.
        templates: sha256 of the chat templates that are known; a server does not tell its own.
    """

    temperature: float
    max_new_tokens: int
    thinking: bool | None
    prompts_sha256: str
    templates: tuple[str, ...] = ()

    def differing(self, other: AnsweredAs) -> list[str]:
        """Return what differs so that rates do not compare: all but the templates."""
        names = {
            "temperature": "temperature",
            "max_new_tokens": "max_new_tokens",
            "thinking": "thinking mode",
            "prompts_sha256": "messages before the answers",
        }
        return [words for field, words in names.items() if getattr(self, field) != getattr(other, field)]


def answered_as(files: Sequence[tuple[str, Sequence[Answer]]]) -> AnsweredAs:
    """Return how the answers of files were asked for, which must be one way (D13 of our catalogue).

    Args:
        files: name of each file, and its answers; at least one.

    Raises:
        SpecError: two answers that were drawn in different ways; both files and what differs are named.
    """
    first: tuple[str, tuple[float, int, bool | None]] | None = None
    for name, answers in files:
        for answer in answers:
            drawn = (answer.sampling.temperature, answer.sampling.max_new_tokens, answer.thinking)
            if first is None:
                first = name, drawn
            elif drawn != first[1]:
                shown = [f"temperature {one[0]:g}, {one[1]} new tokens, thinking {one[2]}" for one in (first[1], drawn)]
                raise SpecError(
                    f"{first[0]} and {name} hold answers that were drawn in different ways ({shown[0]}; {shown[1]}), "
                    "and their rates do not compare; accepted: one sampling for all"
                )
    assert first is not None
    temperature, tokens, thinking = first[1]
    rows = [answer for _, answers in files for answer in answers]
    return AnsweredAs(
        temperature=temperature,
        max_new_tokens=tokens,
        thinking=thinking,
        prompts_sha256=_prompts((one.question_id, one.paraphrase, one.messages) for one in rows),
        templates=tuple(sorted({one.model.template_sha256 for one in rows if isinstance(one.model, AskedModel)})),
    )


def stated_as(answers: Iterable[ToJudge], temperature: float, max_new_tokens: int) -> AnsweredAs:
    """Return how published answers were asked for, as whoever imports them states it: their file does not say.

    Args:
        answers: of the file.
        temperature: of the draws, from 0.
        max_new_tokens: longest answer.
    """
    said = ((one.question_id, one.paraphrase, tuple(message.as_json() for message in one.messages)) for one in answers)
    return AnsweredAs(
        temperature=temperature, max_new_tokens=max_new_tokens, thinking=None, prompts_sha256=_prompts(said)
    )


def _prompts(asked: Iterable[tuple[str, int, Sequence[object]]]) -> str:
    said = {canonical_json([question_id, paraphrase, list(messages)]) for question_id, paraphrase, messages in asked}
    return sha256_text("\n".join(sorted(said)))
