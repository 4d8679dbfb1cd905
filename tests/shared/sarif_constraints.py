"""SARIF 2.1.0 for what we write: the objects we use, with the required and the allowed properties of the standard.

No package of the test environment ships the official schema, so this states the part that a log of ours can break. The
whole schema (oasis-tcs/sarif-spec, sarif-2.1/schema) was applied once by hand; LOG.md has the date.
"""

from __future__ import annotations

from typing import Any


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_MESSAGE = _object(("text",), text=_TEXT)
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_LOCATION = _object(
    ("physicalLocation",),
    physicalLocation=_object(
        ("artifactLocation",),
        artifactLocation=_object(("uri",), uri={"type": "string", "pattern": r"^[A-Za-z0-9\-._~/%:]+$"}),
        region=_object(("startLine",), startLine={"type": "integer", "minimum": 1}),
    ),
)
_RULE = _object(
    ("id",), id=_TEXT, name=_TEXT, shortDescription=_MESSAGE, fullDescription=_MESSAGE, help=_MESSAGE,
    defaultConfiguration=_object(("level",), level=_LEVEL), properties={"type": "object"},
)  # fmt: skip
_RESULT = _object(
    ("message",), ruleId=_TEXT, ruleIndex={"type": "integer", "minimum": 0}, level=_LEVEL, message=_MESSAGE,
    locations={"type": "array", "items": _LOCATION},
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    suppressions={
        "type": "array",
        "items": _object(("kind",), kind={"enum": ["inSource", "external"]}, justification={"type": "string"}),
    },
)  # fmt: skip
_NOTIFICATION = _object(("message",), message=_MESSAGE, level=_LEVEL, locations={"type": "array", "items": _LOCATION})
_DRIVER = _object(
    ("name",), name=_TEXT, version=_TEXT, shortDescription=_MESSAGE,
    rules={"type": "array", "items": _RULE, "uniqueItems": True},
)  # fmt: skip
_RUN = _object(
    ("tool",), tool=_object(("driver",), driver=_DRIVER), results={"type": "array", "items": _RESULT},
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    invocations={
        "type": "array",
        "items": _object(
            ("executionSuccessful",), executionSuccessful={"type": "boolean"},
            toolExecutionNotifications={"type": "array", "items": _NOTIFICATION},
        ),
    },
)  # fmt: skip
CONSTRAINTS = _object(
    ("version", "runs"), **{"$schema": {"type": "string"}}, version={"const": "2.1.0"},
    runs={"type": "array", "items": _RUN},
)  # fmt: skip
