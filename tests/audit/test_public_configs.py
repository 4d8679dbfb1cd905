"""The table of public files labelled by hand: its form, its spread, and how labels are compared."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TABLE = [json.loads(line) for line in (Path(__file__).parent / "public_configs.jsonl").read_text("utf-8").splitlines()]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("public", ROOT / "experiments" / "audit_on_public_configs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]


def test_every_row_names_a_file_by_commit_and_hash_and_none_twice() -> None:
    places = Counter((row["repository"], row["path"]) for row in TABLE)
    assert max(places.values()) == 1
    for row in TABLE:
        assert len(row["sha256"]) == 64 and int(row["sha256"], 16) >= 0
        assert len(row["commit"]) == 40 and int(row["commit"], 16) >= 0
        assert row["repository"].count("/") == 1 and not Path(row["path"]).is_absolute()
        assert all(len(beside["sha256"]) == 64 for beside in row.get("beside", []))


def test_labels_use_the_fields_of_a_job() -> None:
    fields = {"tool", *script().FIELDS}
    for row in TABLE:
        for labels in row["jobs"]:
            assert {"tool", "optimiser"} <= set(labels) <= fields, row["path"]


def verdicts_for(module: Any, labels: dict[str, Any], **reported: Any) -> dict[str, bool]:
    nothing = {"value": None, "provenance": "unknown", "reason": "not stated"}
    job = {"tool": "trl", **{name: nothing for name in module.FIELDS}}
    job |= {name: {"value": value, "provenance": "explicit"} for name, value in reported.items()}
    row = {"repository": "a/b", "path": "c.yaml", "jobs": [labels]}
    return {one.field: one.right for one in module.judge_row(0, row, {"0000/c.yaml": [job]})}


@pytest.mark.parametrize(
    ("label", "found", "right"),
    [
        (2e-5, 0.00002, True),
        (2e-5, 2.1e-5, False),
        (2e-5, "2e-5", False),
        (["unknown", 2e-5], 2e-5, True),
        ("unknown", 2e-5, False),
        (3, 3.0, True),
    ],
)
def test_a_number_is_right_where_it_is_the_labelled_number(label: Any, found: Any, right: bool) -> None:
    labels = {"tool": "trl", "optimiser": "adamw", "learning_rate": label}
    verdict = verdicts_for(script(), labels, optimiser="adamw", learning_rate=found)
    assert verdict == {"job": True, "tool": True, "optimiser": True, "learning_rate": right}


def test_an_unknown_is_right_only_where_unknown_is_the_label() -> None:
    module = script()
    assert not verdicts_for(module, {"tool": "trl", "optimiser": "adamw"})["optimiser"]
    assert verdicts_for(module, {"tool": "trl", "optimiser": "unknown"})["optimiser"]


def test_a_file_without_a_job_is_right_only_where_no_job_is_reported() -> None:
    module = script()
    row = {"repository": "a/b", "path": "c.yaml", "jobs": []}
    assert module.judge_row(0, row, {})[0].right
    assert not module.judge_row(0, row, {"0000/c.yaml": [{"tool": "trl"}]})[0].right
