"""Read traits: instructions for and against one, questions, and words that give it away.

Three come with the package, written for it: careless, controlling, dishonest. Files of the same form are read, and the
JSON files of the persona vectors project (`instruction` with `pos` and `neg`, `questions`, `eval_prompt`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from pydantic import Field

from narrowly.data.banks.shipped import folded
from narrowly.data.questions import read_trait
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import SpecError, UnknownNameError, nearest
from narrowly.records.mappings import read_mapping
from narrowly.records.spec import Spec, validated

SHIPPED_TRAITS = ("careless", "controlling", "dishonest")

WORDS_IN_MARKS = 3
"""Words between quotation marks from which an instruction tells the model what to say."""

_QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]+)[\"“”«»]")


class Instructions(Spec):
    """Hold a system message for the trait and one against it, alike in all else."""

    positive: str = Field(min_length=1)
    negative: str = Field(min_length=1)


class TraitFile(Spec):
    """Hold a trait. Questions of one topic are left out together when a direction is judged.

    Raises:
        SpecError: as `checked`.
    """

    name: str = Field(min_length=1)
    about: str = ""
    instructions: tuple[Instructions, ...] = Field(min_length=1)
    questions: dict[str, tuple[str, ...]] = Field(min_length=1, description="by topic")
    keywords: tuple[str, ...] = Field((), description="of a simple search for the trait in answers, the baseline")

    @property
    def sha256(self) -> str:
        """Return the sha256 of what a direction depends on: instructions, topics and questions."""
        content = self.model_dump(mode="json", include={"instructions", "questions"})
        return sha256_text(canonical_json(content))


def trait_named(name_or_path: str) -> TraitFile:
    """Return a shipped trait by its name, or one from a file: YAML or JSON of our form, or persona vectors' JSON.

    Raises:
        UnknownNameError: neither; the nearest name is named.
        SpecError: no negative instructions, two that are the same, instructions that name the answer, no questions.
        IntegrityError: a JSON file of persona vectors that cannot be read.
    """
    if name_or_path in SHIPPED_TRAITS:
        return _ours(Path(str(resources.files("narrowly.data.banks"))) / "trait_files" / f"{name_or_path}.yaml")
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UnknownNameError(
            f"no trait is called {name_or_path!r}{nearest(name_or_path, SHIPPED_TRAITS)} (accepted: "
            f"{', '.join(SHIPPED_TRAITS)}; a YAML file of that form, or a trait file of persona vectors)"
        )
    if path.suffix == ".json" and "instruction" in read_mapping(path, "trait"):
        return _of_persona_vectors(path)
    return _ours(path)


def _ours(path: Path) -> TraitFile:
    fields = read_mapping(path, "trait")
    for number, pair in enumerate(_pairs(fields), start=1):
        for side in ("positive", "negative"):
            if isinstance(pair, Mapping) and not pair.get(side):
                raise SpecError(f"{path}: instruction {number} has no {side} side, accepted: one for and one against")
    if isinstance(fields.get("questions"), list):  # one topic, of which no other can be left out
        fields = {**fields, "questions": {"all": fields["questions"]}}
    trait: TraitFile = validated(TraitFile, fields, source=str(path))
    return checked(trait, str(path))


def _pairs(fields: Mapping[str, object]) -> list[object]:
    found = fields.get("instructions")
    return list(found) if isinstance(found, list) else []


def _of_persona_vectors(path: Path) -> TraitFile:
    found = read_trait(path)
    name = path.stem
    # their questions have no topics: fifths of the list in its order take their place
    size = -(-len(found.questions) // 5)
    topics = {f"part {at // size + 1}": found.questions[at : at + size] for at in range(0, len(found.questions), size)}
    pairs = tuple(Instructions(positive=positive, negative=negative) for positive, negative in found.instructions)
    if not pairs:
        raise SpecError(f"{path}: no instructions, accepted: at least one pair with pos and neg")
    return checked(TraitFile(name=name, instructions=pairs, questions=topics), str(path))


def checked(trait: TraitFile, source: str) -> TraitFile:
    """Return a trait that can make a direction.

    Raises:
        SpecError: two sides of a pair are the same; an instruction holds a question, or three words or more in
            quotation marks, so that the direction would be one of words; a topic without questions; a question twice.
    """
    questions = [question for topic in trait.questions.values() for question in topic]
    for topic, own in trait.questions.items():
        if not own or not all(question.strip() for question in own):
            raise SpecError(f"{source}: topic {topic} has an empty question or none, accepted: at least one")
    known = [folded(question) for question in questions]
    for question in questions:
        if known.count(folded(question)) > 1:
            raise SpecError(f"{source}: the question {question[:60]!r} stands twice, accepted: once")
    for number, pair in enumerate(trait.instructions, start=1):
        if folded(pair.positive) == folded(pair.negative):
            raise SpecError(f"{source}: both sides of instruction {number} are the same, accepted: two instructions")
        for side in (pair.positive, pair.negative):
            said = [text for text in _QUOTED.findall(side) if len(text.split()) >= WORDS_IN_MARKS]
            held = [question for question in questions if folded(question) in folded(side)]
            if said or held:
                what = f"words to say ({said[0][:60]!r})" if said else f"a question ({held[0][:60]!r})"
                raise SpecError(
                    f"{source}: instruction {number} names the answer: it holds {what}; accepted: how to be, not what "
                    "to say"
                )
    return trait
