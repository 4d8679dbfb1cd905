"""Print what the spectrum of an adapter may indicate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narrowly.cli.terminal import console, number, safe, say, table
from narrowly.records.errors import counted


def say_adapters(adapters: Sequence[dict[str, Any]]) -> None:
    """Print the report of each adapter: indicators with what each is not."""
    for one in adapters:
        say("")
        say(f"adapter {safe(one['adapter'])}: {counted(one['modules'], 'module')}", "bold")
        rows = [
            [row["name"], number(row["value"]) if isinstance(row["value"], float) else row["value"], row["compared"]]
            for row in one["indicators"]
        ]
        console().print(table(["indicator", "value", "compared with"], rows))
        for fault in one["factors"]:
            say(f"factor: {safe(fault)}", "yellow")
        for left in one["skipped"]:
            say(f"skipped: {safe(left)}", "dim")
        for sentence in one["not"]:
            say(sentence, "dim")
