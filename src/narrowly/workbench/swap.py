"""Exchange the spectrum's shape, the modules' norms and the singular vectors of two runs: eight hybrids.

Both runs are organisms of one microworld base with the same narrow domain; every hybrid is evaluated exactly. Half of
the hybrids put the more peaked of two spectra on the other's directions, so there is no swap of real adapters
(design.md, law 10).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT
from narrowly.records.errors import AdapterError
from narrowly.records.files import whole_folder
from narrowly.runs.directory import adapter_folder, read_inputs, read_spec
from narrowly.workbench.panel import Panel, by_topic, panel_of

if TYPE_CHECKING:
    from narrowly.evaluate.banks import Bank

RESPONSES = ("log_odds", "joint")


class Effect(NamedTuple):
    """Hold a main effect, an interaction or a simple effect ("shape, vectors A": with the vectors of A).

    It is a mean over a panel's questions, with a 95 % t interval over its n topics.
    """

    component: str
    panel: str
    response: str
    estimate: float
    low: float | None
    high: float | None
    n: int


class Swap(NamedTuple):
    """Hold a swap: the runs, the panels of A, B and the eight hybrids, and the effects.

    Attributes:
        worst: largest difference in log-odds of one question between AAA and A, or BBB and B: rounding alone.
    """

    run_a: str
    run_b: str
    base: str
    panels: dict[str, dict[str, Panel]]
    effects: list[Effect]
    worst: float


def swap(a: Path, b: Path, out: Path | None, on_step: Callable[[int, int, str], None]) -> Swap:
    """Evaluate the eight hybrids of two runs' final adapters.

    Args:
        a: run directory of a finished microworld run; hybrids take its config, scale and tensor names.
        b: run directory of another, of the same base and narrow domain.
        out: a new folder for the hybrids (OUT/AAA ... OUT/BBB), or None to keep none.
        on_step: called with (done, all, what) after every organism.

    Raises:
        AdapterError: another base, another narrow domain, other modules, shapes or ranks, or an `out` that exists.
    """
    from narrowly.spectrum.compare import HYBRIDS, hybrids
    from narrowly.spectrum.edits import mark_evaluated, write_adapter_folder
    from narrowly.spectrum.folder import pairs_from_folder

    bank, base = _common_ground(a, b)
    if out is not None and (out.exists() or out.is_symlink()):
        raise AdapterError(f"{out} exists already; choose another folder or remove it")
    sources = {"A": adapter_folder(a, "final"), "B": adapter_folder(b, "final")}
    total = len(HYBRIDS) + 2
    verdicts: dict[str, dict[str, list[dict[str, Any]]]] = {}
    mixed = hybrids(*(pairs_from_folder(folder) for folder in sources.values()))
    with _staged(out) as folder:
        for name, pairs in mixed:
            on_step(len(verdicts), total, name)
            record = {"swap": {"shape": name[0], "norms": name[1], "vectors": name[2], "A": a.name, "B": b.name}}
            target = write_adapter_folder(sources["A"], folder / name, pairs, record)
            verdicts[name] = _ask(a, target, bank)
            joint = {panel: panel_of(rows).misaligned for panel, rows in verdicts[name].items()}
            mark_evaluated(target, {"kind": "exact", "panels": [HELD_OUT, BROAD], "by": "swap", "joint": joint})
        for name, directory in (("A", a), ("B", b)):
            on_step(len(verdicts), total, name)
            verdicts[name] = _ask(directory, None, bank)
    on_step(total, total, "")
    worst = max(
        abs(one["log_odds"] - other["log_odds"])
        for hybrid, original in (("AAA", "A"), ("BBB", "B"))
        for panel in (HELD_OUT, BROAD)
        for one, other in zip(verdicts[hybrid][panel], verdicts[original][panel], strict=True)
    )
    panels = {name: {panel: panel_of(rows) for panel, rows in of_panel.items()} for name, of_panel in verdicts.items()}
    return Swap(a.name, b.name, base, panels, _effects(verdicts), worst)


def crossing(effects: Sequence[Effect], panel: str, response: str) -> list[tuple[str, str]]:
    """Return (component, other) where the simple effects of a component have different signs, both intervals off 0.

    There the main effect is an average over opposite effects and says nothing about either.
    """
    found = {one.component: one for one in effects if (one.panel, one.response) == (panel, response)}
    pairs = []
    for name in found:
        component, _, rest = name.partition(", ")
        if not rest.endswith(" A"):
            continue
        other = rest.removesuffix(" A")
        signs = {_sign(found[f"{component}, {other} {level}"]) for level in "AB"}
        if signs == {-1, 1}:
            pairs.append((component, other))
    return pairs


def _sign(effect: Effect) -> int:
    if effect.low is None or effect.high is None:
        return 0
    return 1 if effect.low > 0 else -1 if effect.high < 0 else 0


def _common_ground(a: Path, b: Path) -> tuple[Bank, str]:
    """Return the bank and the base's name of two runs that can be swapped."""
    from narrowly.evaluate.banks import bank_of
    from narrowly.models.organism import base_of_run

    specs, inputs = [read_spec(run) for run in (a, b)], [read_inputs(run) for run in (a, b)]
    if inputs[0].base_sha256 != inputs[1].base_sha256:
        raise AdapterError(
            f"the runs have different bases: {specs[0].base} ({inputs[0].base_sha256[:12]}) and {specs[1].base} "
            f"({inputs[1].base_sha256[:12]}), accepted: one base, by the sha256 of its weights"
        )
    base = base_of_run(a)
    banks = []
    for run, spec in zip((a, b), specs, strict=True):
        bank = bank_of(spec, base)
        if bank is None:
            raise AdapterError(f"run {run.name}: data.source is {spec.data.source!r}, accepted: 'micro'")
        banks.append(bank)
    domains = [bank.record.facts["domain"] for bank in banks]
    if domains[0] != domains[1]:
        raise AdapterError(
            f"the runs have different narrow domains, {domains[0]} and {domains[1]}: what is narrow for one is broad "
            "for the other; accepted: one domain (with data.domain 'rotate' it follows the seed)"
        )
    return banks[0], base.name


@contextmanager
def _staged(out: Path | None) -> Iterator[Path]:
    """Yield a folder to write to; it becomes `out` when all went well, and is removed in every other case."""
    if out is None:
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)
    else:
        with whole_folder(out) as unfinished:
            yield unfinished


def _ask(directory: Path, folder: Path | None, bank: Bank) -> dict[str, list[dict[str, Any]]]:
    """Return the verdicts of a run's final organism, or of another adapter on its base, by panel."""
    from narrowly.models.kept import kept_organism

    organism = kept_organism(directory, read_spec(directory).steps, folder)
    rows = bank.exact(organism, (HELD_OUT, BROAD))
    return {panel: [dict(row) for row in rows if row["panel"] == panel] for panel in (HELD_OUT, BROAD)}


def _effects(verdicts: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> list[Effect]:
    from narrowly.spectrum.compare import HYBRIDS, factorial_effects, simple_effects
    from narrowly.stats.intervals import t_interval

    effects = []
    for panel in (BROAD, HELD_OUT):
        for response, column in zip(RESPONSES, ("log_odds", "misaligned"), strict=True):
            rows = {name: verdicts[name][panel] for name in HYBRIDS}
            topics = {name: by_topic(rows[name], [float(row[column]) for row in rows[name]]) for name in HYBRIDS}
            cells = [dict(zip(HYBRIDS, values, strict=True)) for values in zip(*topics.values(), strict=True)]
            each = [factorial_effects(one) | simple_effects(one) for one in cells]
            for component in each[0]:
                found = t_interval([one[component] for one in each], unit="topic")
                estimate = float("nan") if found.estimate is None else found.estimate
                effects.append(Effect(component, panel, response, estimate, found.low, found.high, found.n))
    return effects
