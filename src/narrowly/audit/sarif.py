"""Write a review as SARIF 2.1.0, the format of code scanning (docs.oasis-open.org/sarif/sarif/v2.1.0)."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

from narrowly.audit.review import Review
from narrowly.audit.rules.registry import rules
from narrowly.audit.rules.rule import RISK, Finding, Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(review: Review, version: str) -> dict[str, Any]:
    """Return the SARIF log of a review.

    Args:
        review: jobs, findings and skips; each skip is a notification of the run.
        version: of narrowly.
    """
    known = list(rules().values())
    index = {rule.id: number for number, rule in enumerate(known)}
    seen: dict[str, int] = {}
    run = {
        "tool": {
            "driver": {
                "name": "narrowly audit",
                "version": version,
                "shortDescription": {"text": "Which optimiser a fine-tuning pipeline really runs."},
                "rules": [_rule(rule) for rule in known],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, index, seen, review.prefix) for finding in review.findings],
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    {
                        "level": "note",
                        "message": {"text": f"skipped: {skip.reason}"},
                        "locations": [
                            {"physicalLocation": {"artifactLocation": {"uri": _uri(review.prefix + skip.file)}}}
                        ],
                    }
                    for skip in review.skipped
                ],
            }
        ],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(part.capitalize() for part in rule.id.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": f"{rule.explanation} Source: {rule.source}. This is {RISK}."},
        "defaultConfiguration": {"level": rule.level},
        "properties": {"evidence": rule.evidence, "source": rule.source},
    }


def _result(finding: Finding, index: dict[str, int], seen: dict[str, int], prefix: str) -> dict[str, Any]:
    """Return one result; equal ones of a file are numbered, so that every fingerprint is its own."""
    identity = f"{finding.rule}\n{finding.file}\n{finding.message}"
    seen[identity] = seen.get(identity, 0) + 1
    fingerprint = hashlib.sha256(f"{identity}\n{seen[identity]}".encode("utf-8", "replace")).hexdigest()[:32]
    text = finding.message + (f"\n\n{finding.fix}" if finding.fix else "")
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index[finding.rule],
        "level": finding.level,
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(prefix + finding.file)},
                    "region": {"startLine": max(1, finding.line)},
                }
            }
        ],
        "partialFingerprints": {"narrowlyFinding/v1": fingerprint},
    }
    if finding.ignored:
        result["suppressions"] = [{"kind": "external", "justification": finding.ignored}]
    return result


def _uri(file: str) -> str:
    """Return a path as a relative or absolute URI reference; bytes that are no text become question marks."""
    path = quote(file.encode("utf-8", "replace").decode(), safe="/-._~")
    return f"file://{path}" if path.startswith("/") else path
