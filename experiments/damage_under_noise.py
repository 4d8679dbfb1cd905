"""Measure the damage panel on a model and on the same model with noise in its weights, and write what was lost.

    python experiments/damage_under_noise.py smollm2-135m --first 6 --draws 6 --out FILE.json

Noise of 0.05 is normal, added to every tensor with 5 % of that tensor's standard deviation; a draw is a seed of torch.
Stops and resumes: a draw that is in the file is not measured again.

Criterion, fixed after draws 0 to 5 and before draws 6 to 11: the primary interval of the project (two-way random
effects, draws x items) excludes 0 for both margins; and in each draw the t interval over passages excludes 0 for the
loss of prose.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from narrowly.evaluate.damage.measure import damage_panel
from narrowly.evaluate.damage.summary import abilities_of, damage_words, fall
from narrowly.models.base import load_model, open_base
from narrowly.models.local_backend import LocalBackend
from narrowly.records.damage import DamagePanel
from narrowly.stats.random_effects import crossed_mean


def add_noise(model: torch.nn.Module, share: float, draw: int) -> None:
    """Add normal noise of a share of its standard deviation to every tensor of a model."""
    torch.manual_seed(draw)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * tensor.std() * share)


def as_row(panel: DamagePanel, base: DamagePanel | None) -> dict:
    """Return what a panel says, and what was lost against the base, as plain values."""
    found = {
        "right": {one.name: one.right for one in abilities_of(panel)},
        "all": abilities_of(panel)[-1].model_dump(mode="json"),
        "perplexity": panel.perplexity,
        "shuffled_perplexity": panel.shuffled_perplexity,
        "by_topic": {one.topic: [one.natural_loss, one.shuffled_loss] for one in panel.passages},
    }
    if base is None:
        return found
    pairs = list(zip(panel.abilities, base.abilities, strict=True))
    items = {
        "over_best": [round(one.over_best - other.over_best, 4) for one, other in pairs],
        "over_mean": [round(one.over_mean - other.over_mean, 4) for one, other in pairs],
    }
    return found | {"fall": fall(panel, base).model_dump(mode="json"), "items": items}


def over_draws(draws: dict) -> dict:
    """Return the mean fall of each margin over draws and items, by two-way random effects."""
    if not all("items" in row for row in draws.values()):
        return {}
    tables = {name: [row["items"][name] for row in draws.values()] for name in ("over_best", "over_mean")}
    return {name: asdict(crossed_mean(table).interval) for name, table in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = open_base(arguments.model)
    model = load_model(base).eval()
    backend = LocalBackend(model, base.tokenizer(), base.name)
    clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = time.monotonic()
    unhurt = damage_panel(backend)
    print(f"no noise ({time.monotonic() - start:.0f} s):", *damage_words(unhurt)[:2], sep="\n  ", flush=True)
    banks = {"abilities": unhurt.abilities_sha256, "passages": unhurt.passages_sha256}
    result = {"model": base.name, "noise": arguments.noise, "banks": banks, "draws": {}}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        if {name: before[name] for name in ("model", "noise", "banks")} != {
            k: result[k] for k in result if k != "draws"
        }:
            raise SystemExit(f"{arguments.out} holds another measurement; name another file")
        result["draws"] = before["draws"]
    result |= {"arithmetic": unhurt.arithmetic.model_dump(mode="json"), "no noise": as_row(unhurt, None)}
    for draw in range(arguments.first, arguments.first + arguments.draws):
        if str(draw) in result["draws"]:
            continue
        add_noise(model, arguments.noise, draw)
        hurt = damage_panel(backend)
        model.load_state_dict(clean)
        print(f"draw {draw}:", *damage_words(hurt, unhurt), sep="\n  ", flush=True)
        result["draws"][str(draw)] = as_row(hurt, unhurt)
        result["over draws and items"] = over_draws(result["draws"])
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
