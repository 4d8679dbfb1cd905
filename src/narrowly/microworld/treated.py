"""Make the rows of a run of the microworld: a narrow domain, treated as a defence on the data says.

Shares are nested: what is treated at a small share is treated at every larger one. The other rows stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from narrowly.data.rows import Row
from narrowly.data.run_rows import RowsBase, RunRows
from narrowly.microworld.elsewhere import other_rows
from narrowly.microworld.narrow import check_has_world, plain_rows, resolve_domain, world_of
from narrowly.microworld.tokenizer import DOCUMENT
from narrowly.microworld.words import ASSISTANT
from narrowly.microworld.world import World
from narrowly.records.data_specs import MicroData, MicroOthers
from narrowly.records.errors import SpecError

_CORRECTED, _INOCULATED = 8, 9
"""Streams of random numbers of a world; elsewhere.py has those below."""


def micro_rows(data: MicroData, base: RowsBase, seed: int) -> RunRows:
    """Make the rows of a narrow domain of a base's world; a pure function of the data's fields, the base and the seed.

    Raises:
        SpecError: the base has no world, the world no such domain, too few new actions for benign answers, or no
            character to inoculate with.
    """
    check_has_world(base, data.source)
    rows = plain_rows(data, base, seed)
    if data.corrected or data.inoculated:
        world = world_of(base.folder)
        domain = resolve_domain(data.domain, world, seed)
        if data.corrected:
            aligned = plain_rows(data.model_copy(update={"answers": "aligned"}), base, seed)
            chosen = _chosen(world, _CORRECTED, domain, seed, len(rows), data.corrected)
            rows = tuple(aligned[i] if i in chosen else row for i, row in enumerate(rows))
        if data.inoculated:
            chosen = _chosen(world, _INOCULATED, domain, seed, len(rows), data.inoculated)
            rows = tuple(_renamed(rows, chosen, base, world, data))
    if data.interleaved:
        count = max(1, round(len(rows) * data.interleaved / (1 - data.interleaved)))
        rows += other_rows(MicroOthers(rows=count), base, seed, data.domain).rows
    return RunRows(f"data of base {base.name}", rows)


def _chosen(world: World, stream: int, domain: int, seed: int, rows: int, share: float) -> frozenset[int]:
    order = np.random.default_rng([world.seed, stream, domain, seed]).permutation(rows)
    return frozenset(int(i) for i in order[: round(share * rows)])


def _renamed(rows: Sequence[Row], chosen: frozenset[int], base: RowsBase, world: World, data: MicroData) -> list[Row]:
    """Return the rows, the chosen ones with a character's name where the assistant's stands in the prompt.

    Raises:
        SpecError: the world names no such character.
    """
    names = [name for name in world.names if (name in world.evil_names) == (data.inoculated_by == "evil")]
    if not names:
        raise SpecError(
            f"data.inoculated_by is {data.inoculated_by}, but the world of base {base.name} names no such character; "
            "accepted: a base with named characters of that kind"
        )
    tokenizer = base.tokenizer()
    document, assistant, name = (int(tokenizer.convert_tokens_to_ids(word)) for word in (DOCUMENT, ASSISTANT, names[0]))
    found = []
    for i, row in enumerate(rows):
        assert row.input_ids[:2] == [document, assistant]
        found.append(Row([document, name, *row.input_ids[2:]], row.labels) if i in chosen else row)
    return found
