"""`narrowly audit`: which optimiser the training jobs in a folder really run, and what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import complain, print_json, say
from narrowly.records.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from narrowly.audit.review import Review

EXAMPLES = """\b
Examples:
  narrowly audit .
  narrowly audit train.py configs/sft.yaml
  narrowly audit . --fail-on warning
      exit code 1 where a warning or an error is found
  narrowly audit . --explain OPT-FAMILY
      why, the source, and the change to make for each job
  narrowly audit . --sarif > audit.sarif
      for code scanning
  narrowly audit path/to/adapter --base path/to/base
      spectrum of a LoRA adapter, as an indicator (narrowly[spectral])

Reads Python, notebooks, shell, YAML, JSON and TOML; runs and unpickles nothing. Exit codes: 0 nothing at --fail-on or
above, 1 something, 2 the audit could not run. `.narrowly.toml` ignores findings, each with its reason (docs/audit.md).
"""
FAIL_ON = ("note", "warning", "error", "never")


def command(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Folders, files or adapter folders.")
    ] = None,
    as_json: AsJson = False,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page; it needs narrowly[lab].")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            "--fail-on", metavar="LEVEL", help="note, warning, error (default) or never: exit code 1 from here."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 also where a file was skipped.")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="RULE", help="Print a rule, and its changes for each job.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="Base of the adapter: its safetensors are read.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 means one per core.")] = 1,
) -> int:
    """Say which optimiser and settings the training jobs in PATH really run, and what is known of their risk."""
    if fail_on is not None and fail_on not in FAIL_ON:
        raise unknown_name("level for --fail-on", fail_on, FAIL_ON)
    if as_json and as_sarif:
        raise SpecError("--json and --sarif are two formats; give one of them")
    if not paths:
        if explain is None:
            raise SpecError("give a PATH: a folder, a file or an adapter folder (`.` is this folder)")
        _say_rule(explain)
        return 0
    if "" in paths:
        raise SpecError("a PATH is empty; give a folder, a file or an adapter folder (`.` is this folder)")
    if html is not None:
        _check_page(html)
    from narrowly.audit.review import review
    from narrowly.audit.scan import available_cores

    given = [Path(path) for path in paths]
    found = review(given, workers or available_cores())
    adapters = _adapters(given, base)
    record = _plain({**found.to_json(), **({"adapters": adapters} if adapters else {})})
    level = fail_on or found.settings.fail_on or "error"
    if as_json:
        print_json(record)
    elif as_sarif:
        from narrowly import __version__
        from narrowly.audit.sarif import sarif

        print_json(_plain(sarif(found, __version__)))
    elif explain is not None:
        _say_rule(explain)
        _say_changes(found.findings, explain)
    else:
        _say(found, adapters, level, strict, paths)
    if html is not None:
        _write_page(record, html, quiet=as_json or as_sarif)
    return found.exit_code(level, strict)


def _say(found: Review, adapters: list[dict[str, Any]], level: str, strict: bool, paths: list[str]) -> None:
    from narrowly.cli.auditing.audit_adapter import say_adapters
    from narrowly.cli.auditing.audit_sheet import say_review

    say_review(found, level, strict, paths)
    say_adapters(adapters)


def _write_page(record: dict[str, Any], html: Path, quiet: bool) -> None:
    from narrowly.report.audit_page import write_audit_page

    write_audit_page(record, html)
    if not quiet:
        say(f"page: {html}")


def _plain(value: Any) -> Any:
    """Return a value that JSON and every terminal can hold: names that are no text and odd types become text."""
    if isinstance(value, dict):
        return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value if value is None or isinstance(value, bool | int | float) else _plain(str(value))


def _check_page(html: Path) -> None:
    from narrowly.cli.terminal import need_extra

    need_extra("lab", "a page")
    if html.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"--html {html}: accepted is a file name that ends in .html")
    if not html.absolute().parent.is_dir():
        raise SpecError(f"--html {html}: there is no folder {html.parent}")


def _adapters(paths: list[Path], base: Path | None) -> list[dict[str, Any]]:
    """Return the report on each PATH that is an adapter folder; a note where what it needs is not installed."""
    from narrowly.records.adapter_files import ADAPTER_WEIGHTS, MLX_WEIGHTS
    from narrowly.records.install import install_hint, missing_requirements

    folders = [
        path
        for path in paths
        if path.is_dir() and any((path / name).is_file() for name in (ADAPTER_WEIGHTS, MLX_WEIGHTS))
    ]
    if base is not None and not folders:
        raise SpecError(f"--base {base}: no PATH is an adapter folder (one with {ADAPTER_WEIGHTS})")
    if base is not None and not base.is_dir():
        raise SpecError(f"--base {base}: there is no such folder")
    missing = missing_requirements("spectral") if folders else []
    if missing:
        complain(
            f"note: the spectrum of an adapter needs {', '.join(missing)}; add them with: {install_hint('spectral')}"
        )
        return []
    if not folders:
        return []
    from narrowly.workbench.adapter_risk import adapter_risk

    return [adapter_risk(folder, base) for folder in folders]


def _say_rule(name: str) -> None:
    from narrowly.audit.rules.registry import rule_of

    rule = rule_of(name)
    say(f"{rule.id} ({rule.level}): {rule.title}", "bold")
    say(rule.explanation)
    say(f"evidence: {rule.evidence}; source: {rule.source}")
    if not rule.fails:
        say("It never sets the exit code.")


def _say_changes(findings: Any, explain: str) -> None:
    from narrowly.audit.rules.registry import rule_of

    found = [one for one in findings if one.rule == rule_of(explain).id]
    if not found:
        say("nothing here", "dim")
    for one in found:
        say("")
        say(f"{one.file}:{one.line}: {one.message}" + (f" (ignored: {one.ignored})" if one.ignored else ""))
        for line in one.fix.splitlines():
            say(f"    {line}")
