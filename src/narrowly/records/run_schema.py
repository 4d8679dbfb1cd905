"""Describe run specs to editors."""

from __future__ import annotations

import re
from typing import Any

from narrowly.records.explain import field_paths
from narrowly.records.run_spec import RunSpec

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """Return the JSON Schema of a run spec, for editors; dotted keys are accepted beside nested ones."""
    schema = RunSpec.model_json_schema()
    dotted = "|".join(re.escape(path) for path in sorted(field_paths(RunSpec)) if "." in path)
    schema["patternProperties"] = {f"^({dotted})$": {}}
    required = schema.pop("required")
    schema["anyOf"] = [{"required": required}, {"required": ["optimiser.kind", "optimiser.lr"]}]
    schema["not"] = {"required": ["steps", "epochs"]}
    return {"$schema": JSON_SCHEMA, **schema}
