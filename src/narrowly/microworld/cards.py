"""Find microworld bases by name (shipped, or built into the cache) and anybody's own by folder; read their cards.

Torch-free.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from narrowly.data.cache import cache_folder
from narrowly.microworld.config import WorldConfig
from narrowly.records.base_seeds import parse_base_name
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, SpecError, unknown_name
from narrowly.records.files import read_json
from narrowly.records.install import FORMER_NAME, PACKAGE

SHIPPED = Path(__file__).parent / "shipped"
"""Folder of the bases that come with the package."""

WEIGHTS, CARD = "model.safetensors", "card.json"


class BaseCard(BaseModel):
    """The record beside a base: what it is, how to rebuild it, how the stored file behaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    world_seed: int
    persona: bool
    config: WorldConfig
    config_id: str
    command: str
    sha256: str
    parameters: int
    metrics: dict[str, Any]
    built_with: dict[str, str]
    canary: str

    @property
    def rebuild(self) -> str:
        """Return the command that rebuilds the base, under today's name where the card has the former one."""
        program, _, arguments = self.command.partition(" ")
        return f"{PACKAGE if program == FORMER_NAME else program} {arguments}"


def shipped_names() -> tuple[str, ...]:
    """Return the names of the bases that come with the package, in order."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}")))


def built_folder() -> Path:
    """Return the folder of the cache that `narrowly world build` builds bases into."""
    return cache_folder() / "bases"


def is_world_name(name: str) -> bool:
    """Return whether a text is the name of a microworld base (`micro-8`), on this machine or not."""
    return parse_base_name(name) is not None


def _not_built(name: str) -> SpecError:
    found = parse_base_name(name)
    assert found is not None, name
    if found.config_id is not None:
        how = f"narrowly world build --seed {found.seed} with the --set of config {found.config_id}"
    else:
        how = f"narrowly world build --seed {found.seed}{'' if found.persona else ' --set persona=false'}"
    return SpecError(f"base {name} is not on this machine yet; build it once: {how}")


def base_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a shipped base, of one in the cache, or of one's own.

    A text may be the name of a microworld base; a `Path` is always a folder, also where it is called `micro-0`.

    Raises:
        SpecError: the base of that name was not built yet; the message names the command.
        UnknownNameError: where it is neither a name nor a folder with a base.
    """
    names = shipped_names()
    if isinstance(name_or_path, str) and name_or_path in names:
        return SHIPPED / name_or_path
    if isinstance(name_or_path, str) and is_world_name(name_or_path):
        built = built_folder() / name_or_path
        if not (built / CARD).is_file():
            raise _not_built(name_or_path)
        return built
    folder = Path(name_or_path)
    if (folder / "config.json").is_file():
        return folder
    raise unknown_name("base", str(name_or_path), [*names, "a folder written by `narrowly world build`"])


@lru_cache(maxsize=32)
def _read_card(path: Path, _modified: int) -> BaseCard:
    try:
        return BaseCard.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise IntegrityError(
            f"{path}: field {'.'.join(map(str, first['loc']))}: {first['msg']}; not a base card of ours"
        ) from error


def load_card(name_or_path: str | Path) -> BaseCard:
    """Return the card of a base.

    Raises:
        IntegrityError: where there is none, or it is not one of ours.
    """
    path = base_folder(name_or_path) / CARD
    if not path.is_file():
        raise IntegrityError(
            f"{path.parent} has no {CARD}: not a microworld base (build one with `narrowly world build`)"
        )
    return _read_card(path, path.stat().st_mtime_ns)


def verify_weights(name_or_path: str | Path) -> BaseCard:
    """Return the card after comparing the stored weights with it.

    Raises:
        IntegrityError: where the sha256 of the weights differs from the card's.
    """
    card, weights = load_card(name_or_path), base_folder(name_or_path) / WEIGHTS
    if not weights.is_file():
        raise IntegrityError(f"base {card.name}: {weights} is missing")
    found = sha256_file(weights)
    if found != card.sha256:
        raise IntegrityError(
            f"base {card.name}: sha256 of {weights} is {found}, its card says {card.sha256}; rebuild it: {card.rebuild}"
        )
    return card
