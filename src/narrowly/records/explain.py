"""Explain validation errors in one line: field path, value found, what is expected, nearest match."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from narrowly.records.errors import nearest, unknown_name
from narrowly.records.other_names import OTHER_NAMES

ACCEPTED = 12
"""Accepted fields named in an error; the rest are counted."""

SHOWN = 3
"""Errors spelled out in one line; the rest are counted."""

_CONTAINERS = (list, tuple, dict)

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of fields",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
}


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong with a record: field path, what is expected, value found, cut short."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "top level"
    return f"{place}: {first['msg']}, found {str(first['input'])[:80]!r}"


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of an annotation, with Annotated and Optional taken off."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not type(None):
        yield annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [member for member in _members(annotation) if isinstance(member, type) and issubclass(member, BaseModel)]


def field_paths(model: type[BaseModel], prefix: str = "") -> frozenset[str]:
    """Return every dotted field path of a model, over all members of its unions (`optimiser.lr` ...)."""
    paths: set[str] = set()
    for name, field in model.model_fields.items():
        paths.add(f"{prefix}{name}")
        for member in _models(field.annotation):
            paths |= field_paths(member, f"{prefix}{name}.")
    return frozenset(paths)


def unknown_field(path: str, fields: Iterable[str]) -> str:
    """Say of an unknown dotted field which is meant, and which are accepted beside it.

    What is meant is the field of another name or place with the same last part, one that other trainers call so, or the
    nearest.
    """
    known = sorted(fields)
    above, _, last = path.rpartition(".")
    while above and above not in known:
        above = above.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == above]
    near = _meant(last, known) or nearest(path, known) or nearest(last, [name.rpartition(".")[2] for name in beside])
    shown = ", ".join(beside[:ACCEPTED]) + (f" and {len(beside) - ACCEPTED} more" if len(beside) > ACCEPTED else "")
    return f"unknown field{near} (accepted{f' in {above}' if above else ''}: {shown})"


def _meant(last: str, known: list[str]) -> str:
    """Return a clause that names the field with this last part, or the one that other trainers call so."""
    other = OTHER_NAMES.get(last)
    found = [name for name in known if name.rpartition(".")[2] == last] or [name for name in known if name == other]
    return f"; did you mean {' or '.join(map(repr, found[:2]))}?" if found else ""


def _tag_of(model: type[BaseModel]) -> set[str]:
    return {str(field.default) for name, field in model.model_fields.items() if name in ("kind", "source")}


def _walk(annotation: Any, loc: tuple[int | str, ...], name: str) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the path a reader knows (no union tags) and the models at its end, for an error location."""
    path: list[str] = [name] if name else []
    choices = list(_members(annotation))
    here = _models(annotation)
    for part in loc:
        tagged = [member for member in here if len(here) > 1 and str(part) in _tag_of(member)]
        if tagged:
            here = tagged
            choices = list(tagged)
            continue
        if (
            isinstance(part, str)
            and choices
            and not here
            and not any(get_origin(choice) in _CONTAINERS for choice in choices)
        ):
            continue  # the branch of a union of plain values, such as int | Literal
        if isinstance(part, int):
            path[-1:] = [f"{path[-1]}[{part}]"] if path else [f"[{part}]"]
        elif part == "[key]":
            continue
        else:
            path.append(str(part))
        following: list[Any] = []
        for choice in choices:
            if isinstance(choice, type) and issubclass(choice, BaseModel):
                field = choice.model_fields.get(str(part))
                if field is not None:
                    following.extend(_members(field.annotation))
            elif get_origin(choice) in _CONTAINERS and get_args(choice):
                argument = get_args(choice)[1] if get_origin(choice) is dict else get_args(choice)[0]
                following.extend(_members(argument))
        choices = following
        here = [member for member in following if isinstance(member, type) and issubclass(member, BaseModel)]
    return path, here


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _sentence(
    error: ErrorDetails,
    path: list[str],
    models: list[type[BaseModel]],
    parents: list[type[BaseModel]],
    known: list[str],
) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        accepted = sorted({name for model in parents for name in model.model_fields})
        near = nearest(path[-1], accepted)
        if not near and ".".join(path) in known:  # of another member of the union
            near = " of this kind, another has it"
        near = near or _meant(path[-1], known)
        return f"unknown field{near} (accepted: {', '.join(accepted)})"
    if kind == "missing":
        return "missing, and it has no default"
    if kind == "union_tag_invalid":
        accepted = [name.strip().strip("'") for name in str(context["expected_tags"]).split(",")]
        what = path[-1].split("[")[0] if path else "value"
        return str(unknown_name(what, str(context["tag"]), accepted))
    if kind == "union_tag_not_found":
        accepted = sorted(tag for model in models for tag in _tag_of(model))
        tag = str(context["discriminator"]).strip("'")
        return f"found {_shown(value)}, expected a mapping with {tag!r} (accepted: {', '.join(accepted)})"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind == "literal_error":
        accepted = [part.strip("'") for part in str(context["expected"]).replace(" or ", ", ").split(", ")]
        near = nearest(value, accepted) if isinstance(value, str) else ""
        return f"found {_shown(value)}, expected {context['expected']}{near}"
    expected = _EXPECTED.get(kind)
    if expected is None:
        message = error["msg"]
        expected = message.removeprefix("Input should be ").removeprefix("Value should ")
        expected = expected[0].lower() + expected[1:] if expected else message
    return f"found {_shown(value)}, expected {expected}"


def explain_each(error: ValidationError, annotation: Any, name: str = "") -> list[tuple[str, str]]:
    """Return (field path, sentence) for every field that is wrong, in the order pydantic found them.

    The branches of one plain union are joined: `found 'x', expected an integer or 'rotate'`.

    Args:
        error: what pydantic raised.
        annotation: what it validated: a model, or a union of models.
        name: of the whole value, put before every field path.
    """
    found: dict[str, list[str]] = {}
    known = sorted(path for model in _models(annotation) for path in field_paths(model))
    for details in error.errors():
        path, models = _walk(annotation, details["loc"], name)
        _, parents = _walk(annotation, details["loc"][:-1], name)
        found.setdefault(".".join(path), []).append(_sentence(details, path, models, parents, known))
    result = []
    for where, sentences in found.items():
        first = sentences[0]
        others = [text.partition(", expected ")[2] for text in sentences[1:]]
        result.append((where, " or ".join([first, *[text for text in others if text]])))
    return result


def explain(error: ValidationError, annotation: Any, name: str = "") -> str:
    """Return the whole error as one line; the arguments are those of `explain_each`."""
    lines = [f"{path}: {sentence}" if path else sentence for path, sentence in explain_each(error, annotation, name)]
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more
