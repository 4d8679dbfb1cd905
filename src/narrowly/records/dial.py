"""Name what an orthogonal dial may be: inner products, granularities, controls and references."""

from __future__ import annotations

from typing import Literal, get_args

Granularity = Literal["module", "joint"]
Inner = Literal["frobenius", "functional"]
Control = Literal["orthogonal", "random", "scaled", "added"]
"""orthogonal: f times the orthogonal part and the rest as it is; random: a random one of equal energy in its place;
scaled: the whole update times f; added: the update times f and the whole reference."""

Reference = Literal["same_init", "other_init", "other_seed", "foreign", "mean_of_several", "early"]
"""same_init: another optimiser on the same rows, order and LoRA init; other_init, other_seed: only the init, or only
rows and order, are others; foreign: both are; mean_of_several: of foreign ones; early: a checkpoint of the same run."""

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
INNERS: tuple[Inner, ...] = get_args(Inner)
CONTROLS: tuple[Control, ...] = get_args(Control)
REFERENCES: tuple[Reference, ...] = get_args(Reference)

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
"""f of the full dial; beyond 1 the orthogonal part is amplified."""

DIAL_VERSION = 1
"""Part of the id of every dialled organism; raised when its numbers or its points change."""
