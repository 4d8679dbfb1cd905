"""Mark fields that came after the first runs, so that earlier runs keep their ids.

A marked field is part of an id only where it differs from its default:

    method: Annotated[Literal["lora", "full"], ADDED_LATER] = "lora"
"""

from __future__ import annotations

from pydantic import BaseModel


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
