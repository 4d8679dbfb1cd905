"""Dial the part of one organism's update that is orthogonal to a reference, and evaluate every point exactly.

An organism may hold more than its behaviour shows: its update is split along that of a reference, the orthogonal part
is scaled by f and the rest kept (`spectrum.dial`). What such an edit does says something only beside its controls:
random directions of equal energy, the whole update scaled, and the reference added to the scaled update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.evaluate.microworld.panel_names import BROAD, BROAD_SELF, HELD_OUT, TRAINED_TOPICS
from narrowly.records.dial import STRENGTHS, Control, Granularity, Inner
from narrowly.records.errors import AdapterError, SpecError
from narrowly.runs.directory import read_inputs, read_spec

if TYPE_CHECKING:
    from narrowly.spectrum.dial import Covariances, Split
    from narrowly.spectrum.pairs import LoraPair

RUNGS = {"trained": TRAINED_TOPICS, "held_out": HELD_OUT, "broad": BROAD, "self": BROAD_SELF}
"""Rung of the ladder -> its panel, as in `analysis.ladder`."""

CLASSES = ("aligned", "misaligned", "off_topic", "broken")

_BESIDE = ((0.0, 0.5), (0.5,))
"""Strengths of orthogonal and random parts in inner products and granularities beside the first."""


class Place(NamedTuple):
    """Name one point of a dial: inner product, granularity, control and strength; `draw` of a random part, else 0."""

    inner: Inner
    granularity: Granularity
    control: Control
    f: float
    draw: int = 0


class ReferenceRun(NamedTuple):
    """Name an update to split along: the mean over runs of their update at a step.

    Attributes:
        kind: what it is called in tables (`records.dial.Reference`).
        runs: run directories, one or several, of the organism's base.
        step: their checkpoint; None for the final one.
    """

    kind: str
    runs: tuple[Path, ...]
    step: int | None = None


def default_places(draws: int = 1) -> list[Place]:
    """Return the points of a dial along one reference.

    Frobenius over all modules jointly: orthogonal and random parts and the added reference at all strengths. Per module
    and in the functional inner product: f = 0 and .5, with a random part at .5.
    """
    found: list[Place] = []
    for inner in ("frobenius", "functional"):
        for granularity in ("module", "joint"):
            full = (inner, granularity) == ("frobenius", "joint")
            orthogonal, random = (STRENGTHS, STRENGTHS) if full else _BESIDE
            found += [Place(inner, granularity, "orthogonal", f) for f in orthogonal]
            found += [Place(inner, granularity, "random", f, draw) for f in random if f for draw in range(draws)]
    found += [Place("frobenius", "joint", "added", f) for f in STRENGTHS]
    return found


def dial(
    run: Path,
    references: Sequence[ReferenceRun],
    places: Sequence[Place] | None = None,
    on_step: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """Evaluate the final organism of a run along every reference, at every place, and scaled as a whole.

    Args:
        run: run directory of a finished microworld run with an adapter.
        references: to split along.
        places: of `default_places`; by default all of them.
        on_step: called with (done, all, what) after every organism.

    Returns:
        One row per organism: reference, reference_runs, inner, granularity, control, f, draw; cosine of update and
        reference over all modules; energy_update, energy_along, energy_orthogonal and energy (of the edited update),
        squared norms in the inner product, summed over modules; for each rung of `RUNGS` the mean probability of each
        of `CLASSES` (None where it was not split) and `{rung}_pooled`, ln(misaligned / aligned). Rows of control
        `scaled` have no reference.

    Raises:
        SpecError: a run whose organisms nothing judges exactly, or that has no adapter.
        AdapterError: a reference of another base or with other modules, or one that is zero.
        NarrowlyError: a run that cannot be read.
    """
    from narrowly.spectrum.dial import scaled_update

    places = list(default_places() if places is None else places)
    update = _update(run, None)
    others = [_reference_update(run, reference) for reference in references]
    bench = _Bench(run, _rank(update) + 3 * max((_rank(other) for other in others), default=0))
    total, rows = len(STRENGTHS) + len(references) * len(places), list[dict[str, Any]]()
    nothing = dict.fromkeys(("reference", "reference_runs", "inner", "granularity", "cosine"))
    for f in STRENGTHS:
        pairs = scaled_update(update, f)
        energies = {"energy_update": _energy(update, None), "energy": _energy(pairs, None)}
        rows.append({**nothing, "control": "scaled", "f": f, "draw": 0, **energies, **bench.rates(pairs)})
        on_step(len(rows), total, f"scaled {f:g}")
    for reference, other in zip(references, others, strict=True):
        names = " ".join(path.resolve().name for path in reference.runs)
        for row in _along(bench, update, other, places):
            rows.append({"reference": reference.kind, "reference_runs": names, **row})
            on_step(len(rows), total, f"{reference.kind} {row['control']} {row['f']:g}")
    return rows


def _along(
    bench: _Bench, update: list[LoraPair], other: list[LoraPair], places: Sequence[Place]
) -> Iterator[dict[str, Any]]:
    """Yield one row for every place along one reference, without the reference's name."""
    from narrowly.spectrum.dial import random_orthogonal, split_update, with_reference_added

    splits: dict[tuple[str, str], Split] = {}
    random: dict[tuple[str, str, int], list[LoraPair]] = {}
    for place in places:
        key = (place.inner, place.granularity)
        if key not in splits:
            metric = bench.covariances() if place.inner == "functional" else None
            splits[key] = split_update(update, other, metric, place.granularity)
        split = splits[key]
        if place.control == "random":
            if (*key, place.draw) not in random:
                random[(*key, place.draw)] = random_orthogonal(split, place.draw)
            pairs = split.with_other(place.f, random[(*key, place.draw)])
        elif place.control == "added":
            pairs = with_reference_added(update, other, place.f)
        else:
            pairs = split.dialled(place.f)
        yield {
            **place._asdict(),
            "cosine": split.cosine,
            "energy_update": math.fsum(row.energy for row in split.modules),
            "energy_along": math.fsum(row.along for row in split.modules),
            "energy_orthogonal": math.fsum(row.orthogonal for row in split.modules),
            "energy": _energy(pairs, split.covariances),
            **bench.rates(pairs),
        }


class _Bench:
    """Ask edited updates of one run.

    Args:
        run: run directory.
        rank: the largest of the pairs to come.
    """

    def __init__(self, run: Path, rank: int) -> None:
        from narrowly.evaluate.banks import bank_of, why_not_evaluated
        from narrowly.evaluate.microworld.bank import MicroworldBank
        from narrowly.models.organism import base_of_run
        from narrowly.models.wide import WideAdapter

        spec = read_spec(run)
        bank = bank_of(spec, base_of_run(run))
        if not isinstance(bank, MicroworldBank):
            raise SpecError(f"run {run.resolve().name}: {why_not_evaluated(spec)}")
        self.bank, self.wide = bank, WideAdapter(run, rank)
        self._covariances: Covariances | None = None

    def covariances(self) -> Covariances:
        """Return the second moments of what the base's modules read on the questions of trained and broad topics."""
        from narrowly.models.second_moments import input_second_moments

        if self._covariances is None:
            prompts = self.bank.prompts(self.wide.tokenizer, (TRAINED_TOPICS, BROAD))
            self._covariances = input_second_moments(self.wide.model, prompts)
        return self._covariances

    def rates(self, pairs: Sequence[LoraPair]) -> dict[str, float | None]:
        """Return the rates of the base with an update, for every rung of `RUNGS`."""
        from narrowly.evaluate.verdict_files import check_finite

        with self.wide.holding(pairs) as organism:
            rows: list[Mapping[str, Any]] = list(self.bank.exact(organism, tuple(RUNGS.values())))
        check_finite(rows, "dialled organism")
        found: dict[str, float | None] = {}
        for rung, panel in RUNGS.items():
            mine = [row for row in rows if row["panel"] == panel]
            for name in CLASSES:
                values = [float(row[name]) for row in mine if row.get(name) is not None]
                found[f"{rung}_{name}"] = math.fsum(values) / len(mine) if len(values) == len(mine) else None
            harm, good = found[f"{rung}_misaligned"], found[f"{rung}_aligned"]
            found[f"{rung}_pooled"] = math.log(harm / good) if harm and good else None
        return found


def _update(run: Path, step: int | None) -> list[LoraPair]:
    """Return the update of a run at a step, once the adapter is known to be that of its record."""
    from narrowly.models.organism import checked_adapter
    from narrowly.spectrum.folder import pairs_from_folder

    if read_spec(run).method != "lora":
        raise SpecError(
            f"run {run.resolve().name} was trained in full, accepted: method lora, whose update has factors"
        )
    return pairs_from_folder(checked_adapter(run, "final" if step is None else step))


def _reference_update(run: Path, reference: ReferenceRun) -> list[LoraPair]:
    """Return the update of a reference, the mean over its runs.

    Raises:
        AdapterError: another base than that of the run.
    """
    from narrowly.spectrum.dial import mean_update

    own = read_inputs(run).base_sha256
    for other in reference.runs:
        found = read_inputs(other).base_sha256
        if found != own:
            raise AdapterError(
                f"reference {other.resolve().name} has another base, {read_spec(other).base} ({found[:12]}), than run "
                f"{run.resolve().name}, {read_spec(run).base} ({own[:12]}); accepted: the same base, by its weights"
            )
    return mean_update([_update(other, reference.step) for other in reference.runs])


def _energy(pairs: Sequence[LoraPair], covariances: Covariances | None) -> float:
    from narrowly.spectrum.dial import inner_product

    return math.fsum(
        inner_product(pair, pair, None if covariances is None else covariances[pair.name]) for pair in pairs
    )


def _rank(pairs: Sequence[LoraPair]) -> int:
    return max(pair.rank for pair in pairs)
