"""`narrowly studies`: the shipped studies, one of them as YAML, and the schema of study files."""

from __future__ import annotations

from typing import Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, print_json, table

EXAMPLES = """\b
Examples:
  narrowly studies
  narrowly studies micro > my-study.yaml       a file to begin from
  narrowly studies --schema > study.schema.json
      for editors that check YAML against a JSON Schema
"""


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this shipped study as YAML.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of study files.")] = False,
    as_json: AsJson = False,
) -> int:
    """List the shipped studies, or print one of them, or the schema of study files."""
    from narrowly.records.errors import unknown_name
    from narrowly.records.study_spec import study_schema
    from narrowly.study.plan import expand, find_study, shipped_studies

    shipped = shipped_studies()
    if schema:
        print_json(study_schema())
    elif name is not None:
        if name not in shipped:
            raise unknown_name("study", name, shipped)
        if as_json:
            print_json(find_study(name).model_dump(mode="json", exclude_unset=True))
            return 0
        typer.echo(shipped[name].read_text(encoding="utf-8"), nl=False)
    else:
        found = {key: find_study(key) for key in shipped}
        if as_json:
            rows = [{"study": key, "cells": len(expand(spec)), "title": spec.title} for key, spec in found.items()]
            print_json({"studies": rows})
            return 0
        console().print(
            table(("study", "cells", "title"), ((key, len(expand(spec)), spec.title) for key, spec in found.items()))
        )
    return 0
