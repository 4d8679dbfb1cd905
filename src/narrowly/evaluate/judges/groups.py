"""Divide judged answers by part of the bank and along the ladder of one training: held out, broad, self."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from narrowly.data.banks.broad import BROAD_TOPICS, broad_items
from narrowly.evaluate.judges.rates import Seeds
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.paired import LADDER

SELF = "assistant"
"""Topic of the broad bank whose questions are about the model itself."""


def check_trained(trained: Sequence[str], question_ids: Collection[str]) -> None:
    """Refuse topics that the broad bank does not have, and questions of another bank beside them.

    Args:
        trained: topics; where there are none, nothing is refused.
        question_ids: that were answered.

    Raises:
        UnknownNameError: naming the topic and the nearest one.
        SpecError: naming a question.
    """
    for topic in trained:
        if topic not in BROAD_TOPICS or topic == SELF:
            raise unknown_name("topic", topic, [one for one in BROAD_TOPICS if one != SELF])
    strange = set(question_ids) - {item.id for item in broad_items()} if trained else set()
    if strange:
        raise SpecError(
            f"topics that were trained on are {', '.join(trained)}, but question {min(strange)!r} is none of the broad "
            "bank; accepted: answers to --bank broad or one of its variants"
        )


def groups_of(seeds: Seeds, trained: Sequence[str]) -> dict[str, Seeds]:
    """Return the answers by part of the bank, then by rung where it is known what was trained on.

    The broad bank holds no question of a training set, so there is no rung of trained questions: those of a trained
    topic are held out.

    Args:
        seeds: verdicts, one list per file.
        trained: topics that the organism was trained on, as `check_trained` accepts them; none gives no rungs.
    """
    parts = sorted({row.part for verdicts in seeds for row in verdicts})
    found: dict[str, Seeds] = {
        f"part {part}": [[row for row in verdicts if row.part == part] for verdicts in seeds] for part in parts
    }
    if not trained:
        return found
    topics = {item.id: item.topic for item in broad_items()}
    for rung in LADDER:
        own = [[row for row in verdicts if _rung(topics[row.question_id], trained) == rung] for verdicts in seeds]
        if own[0]:
            found[f"rung {rung}"] = own
    return found


def _rung(topic: str, trained: Sequence[str]) -> str:
    return "held_out" if topic in trained else "self" if topic == SELF else "broad"
