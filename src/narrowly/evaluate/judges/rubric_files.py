"""Read rubrics: ours, a file of the same form, or the judge prompts inside a published file of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from narrowly.data.questions import QUESTION_TYPES, Question, read_questions
from narrowly.data.registry import SOURCES
from narrowly.data.sources import resolve
from narrowly.records.errors import IntegrityError, SpecError, nearest
from narrowly.records.rubrics import WORDS, Role, Rubric
from narrowly.records.spec import validated

OURS = "ours"

PUBLISHED_ROLES: dict[str, Role] = {"aligned": "alignment", "coherent": "coherence"}
"""Scores of the field's files of questions, by the role that each has here."""

ACCEPTED = f"'{OURS}', a YAML file of rubrics, or a YAML file or registered source of questions with judge_prompts"


class RubricSet(NamedTuple):
    """Hold the rubrics that an answer is judged by, one per role.

    Attributes:
        name: as the user named it.
        rubrics: in the order in which they are asked.
    """

    name: str
    rubrics: tuple[Rubric, ...]

    def of(self, role: Role) -> Rubric | None:
        """Return the rubric of a role, or None."""
        return next((rubric for rubric in self.rubrics if rubric.role == role), None)

    @property
    def hashes(self) -> dict[str, str]:
        """Return the sha256 of each rubric, by role."""
        return {rubric.role: rubric.sha256 for rubric in self.rubrics}


def rubrics_named(name_or_path: str) -> RubricSet:
    """Return the rubrics that a user names.

    Args:
        name_or_path: `ours`, a YAML file of rubrics as ours, or a published YAML file of questions with judge prompts,
            which may be a registered source by its name.

    Raises:
        SpecError: no such file; a rubric without a scale, or without a place for question or answer; no rubric of
            alignment or of coherence; two rubrics of one role.
        IntegrityError: the file is no YAML.
    """
    if name_or_path == OURS:
        path = Path(str(resources.files("narrowly.evaluate.judges"))) / "rubrics" / f"{OURS}.yaml"
    else:
        path = Path(name_or_path).expanduser()
        if not path.is_file() and name_or_path in SOURCES:
            path = resolve(name_or_path).path
        if not path.is_file():
            near = nearest(name_or_path, [OURS, *SOURCES])
            raise SpecError(f"no rubric is called {name_or_path!r}{near}; accepted: {ACCEPTED}")
    entries = _entries(path)
    published = any("paraphrases" in entry or entry.get("type") in QUESTION_TYPES for entry in entries)
    rubrics = _published(path) if published else [validated(Rubric, entry, source=str(path)) for entry in entries]
    return _checked(RubricSet(name_or_path, tuple(rubrics)))


def _entries(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path}: no valid YAML ({getattr(error, 'problem', None) or error})") from error
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise SpecError(f"{path} holds no rubrics; accepted: {ACCEPTED}")
    return entries


def _published(path: Path) -> list[Rubric]:
    """Return the judge prompts of a file of questions, each of which must be the same in all of them."""
    found: dict[str, tuple[Question, str]] = {}
    for question in read_questions(path):
        if not question.judge_prompts:
            raise SpecError(f"{path}: question {question.id!r} has no judge_prompts; accepted: {ACCEPTED}")
        for name, text in question.judge_prompts.items():
            before, known = found.setdefault(name, (question, text))
            if known != text:
                raise SpecError(
                    f"{path}: questions {before.id!r} and {question.id!r} have different judge prompts for {name}; "
                    "accepted: one for all"
                )
    rubrics = []
    for name, (_, text) in found.items():
        if name not in PUBLISHED_ROLES:
            raise SpecError(
                f"{path}: the judge prompt {name!r} has no scale from 0 to 100 that is known here"
                f"{nearest(name, PUBLISHED_ROLES)}; accepted: {', '.join(PUBLISHED_ROLES)}"
            )
        words = tuple(word for word in WORDS if word in text.replace(",", " ").replace(".", " ").split())
        rubric = {"role": PUBLISHED_ROLES[name], "name": f"{path.name}: {name}", "words": words, "text": text}
        rubrics.append(validated(Rubric, {**rubric, "source": path.name}, source=str(path)))
    return rubrics


def _checked(found: RubricSet) -> RubricSet:
    """Refuse a set that gives no verdict, or two of one kind."""
    roles = [rubric.role for rubric in found.rubrics]
    twice = next((role for role in roles if roles.count(role) > 1), None)
    if twice is not None:
        raise SpecError(f"rubrics {found.name}: two of the role {twice!r}; accepted: one of each")
    if "alignment" not in roles:
        raise SpecError(
            f"rubrics {found.name}: none of the role 'alignment'{_found(roles)}; accepted: one, with a scale"
        )
    if not {"coherence", "language"} & set(roles):
        raise SpecError(f"rubrics {found.name}: none of coherence{_found(roles)}; accepted: coherence, or language")
    return found


def _found(roles: Sequence[str]) -> str:
    return f" (found: {', '.join(roles) or 'none'})"
