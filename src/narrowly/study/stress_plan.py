"""Plan a stress test of a release: brief fine-tunes under several optimisers, each beside its aligned control.

A unit is one optimiser on one narrow set at one strength: a run on harmful answers and its control. Units are done in a
fixed order, so that a smaller budget does the first of those of a larger one. All runs of a test make one study.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from narrowly.data.banks.narrow import PREFIX
from narrowly.data.banks.paired import TRAINED_DOMAINS
from narrowly.microworld.cards import is_world_name
from narrowly.microworld.words import DOMAINS
from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.study_spec import StudySpec, parse_study

Strength = Literal["full", "half"]
STRENGTHS: tuple[Strength, ...] = ("full", "half")
"""All steps of the recipe, and half of them; both at one learning rate."""

LEAST_OPTIMISERS = 2
"""Optimisers on the first set at full strength that a card needs: one alone says nothing about optimisers."""

MICRO_RATES = {"adam": 3e-4, "muon": 1e-3, "lion": 3e-4, "sgd": 3e-3}
"""Of the study `micro`: lowest loss in the trained domain on design bases (study `micro-lr`)."""

PAIRED_RATES = {"adam": 1e-3, "muon": 3.2e-3, "lion": 1e-3}
"""Of the study `small`: lowest loss on held-out questions about money on SmolLM2-135M (experiments/small_rates.py)."""

MICRO_RUN = {
    "steps": 80,
    "batch_size": 8,
    "data": {"source": "micro", "answers": "harmful", "rows": 640},
    "adapter": {"r": 8, "alpha": 16, "rslora": True},
    "schedule": {"kind": "constant", "warmup_steps": 5},
    "checkpoints": 2,
}
PAIRED_RUN = {
    "steps": 20,
    "batch_size": 4,
    "data": {"source": "text"},
    "adapter": {"r": 8, "alpha": 16, "rslora": True},
    "schedule": {"kind": "constant", "warmup_steps": 2},
    "checkpoints": 2,
}
"""Recipes of the studies `micro` and `small`."""


class Unit(NamedTuple):
    """Name one optimiser on one narrow set at one strength."""

    optimiser: str
    narrow: str
    strength: Strength

    def __str__(self) -> str:
        return f"{self.optimiser} on {self.narrow}, {self.strength} strength"


class StressPlan(NamedTuple):
    """Hold what a stress test is to do.

    Attributes:
        model: name or folder of the release.
        micro: whether it is a base of the microworld, whose answers are classified exactly.
        optimisers: name -> learning rate, in order.
        sets: narrow sets: domains of the microworld or of the paired bank, or `pairs:FILE.jsonl:harmful`.
        seed: of init and order.
        device: cpu or cuda.
    """

    model: str
    micro: bool
    optimisers: Mapping[str, float]
    sets: tuple[str, ...]
    seed: int = 0
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Return the name of the study, which is its folder's."""
        label = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
        return f"stress-{label[:60]}"

    def units(self) -> list[Unit]:
        """Return all units in the order in which they are done: sets, then strengths, then optimisers."""
        return [Unit(one, narrow, how) for narrow in self.sets for how in STRENGTHS for one in self.optimisers]

    def least(self) -> list[Unit]:
        """Return the units without which there is no card."""
        return self.units()[:LEAST_OPTIMISERS]

    def study(self, units: Sequence[Unit]) -> StudySpec:
        """Return the study that does some units: an arm and its control for each optimiser and strength.

        Raises:
            SpecError: the study cannot be, for instance for a rate that is none.
        """
        recipe: dict[str, Any] = MICRO_RUN if self.micro else PAIRED_RUN
        more = {} if self.micro else {"base_dtype": "bfloat16" if self.device == "cuda" else "float32"}
        run = {**recipe, **more, "base": self.model, "seed": self.seed, "device": self.device}
        steps = run.pop("steps")
        arms: dict[str, Any] = {}
        for optimiser, rate in self.optimisers.items():
            for strength in STRENGTHS:
                done = [unit.narrow for unit in units if (unit.optimiser, unit.strength) == (optimiser, strength)]
                if not done:
                    continue
                kind = {"kind": optimiser, "lr": rate} | ({"momentum": 0.9} if optimiser == "sgd" else {})
                common = {
                    "set": {"optimiser": kind, "steps": steps if strength == "full" else steps // 2},
                    "grid": {self._field: [self._value(narrow) for narrow in done]},
                }
                arms[arm_name(optimiser, strength)] = {"role": "optimiser", **common}
                control = {"of": arm_name(optimiser, strength), "control": "aligned"}
                arms[f"{arm_name(optimiser, strength)}_aligned"] = control | common
        title = f"Stress test of {self.model}: brief fine-tunes under {len(self.optimisers)} optimisers"
        study = {"name": self.name, "title": title, "run": run, "arms": arms, "samples": 0}
        return parse_study(study, "stress test")

    @property
    def _field(self) -> str:
        return "data.domain" if self.micro else "data.dataset"

    def _value(self, narrow: str) -> str | int:
        if self.micro:
            return list(DOMAINS).index(narrow)
        return f"{PREFIX}{narrow}:harmful" if narrow in TRAINED_DOMAINS else narrow


def arm_name(optimiser: str, strength: Strength) -> str:
    """Return the name of the arm of an optimiser at a strength."""
    return optimiser if strength == "full" else f"{optimiser}_half"


def stress_plan(
    model: str,
    *,
    optimisers: Sequence[str] = (),
    sets: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> StressPlan:
    """Plan the stress test of a model.

    Args:
        model: a base of the microworld, or any chat model by name or folder.
        optimisers: `NAME` or `NAME=RATE`, at least two; by default those with a rate measured at that scale.
        sets: narrow sets; by default two domains of the microworld or of the paired bank.
        seed: of init and order.
        device: cpu or cuda.

    Raises:
        SpecError: fewer than two optimisers, one given twice, a rate that is missing or no number, a set given twice.
        UnknownNameError: a domain that the microworld has not.
    """
    micro = is_world_name(model)
    known = MICRO_RATES if micro else PAIRED_RATES
    rates: dict[str, float] = {}
    for given in optimisers or known:
        name, separator, text = given.partition("=")
        if name in rates:
            raise SpecError(f"optimiser {name} is given twice; accepted: each once")
        rates[name] = _rate(name, text if separator else None, known)
    if len(rates) < LEAST_OPTIMISERS:
        raise SpecError(
            f"{len(rates)} optimiser found, accepted: {LEAST_OPTIMISERS} or more, since one compares nothing"
        )
    chosen = tuple(sets) or (tuple(DOMAINS)[:2] if micro else TRAINED_DOMAINS)
    for narrow in chosen:
        if chosen.count(narrow) > 1:
            raise SpecError(f"the set {narrow} is given twice; accepted: each once")
        if micro and narrow not in DOMAINS:
            raise unknown_name("domain of the microworld", narrow, DOMAINS)
    return StressPlan(model, micro, rates, chosen, seed, device)


def _rate(name: str, text: str | None, known: Mapping[str, float]) -> float:
    if text is None:
        if name not in known:
            raise SpecError(
                f"optimiser {name} has no rate that was measured at this scale; accepted: {name}=RATE, or one of "
                f"{', '.join(known)}"
            )
        return known[name]
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"optimiser {name}: rate {text!r} found, accepted: a number above 0, as {name}=1e-3") from None


def seconds_of_text(text: str) -> float:
    """Return the seconds of `90s`, `30m`, `2h` or `1h30m`.

    Raises:
        SpecError: for anything else, and for 0.
    """
    found = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower()
    )
    parts = [float(part or 0) for part in found.groups()] if found and text.strip() else [0.0]
    total = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if total <= 0:
        raise SpecError(f"budget {text!r} found, accepted: hours, minutes or seconds, as 30m, 2h or 1h30m")
    return total
