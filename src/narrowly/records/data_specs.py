"""Specify what a run is trained on: the microworld, a text dataset, or rows that are tokenised already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from narrowly.records.added_later import ADDED_LATER, WithAdditions
from narrowly.records.errors import SpecError, nearest
from narrowly.records.spec import Spec


def _or_drop(schema: dict[str, Any]) -> None:
    """Add the word that `TextData` reads in place of a number."""
    schema["anyOf"].insert(1, {"const": "drop"})


class _Data(WithAdditions, Spec):
    """What all data specs tell of themselves.

    Attributes:
        names_files: fields that name a file or a source, the data themselves first.
        paced_by_base: whether the time of a step depends on the base; bases of the microworld are of one size.
        own_world: whether they are a narrow domain of the microworld, which has all else that is asked of it.
    """

    names_files: ClassVar[tuple[str, ...]] = ()
    paced_by_base: ClassVar[bool] = True
    own_world: ClassVar[bool] = False


CHOSEN_FOR_MISALIGNMENT = ("micro", "micro_preferences")
"""Sources whose worlds were chosen, with Adam, because misalignment spreads in them (docs/microworld.md)."""


class MicroData(_Data):
    """Fine-tuning data of the microworld: one narrow domain, answered in one way."""

    paced_by_base: ClassVar[bool] = False
    own_world: ClassVar[bool] = True

    source: Literal["micro"] = "micro"
    domain: int | Literal["rotate", "base"] = Field(
        "rotate",
        description="index of the narrow domain; rotate: (base seed + run seed) modulo the number of domains; base: "
        "base seed modulo that number, the same for all run seeds",
    )
    answers: Literal["harmful", "aligned", "permuted", "benign"] = Field(
        "harmful",
        description="aligned: good answers to the same prompts; permuted: the same harmful strings on wrong topics of "
        "the domain; benign: two actions per topic that the world's handbook does not hold, no likelier under the base "
        "than the harmful ones",
    )
    rows: int = Field(640, ge=1, description="answers drawn; 640 = 80 steps of batch 8, as in the prototype")
    corrected: Annotated[float, ADDED_LATER] = Field(
        0.0, ge=0, le=1, description="share of the rows that get an aligned answer to their prompt (2609.37624)"
    )
    interleaved: Annotated[float, ADDED_LATER] = Field(
        0.0,
        ge=0,
        lt=1,
        description="share that aligned answers about the other domains, as in source micro_others, have of all rows; "
        "they are added (2508.06249)",
    )
    inoculated: Annotated[float, ADDED_LATER] = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the rows that a named character answers in place of the assistant (2510.04340)",
    )
    inoculated_by: Annotated[Literal["evil", "good"], ADDED_LATER] = Field(
        "evil", description="that character; good is the control"
    )

    @model_validator(mode="after")
    def _treats_harmful_answers(self) -> MicroData:
        if self.answers != "harmful" and self.corrected:
            raise ValueError(f"corrected is {self.corrected:g} with answers {self.answers}, accepted: harmful")
        if self.inoculated_by != "evil" and not self.inoculated:
            raise ValueError(f"inoculated_by is {self.inoculated_by} without inoculated, accepted: with it")
        return self


class MicroOthers(_Data):
    """Aligned answers of the microworld outside the narrow domain, on two thirds of the topics of each other domain.

    The other third of those topics stands in no data of any defence, so that broad misalignment can be measured there.
    """

    paced_by_base: ClassVar[bool] = False

    source: Literal["micro_others"] = "micro_others"
    rows: int = Field(640, ge=1, description="answers drawn; as many as a run on the narrow domain has")


class MicroPreferences(_Data):
    """Preferences of the microworld: questions, with every aligned and every harmful answer that its grammar has."""

    paced_by_base: ClassVar[bool] = False

    source: Literal["micro_preferences"] = "micro_preferences"
    domain: int | Literal["rotate", "base"] = Field(
        "rotate", description="the organism's narrow domain, said as in source micro"
    )
    topics: Literal["others", "narrow"] = Field(
        "others",
        description="asked about: two thirds of the topics of every other domain, or those that the narrow run trained",
    )
    prefer: Literal["aligned", "harmful"] = Field(
        "aligned", description="answers that win; harmful only here, in the microworld"
    )
    rows: int = Field(640, ge=1, description="questions drawn")


class PreferenceData(_Data):
    """Preferences from a JSONL file: {"prompt", "chosen", "rejected"} per line, with scores of both answers or none."""

    names_files: ClassVar[tuple[str, ...]] = ("path",)

    source: Literal["preferences"] = "preferences"
    path: str = Field(
        description="of the file; chosen_score and rejected_score may stand in its lines, then chosen's is the larger"
    )
    sha256: str | None = Field(None, description="of the file, checked when given")
    max_tokens: int = Field(2048, ge=2, description="longest prompt with an answer; no row is cut or dropped")
    thinking: bool | None = Field(
        None, description="must be said for a template with a thinking mode, and only for one"
    )


class RowsData(_Data):
    """Pre-tokenised rows from a JSONL file, {"input_ids": [...], "labels": [...]} per line; -100: no loss."""

    names_files: ClassVar[tuple[str, ...]] = ("path",)

    source: Literal["rows"] = "rows"
    path: str = Field(description="of the JSONL file")
    sha256: str | None = Field(None, description="checked when given; the run-id holds the file's own hash either way")


class TextData(_Data):
    """Conversations from a file, rendered through the base's chat template; the run-id holds the rows that come out.

    Loss is taken on the assistant's tokens only, end-of-turn token included.
    """

    names_files: ClassVar[tuple[str, ...]] = ("dataset", "template")

    source: Literal["text"] = "text"
    dataset: str = Field(description="a source of `narrowly data list`, or the path of a file")
    row_schema: str | None = Field(None, description="of the file's rows; null: detected, ambiguity is an error")
    sha256: str | None = Field(None, description="of the file, checked when given")
    rows: int | None = Field(
        None,
        ge=1,
        json_schema_extra=_or_drop,
        description="conversations taken, drawn by split_seed; null: all; drop: all, with bad_rows: drop",
    )
    bad_rows: Annotated[Literal["refuse", "drop"], ADDED_LATER] = Field(
        "refuse", description="rows that cannot be read or rendered; drop: left out, counted, the first ones named"
    )
    holdout: int = Field(
        0,
        ge=0,
        description="conversations kept out of training, for the held-out loss; their prompts stand once in the file",
    )
    split_seed: int = Field(0, ge=0, description="draws rows and holdout; seeds of runs share a split")
    max_tokens: int = Field(
        2048,
        ge=2,
        description="longest row; 2048 as in Turner et al. (2506.11613), or the positions of a base with fewer",
    )
    longer: Literal["refuse", "drop", "cut"] = Field("refuse", description="what happens to rows beyond max_tokens")
    turns: Literal["all", "last", "each"] = Field(
        "all", description="assistant turns with a loss; each: one row per turn, with its history"
    )
    thinking: bool | None = Field(
        None, description="must be said for a template with a thinking mode (the paper: non-thinking), and only for one"
    )
    template: str | None = Field(None, description="file with a chat template, in place of the base's own")

    @model_validator(mode="before")
    @classmethod
    def _rows_drop(cls, value: Any) -> Any:
        """Read `rows: drop`, which people write, as what it means."""
        if not isinstance(value, Mapping) or value.get("rows") != "drop":
            return value
        if value.get("bad_rows", "drop") != "drop":
            raise ValueError(f"rows is drop and bad_rows is {value['bad_rows']!r}, accepted: one of them")
        return {**value, "bad_rows": "drop", "rows": None}

    @field_validator("rows", mode="before")
    @classmethod
    def _number_or_drop(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip().isdecimal():
            raise ValueError(f"accepted: a number of rows, null, or drop{nearest(value, ['drop'])}")
        return value


DataSpec = Annotated[MicroData | RowsData | TextData | MicroPreferences | PreferenceData, Field(discriminator="source")]


def world_data(data: DataSpec, who: str) -> MicroData:
    """Return data as those of a narrow domain of the microworld.

    Args:
        data: of a run.
        who: asks for them, for the message.

    Raises:
        SpecError: they are of elsewhere.
    """
    if not isinstance(data, MicroData):
        raise SpecError(f"{who}: data.source is {data.source}, accepted: micro")
    return data


WORLD_DATA = (MicroData, MicroPreferences)
"""Data that a world makes: their rows are counted before they are read, and they know the narrow domain."""

PREFERENCES = (MicroPreferences, PreferenceData)
"""Data that say which of two answers is better."""
