"""Mark fields that came after the first runs, so that earlier runs keep their ids.

A marked field is part of an id only where it differs from its default:

    method: Annotated[Literal["lora", "full"], ADDED_LATER] = "lora"
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class _AddedLater:
    """The mark; one object, found again among a field's metadata."""


ADDED_LATER = _AddedLater()


def unused_additions(spec: BaseModel) -> set[str]:
    """Return the names of a spec's marked fields that hold their default."""
    return {
        name
        for name, field in type(spec).model_fields.items()
        if any(mark is ADDED_LATER for mark in field.metadata) and getattr(spec, name) == field.default
    }


class WithAdditions(BaseModel):
    """A spec that leaves marked fields which hold their default out of what it is written as, and so out of ids."""

    @model_serializer(mode="wrap")
    def _unused_additions_left_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        unused = unused_additions(self)
        return {name: value for name, value in fields.items() if name not in unused}
