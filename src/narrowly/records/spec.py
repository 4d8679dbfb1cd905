"""Define the base of every typed spec and the one way from plain values to it: a wrong field is one clear line.

A file, a `--set` override, a plain dict and keyword arguments are refused in the same words (`records.explain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from narrowly.records.errors import SpecError
from narrowly.records.explain import explain


class Spec(BaseModel):
    """Base of the specs: frozen, no unknown fields, finite numbers.

    Raises:
        SpecError: keyword arguments that are not accepted; field path, value found, what is expected, nearest match.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise SpecError(explain(error, type(self))) from None

    # Pydantic's own mark of an __init__ that only validates. Without it a spec inside another one would be built by
    # this method, and the error would lose the path that leads to it (held by tests/records/test_spec.py).
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def validated(annotation: Any, value: Any, name: str = "", source: str = "") -> Any:
    """Return the typed spec that a plain value stands for; a typed one is returned as it is.

    Args:
        annotation: a spec class, or a union of them that is told apart by a field.
        value: a mapping of fields, or a spec.
        name: what the value is (`optimiser`), put before every field path.
        source: where it comes from (a file), put before the message.

    Raises:
        SpecError: one line: source, field path, value found, what is expected, nearest match.
    """
    try:
        return TypeAdapter(annotation).validate_python(dict(value) if isinstance(value, Mapping) else value)
    except ValidationError as error:
        raise SpecError(f"{source}: " * bool(source) + explain(error, annotation, name)) from None
