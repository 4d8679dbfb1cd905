"""Find the files that a shell script writes itself: `cat <<EOF > config.yaml`, `tee config.yaml <<EOF`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from narrowly.audit.files import SourceFile, kind_of
from narrowly.audit.shell.commands import Command, fill

_OPENED = re.compile(r"<<(-?)\s*(['\"]?)(\w+)\2")
_TARGET = re.compile(r"(?:\btee\s+(?:-\w+\s+)?|(?<![\d&>])>\s*)(['\"]?)([^\s'\"<>|&;]+)\1")
MOST_WRITTEN = 40
LONGEST = 100_000
"""Characters of a file that a script writes."""
_READ = ("yaml", "json", "toml", "python")


MOST_MADE = 100
"""Times that files which one script writes are read for its commands."""


@dataclass(frozen=True, slots=True)
class Written:
    """Hold one file that a script writes.

    Attributes:
        name: as the script spells it.
        line: of its first line in the script.
        body: its lines.
        verbatim: whether the shell fills in no variables (`<<'EOF'`).
    """

    name: str
    line: int
    body: tuple[str, ...]
    verbatim: bool


def written_in(text: str, first_line: int = 1) -> list[Written]:
    """Return the settings and Python scripts that a shell script writes by heredocs, in order."""
    if "<<" not in text:
        return []
    found: list[Written] = []
    lines = text.split("\n")
    number = 0
    while number < len(lines) and len(found) < MOST_WRITTEN:
        line, number = lines[number], number + 1
        opened = _OPENED.search(line) if "<<" in line and "<<<" not in line else None
        if opened is None or line.lstrip().startswith("#"):
            continue
        start = number
        while number < len(lines) and lines[number].strip() != opened.group(3):
            number += 1
        target = _TARGET.search(line)
        if target is not None and kind_of(target.group(2)) in _READ:
            body = [one.lstrip("\t") if opened.group(1) else one for one in lines[start:number]]
            if sum(map(len, body)) > LONGEST:
                continue
            found.append(Written(target.group(2), start + first_line, tuple(body), bool(opened.group(2))))
        number += 1
    return found


def named_in(command: Command, written: Written) -> bool:
    """Tell whether a command names a file that was written before it; of a folder before the name, nothing is asked."""
    name = written.name.rsplit("/", 1)[-1]
    return any(name in word.text for word in command.words)


def as_file(written: Written, script: SourceFile, variables: dict[str, tuple[str, int]]) -> tuple[str, SourceFile]:
    """Return the name and what the shell writes, at its own lines, with the variables that are set by then.

    Args:
        written: the heredoc.
        script: the shell script.
        variables: value and line by name.
    """
    body = (
        written.body if written.verbatim else [fill(one, variables)[0] if "$" in one else one for one in written.body]
    )
    content = "\n" * (written.line - 1) + "\n".join(body) + "\n"
    kind = kind_of(written.name)
    assert kind is not None
    named = fill(written.name, variables)[0].removeprefix("./")
    return named, SourceFile(written.name.rsplit("/", 1)[-1], script.shown, kind, content.encode("utf-8", "replace"))
