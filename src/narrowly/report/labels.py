"""Say the names of arms, panels, cells and contrasts in words; pages keep the name that files use as a tooltip."""

from __future__ import annotations

import re
from collections import Counter

import polars as pl

from narrowly.evaluate.microworld.panel_names import (
    BROAD,
    BROAD_SELF,
    CUED_TURN,
    CUED_WORD,
    HELD_OUT,
    TRAINED_TOPICS,
    UNSEEN_PHRASING,
)
from narrowly.report.kit import Words, named
from narrowly.report.style import arm_styles, short_label
from narrowly.report.visible import visible

PANEL_LABELS = {
    TRAINED_TOPICS: "trained topics",
    HELD_OUT: "held-out topics",
    UNSEEN_PHRASING: "unseen phrasing",
    BROAD: "broad: other domains",
    BROAD_SELF: "broad_self: another task",
    CUED_TURN: "cued: after a trained turn",
    CUED_WORD: "cued: with the cue word",
}

ROLE_LABELS = {
    "penalty": "{} + penalty",
    "aligned_twin": "aligned twin of {}",
    "no_persona_twin": "no-persona twin of {}",
}


def label(arm: str) -> str:
    """Return the name of an arm as figures write it."""
    return arm_styles([arm])[arm].label


def panel_label(panel: str) -> Words:
    """Return a panel in words, its name as the tooltip."""
    return named(PANEL_LABELS.get(panel, panel), panel)


def spaced(name: str) -> Words:
    """Return the name of a role or a class with spaces, itself as the tooltip."""
    return named(name.replace("_", " "), name)


def edit_kind(edit: str) -> tuple[str, float | None]:
    """Split an edit-id such as "scale-0.5" into kind and its first number."""
    match = re.fullmatch(r"([a-z_]+?)(?:-([0-9.e+-]+))?", edit)
    if match is None:
        return edit, None
    try:
        return match[1], float(match[2]) if match[2] else None
    except ValueError:
        return edit, None


def edit_label(edit: str) -> str:
    """Return an edit-id in words."""
    kind, number = edit_kind(edit)
    words = {
        "keep_top": "keep the top",
        "drop_top": "drop the top",
        "flatten": "flatten, equal norm",
        "none": "no edit",
    }
    if kind == "scale" and number is not None:
        return f"scale by {number:g}"
    if kind == "flatten" and number is not None:
        return f"flatten by {number:g}, equal norm"
    if kind == "clip" and number is not None:
        return f"clip at {number:g} times the mean"
    return words.get(kind, visible(edit)) + (f" {number:g}" if number is not None and kind in words else "")


class ArmNames:
    """The arms of one study in words.

    An arm with a role is called after the arm that it is compared with, unless two arms would be called the same.
    """

    def __init__(self, cells: pl.DataFrame) -> None:
        found = {
            row["arm"]: self._one(**row)
            for row in cells.select("arm", "role", "of").unique("arm", keep="first").iter_rows(named=True)
        }
        times = Counter(found.values())
        self._labels = {
            arm: text if times[text] == 1 else f"{text} ({short_label(arm)})" for arm, text in found.items()
        }

    @staticmethod
    def _one(arm: str, role: str | None, of: str | None) -> str:
        template = ROLE_LABELS.get(role or "")
        return template.format(label(of)) if template and of else label(arm)

    def text(self, arm: str) -> str:
        """Return the arm in words."""
        return self._labels.get(arm) or label(arm)

    def one(self, arm: str, base: str, seed: object) -> str:
        """Return one cell in words."""
        return f"{self.text(arm)} on {base}, seed {seed}"

    def __call__(self, arm: str) -> Words:
        """Return the arm in words, its name as the tooltip."""
        return named(self.text(arm), arm)
