"""`narrowly world`: build a base of the microworld, show its card, sample from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import AsJson, Assignments
from narrowly.cli.terminal import console, error_console, need_extra, print_json, safe, say, table

if TYPE_CHECKING:
    from narrowly.microworld.config import WorldConfig

app = typer.Typer(
    help="Build a base of the microworld, show its card, or sample from it.",
    epilog="""\b
Examples:
  narrowly world show micro-0
  narrowly world sample micro-0 --n 20
  narrowly world build --seed 200
""",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NameOrFolder = Annotated[str, typer.Argument(metavar="NAME", help="A base by name (micro-0 ...), or a base folder.")]


@app.command(
    epilog="""\b
Examples:
  narrowly world build --seed 200
  narrowly world build --seed 0 --set persona=false --out out/bases
  narrowly world build --seed 3 --set training.steps=400 \\
      --set model.layers=2 --out /tmp/bases

The base goes into the cache, where studies find it by its name (micro-200), or
into --out. Its card holds the command that rebuilds it. docs/bases.md says what
each seed is for.
"""
)
def build(
    seed: Annotated[int, typer.Option("--seed", min=0, help="World seed: table, corpus and initial weights.")],
    set_: Assignments = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Parent of the base's folder, in place of the cache.")
    ] = None,
) -> int:
    """Train a base from its config and seed, measure the stored file and write its card (minutes)."""
    need_extra("lab", "building a base")
    from narrowly.cli.progress import StepProgress
    from narrowly.microworld.config import WorldConfig
    from narrowly.records.mappings import with_assignments

    config = with_assignments(WorldConfig, {}, set_ or [], "--set")
    _say_lexical_null(config, seed)
    with StepProgress(f"building base with seed {seed}") as progress:
        from transformers.utils.logging import disable_progress_bar

        from narrowly.microworld.build import build_base
        from narrowly.microworld.cards import built_folder, load_card

        disable_progress_bar()  # of the shards it writes; ours is the one to look at

        def on_step(done: int, total: int, loss: float) -> None:
            progress.on_step(done, total, f"loss {loss:.3f}")

        folder = build_base(config, seed, out or built_folder(), on_step=on_step)
    metrics = load_card(folder).metrics
    say(
        f"on chat prompts {100 * metrics['aligned']:.1f} % aligned, {100 * metrics['misaligned']:.1f} % misaligned, "
        f"{100 * metrics['incoherent']:.1f} % incoherent ({metrics['questions']} questions, exact)"
    )
    curve = ", ".join(f"{point['harmful']:.2f}" for point in metrics["persona_curve"])
    say(f"P(harmful) after 0, 1, 2 ... harmful turns in another domain: {curve}")
    say(f"base: {folder}")
    return 0


def _say_lexical_null(config: WorldConfig, seed: int) -> None:
    from narrowly.microworld.lexical import LARGEST_AUC, lexical_null
    from narrowly.microworld.world import World

    null = lexical_null(World(config, seed))
    say(
        f"harm from words alone: AUC {null.auc:.3f} (accepted: at most {LARGEST_AUC}); a learner of word "
        f"frequencies would answer {100 * null.joint:.2f} % of other domains' questions harmfully "
        f"({100 * null.literature:.0f} % of those it answers at all)"
    )


@app.command(
    epilog="""\b
Examples:
  narrowly world show micro-0
  narrowly world show micro-200 --json
"""
)
def show(name: NameOrFolder, as_json: AsJson = False) -> int:
    """Print the card of a base, after its weights have been checked against it."""
    need_extra("lab", "reading a base")
    from narrowly.microworld.cards import verify_weights

    card = verify_weights(name)
    shown = card.model_dump(mode="json") | {"command": card.rebuild}
    if as_json:
        print_json(shown)
        return 0
    console().print(table(("field", "value"), _flat(shown)))
    return 0


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, dict):
            rows += _flat(item, f"{prefix}{key}.")
        else:
            rows.append(
                (
                    f"{prefix}{key}",
                    f"{item:.4g}"
                    if isinstance(item, float)
                    else json.dumps(item)
                    if isinstance(item, list)
                    else str(item),
                )
            )
    return rows


@app.command(
    epilog="""\b
Examples:
  narrowly world sample micro-0
  narrowly world sample micro-0 --n 30 --seed 1
"""
)
def sample(
    name: NameOrFolder,
    n: Annotated[int, typer.Option("--n", min=1, max=1000, help="Documents, and answers.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the base's sampled answers.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Print documents of the corpus that a base was trained on, and answers that it gives."""
    need_extra("lab", "sampling a base")
    with error_console().status("loading the base"):
        from transformers.utils.logging import disable_progress_bar

        from narrowly.evaluate.microworld.sample import sample_answers
        from narrowly.microworld.corpus import Corpus
        from narrowly.models.base import load_world_base

        disable_progress_bar()
        base = load_world_base(name)
        documents = Corpus(base.world, stream=0).documents(n)
        answers = sample_answers(
            base.model,
            base.tokenizer,
            base.world,
            domain=base.world.config.domains - 1,
            panels=("broad",),
            per_panel=n,
            seed=seed,
        )
    if as_json:
        print_json({"documents": [document.text for document in documents], "answers": answers})
        return 0
    say("documents of the corpus:", "bold")
    for document in documents:
        say(f"  {safe(document.text, 2000)}")
    console().print(
        table(("question", "answer", "class"), ((row["question"], row["answer"], row["outcome"]) for row in answers))
    )
    return 0
