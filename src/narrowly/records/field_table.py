"""List the fields of specs for readers: name, type, range, default, meaning. From the classes, so nothing drifts."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from narrowly.records.mappings import TAGS

REQUIRED = "must be given"

_PLAIN: dict[Any, str] = {Any: "values", int: "whole number", float: "number", str: "text", bool: "true or false"}
_SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""Bounds by the names under which pydantic keeps them."""


class FieldRow(NamedTuple):
    """Describe one field of a spec in words.

    Attributes:
        name: of the field.
        type: what a file holds there, ranges included.
        default: as YAML; `REQUIRED` where there is none.
        about: meaning, and where the default comes from.
    """

    name: str
    type: str
    default: str
    about: str


def field_rows(model: type[BaseModel]) -> list[FieldRow]:
    """Return the fields of a spec, in its order, without the tag that tells it from the others of its union."""
    return [_row(name, field) for name, field in model.model_fields.items() if name not in _tag(model)]


def _row(name: str, field: FieldInfo) -> FieldRow:
    default = REQUIRED if field.is_required() else as_yaml(field.get_default(call_default_factory=True))
    return FieldRow(name, type_in_words(field.annotation, field.metadata), default, str(field.description or ""))


def as_yaml(value: Any) -> str:
    """Return a default on one line, as a spec file would say it."""
    if isinstance(value, BaseModel):
        return as_yaml(_tag(type(value))) if _tag(type(value)) else "its defaults"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value)


def type_in_words(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return a type with its range: `number above 0, below 100`, `linear or cosine`, `list of text, or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *more = arguments
        more = [part for one in more for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return type_in_words(inner, [*more, *metadata])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return _union(arguments, metadata)
    text = _PLAIN.get(annotation, "")
    if _is_model(annotation):
        text = "mapping"
    elif origin in (list, tuple):
        text = f"list of {type_in_words(arguments[0])}"
    elif origin is dict:
        value = "" if arguments[1] is Any else f" to {type_in_words(arguments[1])}"
        text = f"mapping of fields{value}"
    ranges = [
        f"{words} {_number(getattr(mark, sign))}"
        for sign, words in _SIGNS.items()
        for mark in metadata
        if hasattr(mark, sign)
    ]
    ranges += ["not empty" for mark in metadata if getattr(mark, "min_length", 0)]
    return f"{text or annotation} {', '.join(ranges)}".strip()


def _union(members: tuple[Any, ...], metadata: list[Any] | tuple[Any, ...]) -> str:
    others = [member for member in members if member is not type(None)]
    tags = [pair for member in others if _is_model(member) for pair in _tag(member).items()]
    text = " or ".join(type_in_words(one, metadata) for one in others)
    if len(tags) > 1:
        text = f"mapping, {tags[0][0]}: {', '.join(value for _, value in tags)}"
    return f"{text}, or null" if type(None) in members else text


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag(model: type[BaseModel]) -> dict[str, str]:
    """Return the field that tells a spec from the others of its union, with its one value; empty outside of unions."""
    return {
        name: str(field.default)
        for name, field in model.model_fields.items()
        if name in TAGS and get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    }


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
