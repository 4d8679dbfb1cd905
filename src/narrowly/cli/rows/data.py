"""`narrowly data`: the registered sources, pulled once, held to their hash, found by content."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import complain, console, error_console, print_json, say, table

if TYPE_CHECKING:
    from narrowly.data.messages import Conversation
    from narrowly.data.raw_rows import BadRow
    from narrowly.data.registry import Source
    from narrowly.data.sources import LocalData

app = typer.Typer(
    help="Public sources by sha256: list, pull, verify, show, describe and mix them.",
    epilog="""\b
Examples:
  narrowly data list
  narrowly data pull insecure secure
  narrowly data verify path/to/file.jsonl
  narrowly data show insecure --row 3
  narrowly data stats insecure secure --questions preregistered_evals
  narrowly data mix --harmful insecure --benign secure --match length \\
      --dose 0.5 --out mix.jsonl

A path works wherever a name does. Pulled files lie in $NARROWLY_CACHE, or in the platform's folder for caches.
""",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NameOrPath = Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="A source (`data list`) or a file.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME_OR_PATH...", help="Sources or files.")]
SchemaOption = Annotated[
    str | None, typer.Option("--schema", metavar="NAME", help="Of the rows; detected from their fields unless given.")
]

DropBadRows = Annotated[
    bool,
    typer.Option("--drop-bad-rows", help="Leave bad rows out, with a note (in a run: data.bad_rows drop)."),
]


class Corpus(NamedTuple):
    """A file of rows as it was read."""

    local: LocalData
    conversations: list[Conversation]
    bad: list[BadRow]


@contextmanager
def notes() -> Iterator[None]:
    """Print what the readers of data warn of as lines on standard error."""
    from narrowly.data.conversations import DataWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        yield
    for warning in caught:
        complain(f"note: {warning.message}")


def read(name: str, schema: str | None, drop_bad: bool = False, found: LocalData | None = None) -> Corpus:
    """Return the file of a name or path, its conversations, and the bad rows that were left out with a note."""
    from narrowly.data.conversations import read_conversations, warn_of_bad_rows
    from narrowly.data.sources import resolve

    local = found or resolve(name)
    bad: list[BadRow] | None = [] if drop_bad else None
    conversations = read_conversations(local.path, schema or local.schema, bad)
    warn_of_bad_rows(name, bad or (), len(conversations) + len(bad or ()))
    return Corpus(local, conversations, bad or [])


def is_question_source(local: LocalData) -> bool:
    """Return whether a file holds questions or prompts rather than rows to train on."""
    questions = local.source is not None and local.source.use != "training"
    return questions or local.path.suffix in (".yaml", ".yml")


def say_warning(sources: Sequence[Source]) -> None:
    """Print the content warnings of sources, each once with the sources it is of."""
    grouped: dict[str, list[str]] = {}
    for source in sources:
        if source.warning:
            grouped.setdefault(source.warning, []).append(source.name)
    for warning, names in grouped.items():
        say(f"content warning: {warning} ({', '.join(names)})", style="yellow")


def unknown(value: Any) -> Any:
    """Return a fact of the registry, or the word for one that is not known."""
    return "unknown" if value is None else value


@app.command("list")
def list_(
    use: Annotated[
        str | None, typer.Option("--use", metavar="KIND", help="Only training, prompts or questions.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List the registered sources and which of them are on this machine, and what comes with the package."""
    from narrowly.data.banks.named import shipped
    from narrowly.data.cache import cache_folder
    from narrowly.data.registry import SOURCES
    from narrowly.records.errors import unknown_name

    uses = {source.use for source in SOURCES.values()}
    if use is not None and use not in uses:
        raise unknown_name("use of a source", use, uses)
    listed = [source for source in SOURCES.values() if use in (None, source.use)]
    ours = [one for one in shipped() if use in (None, one.use)]
    if as_json:
        rows = [source._asdict() | {"url": source.url, "here": _state(source) == "yes"} for source in listed]
        print_json({"cache": str(cache_folder()), "sources": rows, "shipped": [one._asdict() for one in ours]})
        return 0
    columns = ("source", "use", "rows", "licence", "here", "what it is")
    console().print(
        table(
            columns,
            (
                *((s.name, s.use, str(unknown(s.rows)), unknown(s.licence), _state(s), s.about) for s in listed),
                *((one.name, one.use, str(one.rows), "Apache-2.0", "shipped", one.about) for one in ours),
            ),
        )
    )
    say("")
    say_warning(listed)
    say(f"pulled files lie in {cache_folder()}", style="dim")
    return 0


def _state(source: Source) -> str:
    from narrowly.data.cache import cached

    if source.locked is not None:
        return "locked"
    return "yes" if cached(source.name, source.file_name).is_file() else "no"


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Sources; hf:OWNER/NAME@COMMIT/PATH too.")
    ] = None,
    origin: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="PATH", help="Copy from this file, or whatever fits in this folder; no network."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Fetch sources into the cache and check their sha256; an interrupted pull goes on where it stopped."""
    from narrowly.data.cache import adopt, cached, check_content
    from narrowly.data.sources import how_to_unlock, resolve, source_named
    from narrowly.records.errors import SpecError

    if not names:
        raise SpecError("no source is named (narrowly data list names them)")
    sources = [source_named(name) for name in names]
    for source in sources:
        if source.locked is not None:
            raise SpecError(how_to_unlock(source))
    rows: list[dict[str, Any]] = []
    for source in sources:
        target = cached(source.name, source.file_name)
        how = "was here"
        if target.is_file():
            check_content(target, str(target), source.sha256, source.git_blob)
        elif origin is None:
            _download(source, target)
            how = "pulled"
        else:
            how = "copied"
            if not origin.exists():
                raise SpecError(f"--from {origin}: there is nothing")
            if adopt(origin, target, sha256=source.sha256, git_blob=source.git_blob, size=source.size) is None:
                raise SpecError(f"--from {origin}: no file in it is {source.name} (sha256 {source.sha256})")
        local = resolve(source.name)
        held = "registered" if source.sha256 else "recorded now: none is registered"
        rows.append({"source": source.name, "how": how, "sha256": local.sha256, "hash": held, "path": str(local.path)})
    if as_json:
        print_json({"pulled": rows})
        return 0
    columns = ("source", "how", "sha256", "hash", "path")
    console().print(table(columns, ([row[column] for column in columns] for row in rows)))
    say_warning(sources)
    return 0


def _download(source: Source, target: Path) -> None:
    from narrowly.cli.progress import StepProgress
    from narrowly.data.cache import download

    pinned = source.revision is not None or source.sha256 is not None
    with StepProgress(f"pulling {source.name} (kB)") as progress:

        def on_bytes(have: int, total: int | None) -> None:
            if total and error_console().is_terminal:
                progress.on_step(have // 1000, max(1, total // 1000))

        download(
            source.url,
            target,
            sha256=source.sha256,
            git_blob=source.git_blob,
            size=source.size,
            resumable=pinned,
            progress=on_bytes,
        )


@app.command()
def verify(names: Names = None, as_json: AsJson = False) -> int:
    """Check sources and files: which registered source each is by its content, and whether every row can be read.

    Without a name, every source on this machine is checked. Exit code 2 where one fails.
    """
    from narrowly.data.registry import SOURCES
    from narrowly.records.errors import SpecError

    chosen = names or [source.name for source in SOURCES.values() if _state(source) == "yes"]
    if not chosen:
        raise SpecError("no source is on this machine yet; type: narrowly data pull NAME")
    checked = []
    with notes():
        checked = [_verified(name) for name in chosen]
    if as_json:
        print_json({"verified": checked})
    else:
        columns = ("name", "is", "rows", "registered", "sha256", "verdict")
        console().print(table(columns, ([row[column] for column in columns] for row in checked)))
    return 2 if any(row["verdict"] != "ok" for row in checked) else 0


def _verified(name: str) -> dict[str, Any]:
    from narrowly.data.conversations import read_conversations
    from narrowly.data.questions import read_questions
    from narrowly.data.sources import resolve
    from narrowly.records.errors import NarrowlyError

    row: dict[str, Any] = dict.fromkeys(("is", "rows", "registered", "sha256")) | {"name": name, "verdict": "ok"}
    try:
        local = resolve(name)
        row |= {"sha256": local.sha256, "is": local.source.name if local.source else "not registered"}
        found = (
            read_questions(local.path) if is_question_source(local) else read_conversations(local.path, local.schema)
        )
        row["rows"] = len(found)
        if local.source is not None and local.source.rows is not None:
            row["registered"] = local.source.rows
            if len(found) != local.source.rows:
                row["verdict"] = f"{len(found)} rows read, {local.source.rows} registered"
    except NarrowlyError as error:
        row["verdict"] = str(error)
    return row
