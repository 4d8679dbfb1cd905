"""`narrowly vllm-command`: print the command of one vLLM server for many adapters; nothing is started."""

from __future__ import annotations

from typing import Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.plain import without_controls
from narrowly.cli.terminal import print_json, say

EXAMPLES = """\b
Examples:
  narrowly vllm-command RUN-ID CONTROL-RUN-ID
  narrowly vllm-command ADAPTER --base Qwen/Qwen3-0.6B --dtype bfloat16

Run it where vLLM and a GPU are. Then ask, or evaluate, by the names that are printed:

\b
  narrowly ask --endpoint http://127.0.0.1:8000/v1 --model NAME "..."
  narrowly eval --endpoint http://127.0.0.1:8000/v1 --model NAME \\
      --control NAME --tokenizer BASE
"""


def command(
    models: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs or folders of adapters, on one base.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="On 127.0.0.1.")] = 8000,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="Of adapters: the base, where it is not found.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="What vLLM computes in; that of the runs, else bfloat16.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Print the command of one vLLM server that serves adapters on one base; nothing is started."""
    from narrowly.records.errors import unknown_name
    from narrowly.workbench.asking import find_model
    from narrowly.workbench.vllm import vllm_command

    if dtype is not None and dtype not in ("float32", "bfloat16", "float16"):
        raise unknown_name("dtype", dtype, ("float32", "bfloat16", "float16"))
    found = vllm_command([find_model(one, runs, base=base) for one in models], port=port, dtype=dtype)
    if as_json:
        print_json(found._asdict())
        return 0
    for line in found.shown.split("\n"):
        typer.echo(without_controls(line))  # not folded: it is copied into a shell
    say("")
    say(f"names: {', '.join(found.names)}; their arithmetic: --arithmetic {found.arithmetic}")
    return 0
