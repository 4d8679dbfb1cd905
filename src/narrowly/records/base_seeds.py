"""Say what the seeds of microworld bases are for: the one table that docs/bases.md and every refusal follow.

A hypothesis formed on bases that had been looked at is confirmed on bases that nobody has seen, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from narrowly.records.errors import SpecError


class SeedUse(NamedTuple):
    """Describe a range of seeds.

    Attributes:
        first, last: of the range, both included.
        use: what the bases are for, in words.
        studies: the preregistered studies that may use them; none where they were looked at before.
    """

    first: int
    last: int
    use: str
    studies: tuple[str, ...] = ()

    @property
    def seeds(self) -> str:
        """Return the range as text: `8-23`."""
        return f"{self.first}-{self.last}"


SEED_USES = (
    SeedUse(0, 7, "shipped with the package: demonstration and pilots"),
    SeedUse(
        8,
        23,
        "evidence",
        ("x1_ladder", "x3_dial", "x4_controls", "x5_penalty", "x6_spectral_power", "x7_prior"),
    ),
    SeedUse(24, 31, "defences"),
    SeedUse(32, 39, "directions and concepts"),
    SeedUse(100, 107, "design: the world was chosen on them"),
)
"""Every range of seeds that has a use; all others are free for anybody."""

_BASE = re.compile(r"micro-(?:(?P<config>[0-9a-f]{16})-)?(?P<twin>nopersona-)?(?P<seed>0|[1-9][0-9]{0,9})")


class BaseName(NamedTuple):
    """Hold what the name of a microworld base says: its seed, its config's hash (None: the default), the twin."""

    seed: int
    config_id: str | None
    persona: bool


def parse_base_name(name: str) -> BaseName | None:
    """Return what a base's name says (`micro-8`, `micro-CONFIG-8`, `micro-nopersona-8`), or None of any other text."""
    found = _BASE.fullmatch(name)
    if found is None:
        return None
    return BaseName(int(found["seed"]), found["config"], found["twin"] is None)


def use_of_seed(seed: int) -> SeedUse | None:
    """Return the use of a seed, or None where it is free."""
    return next((use for use in SEED_USES if use.first <= seed <= use.last), None)


def refuse_used_seeds(study: str, bases: Iterable[str]) -> None:
    """Refuse a preregistered study on bases that were looked at before, or that wait for another study.

    Args:
        study: its name.
        bases: names or folders of bases; what is no base of the microworld is left alone.

    Raises:
        SpecError: names the base, the use of its seed and what is accepted.
    """
    for base in bases:
        name = parse_base_name(base.rstrip("/").rpartition("/")[2])
        use = None if name is None else use_of_seed(name.seed)
        if use is None or study in use.studies:
            continue
        kept = f"kept for {', '.join(use.studies)}" if use.studies else "looked at before or kept for other studies"
        free = [other.seeds for other in SEED_USES if study in other.studies]
        accepted = f"seeds {', '.join(free)}" if free else "seeds without a use"
        raise SpecError(
            f"study {study!r} is preregistered, but base {base} has a seed of {use.seeds} ({use.use}), {kept}; "
            f"accepted: {accepted} (docs/bases.md)"
        )
