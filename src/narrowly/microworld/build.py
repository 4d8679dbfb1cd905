"""Build a base: check the world, train, store, measure the stored file, write the card.

What `narrowly world build` runs.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from narrowly.microworld import words
from narrowly.microworld.cards import CARD, WEIGHTS, BaseCard
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.lexical import LARGEST_AUC, leave_one_domain_out_auc
from narrowly.microworld.measure import measure_base
from narrowly.microworld.pretrain import pretrain
from narrowly.microworld.tokenizer import build_tokenizer
from narrowly.microworld.world import World
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import RunDirectoryError, SpecError
from narrowly.records.files import whole_folder, write_json

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def base_name(config: WorldConfig, seed: int) -> str:
    """Return a base's name: `micro-SEED`, `nopersona` for the twin, the config's hash unless it is the default."""
    default = WorldConfig(persona=config.persona).config_id == config.config_id
    middle = "" if default else f"-{config.config_id}"
    return f"micro{middle}-{'' if config.persona else 'nopersona-'}{seed}"


def build_command(config: WorldConfig, seed: int) -> str:
    """Return the command that rebuilds a base."""
    parts = ["narrowly", "world", "build", "--seed", str(seed)]
    reference, given = WorldConfig().model_dump(), config.model_dump()
    for field, value in given.items():
        if isinstance(value, dict):
            changed = {f"{field}.{k}": v for k, v in value.items() if v != reference[field][k]}
        else:
            # a field that was added later is written only where it is used
            changed = {field: value} if field not in reference or value != reference[field] else {}
        for path, new in changed.items():
            parts += ["--set", f"{path}={str(new).lower() if isinstance(new, bool) else new}"]
    return shlex.join(parts)


def build_base(
    config: WorldConfig,
    seed: int,
    out_dir: Path,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Build one base and return its folder `out_dir/NAME`; a killed build leaves nothing there.

    Args:
        config: the world's knobs.
        seed: world seed: table, corpus and initial weights.
        out_dir: parent of the base's folder.
        on_step: called after each training step with (done, total, loss in nats per token).

    Raises:
        SpecError: where harm could be learnt from words (AUC above 0.55), or the seed is negative.
        RunDirectoryError: where the folder exists or cannot be written.
    """
    world = World(config, seed)
    auc = leave_one_domain_out_auc(world)
    if auc > LARGEST_AUC:
        raise SpecError(
            f"world seed {seed}: harm is predictable from words (AUC {auc:.3f}, accepted: at most {LARGEST_AUC}); "
            "take another seed"
        )
    name = base_name(config, seed)
    folder = out_dir / name
    if folder.exists():
        raise RunDirectoryError(f"{folder} exists already; remove it or choose another --out")
    with whole_folder(folder) as unfinished:
        model = pretrain(world, on_step)
        tokenizer = build_tokenizer()
        stored = model.to(torch.bfloat16)
        stored.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        metrics = measure_base(stored.float().eval(), tokenizer, world)
        card = BaseCard(
            name=name,
            world_seed=seed,
            persona=config.persona,
            config=config,
            config_id=config.config_id,
            command=build_command(config, seed),
            sha256=sha256_file(unfinished / WEIGHTS),
            parameters=sum(p.numel() for p in stored.parameters()),
            metrics=metrics,
            built_with={library: version(library) for library in LIBRARIES},
            canary=words.CANARY,
        )
        write_json(unfinished / CARD, card.model_dump(mode="json"))
    return folder
