"""Specify edits (changes of an adapter's singular values after training), and read their short form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_serializer

from narrowly.records.canonical import content_id
from narrowly.records.errors import SpecError, nearest, unknown_name
from narrowly.records.spec import Spec, validated


class _Edit(Spec):
    @property
    def sharpens(self) -> str | None:
        """Return that the edit makes a spectrum more peaked or an update longer, which is for the microworld alone.

        None for every other edit (design.md, law 10).
        """
        return None

    @property
    def edit_id(self) -> str:
        """Return a readable, unique name of the edit, used as its folder name."""
        values = self.model_dump(mode="json", exclude={"kind"})
        tail = "".join(f"-{value:g}" for value in values.values())
        return f"{self.__class__.model_fields['kind'].default}{tail}"

    @property
    def content_id(self) -> str:
        """Return the content hash of the edit."""
        return content_id(self.model_dump(mode="json"))


class KeepTop(_Edit):
    """Keep the k largest singular values of every adapter, set the rest to zero."""

    kind: Literal["keep_top"] = "keep_top"
    k: int = Field(1, ge=1, description="directions kept in each module")

    @property
    def sharpens(self) -> str | None:
        """Return what it does."""
        return "sharpens a spectrum"


class DropTop(_Edit):
    """Set the k largest singular values of every adapter to zero."""

    kind: Literal["drop_top"] = "drop_top"
    k: int = Field(1, ge=1, description="directions left out in each module")


class Flatten(_Edit):
    """Move every singular value the share t of its way to the flat spectrum of the same Frobenius norm.

    s becomes (1 - t) s + t ||s|| / sqrt(n), rescaled to the norm of before, as the penalty `project` does; t = 1 makes
    all values equal.
    """

    kind: Literal["flatten"] = "flatten"
    t: float = Field(1.0, gt=0, le=1, description="strength")

    @model_serializer(mode="wrap")
    def _whole_strength_unsaid(self, handler: Any) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.t == 1:  # written so before there was a strength: ids and folders of those edits stay what they are
            values.pop("t", None)
        return values


class Clip(_Edit):
    """Cap every singular value at `limit` times their mean: takes the peak and leaves the rest, at a smaller norm."""

    kind: Literal["clip"] = "clip"
    limit: float = Field(1.0, gt=0, description="cap, in units of the mean singular value of the adapter")


class Scale(_Edit):
    """Multiply every singular value by a factor; below 1 it is the control for every other edit."""

    kind: Literal["scale"] = "scale"
    factor: float = Field(
        gt=0, le=4, description="of every singular value; above 1 the update gets longer: for the microworld alone"
    )

    @property
    def sharpens(self) -> str | None:
        """Return what it does with a factor above 1."""
        return "with a factor above 1 lengthens an update" if self.factor > 1 else None


EditSpec = Annotated[KeepTop | DropTop | Flatten | Clip | Scale, Field(discriminator="kind")]

EDITS: dict[str, type[_Edit]] = {
    "keep_top": KeepTop,
    "drop_top": DropTop,
    "flatten": Flatten,
    "clip": Clip,
    "scale": Scale,
}
"""Every edit by the name of its kind."""


def edit_spec(value: EditSpec | Mapping[str, Any] | str) -> EditSpec:
    """Return the typed edit from a mapping with `kind` or from its short form; a typed one as it is.

    Raises:
        UnknownNameError: a short form of an unknown kind.
        SpecError: an unknown kind or field, a value that is not accepted.
    """
    if isinstance(value, str):
        return parse_edit(value)
    edit: EditSpec = value if isinstance(value, _Edit) else validated(EditSpec, value, "edit")
    return edit


def edit_specs(
    values: EditSpec | Mapping[str, Any] | str | Sequence[EditSpec | Mapping[str, Any] | str],
) -> list[EditSpec]:
    """Return one edit, or several in their order, as typed edits.

    Raises:
        UnknownNameError, SpecError: as `edit_spec`; no edit at all.
    """
    if isinstance(values, Sequence) and not isinstance(values, str):
        if not values:
            raise SpecError(f"edits is {values!r}, accepted: at least one edit")
        return [edit_spec(value) for value in values]
    return [edit_spec(values)]


def parse_edit(text: str) -> EditSpec:
    """Return the edit that a text such as `flatten`, `keep_top:k=2` or `scale:factor=.5` means.

    Several fields are parted by commas.

    Raises:
        UnknownNameError: an unknown kind.
        SpecError: an unknown field, a value that is no number or out of range, a missing value.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in EDITS:
        raise unknown_name("edit", kind, EDITS)
    fields = [name for name in EDITS[kind].model_fields if name != "kind"]
    values: dict[str, Any] = {"kind": kind}
    for part in rest.split(",") if rest else ():
        name, equals, value = part.partition("=")
        if name not in fields or not equals:
            accepted = f"accepted: {kind}:{fields[0]}=NUMBER"
            raise SpecError(f"edit {text!r}: found {part!r}{nearest(name, fields)} ({accepted})")
        if name in values:
            raise SpecError(f"edit {text!r}: {name} is given twice")
        values[name] = value
    try:
        edit: EditSpec = TypeAdapter(EditSpec).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        found = f"{field} is {values[field]!r}" if field in values else f"{field} is missing"
        raise SpecError(f"edit {text!r}: {found}, accepted: {_range(kind, field)}") from None
    return edit


def _range(kind: str, field: str) -> str:
    whole = EDITS[kind].model_fields[field].annotation is int
    if whole:
        return "a whole number from 1 to the rank"
    return "a number above 0" if kind == "clip" else "a number above 0, at most 1"
