"""Check what `rosetta.py` saw against the table of facts, and write it as docs/muon-elsewhere.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narrowly.records.optimisers.elsewhere import ELSEWHERE, Elsewhere, here, settings

RANK, WIDTH, LR = 16, 2048, 1e-3

SAID = {
    "ValueError in the constructor": "ValueError in the constructor",
    "ValueError in step": "ValueError in step",
    "AssertionError in step": "AssertionError in step",
    "AssertionError in the constructor": "AssertionError in the constructor",
    "each matrix by itself": "each matrix of the stack by itself",
    "flattened": "flattened to one matrix",
    "not changed": "left out of the optimiser",
    "1.000 lr times the sign of each element": ("AdamW", "as A"),
    "1.474 lr times the sign of each element": "Adam with Nesterov",
    "1.10 lr times the gradient": "plain gradient step",
    "the gradient's direction": "normalised gradient",
}
"""What a run shows -> how a fact that speaks of it begins or what it holds."""

INTRODUCTION = """# Muon and Lion in other packages

*Written by `make rosetta` (experiments/rosetta.py); edit `narrowly.records.optimisers.elsewhere` and run it again.*

"Muon, lr = 1e-3" is another step in every package. `narrowly optimisers muon --in PACKAGE` prints a row of this page;
`--lr`, `--rank` and `--width` put your numbers in. Ours is `muon` at its defaults: scale rule original, Newton-Schulz
with Jordan's coefficients, momentum .95, Nesterov, no decay. "ran": the script ran the package and compared steps;
"read": its source says so, and the script did not run it. A is rank x in, B is out x rank.
"""

MEASURED = (
    f"\nMeasured on a CPU in float32 with gradients whose singular values spread 100 to 1, A {RANK} x {WIDTH}, "
    f"B {WIDTH} x {RANK}. A and B: Frobenius norm of the first step over lr, at the package's defaults without decay; "
    "B / A: their ratio. Apart: relative distance from our step with the settings above, the larger of A and B. "
    "Packages run Newton-Schulz in bfloat16, ours does not: that rounding is most of it. Vector, stack and the last A: "
    "the first step at the package's defaults. p.grad: after the first step.\n\n"
)


def rows_of(seen: Mapping[str, Any], optimiser: str) -> dict[str, dict[str, Any]]:
    """Return the measured rows of one optimiser by package."""
    return {row["package"]: row for row in seen["rows"] if row["optimiser"] == optimiser}


def faults(seen: Mapping[str, Any]) -> list[str]:
    """Return every fact that the run contradicts, or that says "ran" and was not run."""
    found = []
    for optimiser, table in ELSEWHERE.items():
        measured = rows_of(seen, optimiser)
        for there in table:
            row = measured.get(there.package)
            if row is not None:
                found += [f"{optimiser} in {there.package}: {fault}" for fault in row_faults(there, row)]
            elif there.established == "ran" and not there.same.startswith("has no"):
                found.append(f"{optimiser} in {there.package}: marked as run, not run here")
    return found


def row_faults(there: Elsewhere, row: Mapping[str, Any]) -> list[str]:
    """Return what of one row the run contradicts."""
    found = []
    for factor in ("A", "B"):
        for limit, steps in zip(there.apart, ("step 1", "steps 2, 3"), strict=True):
            apart = row[f"{steps} {factor}"]
            if not apart <= limit:
                found.append(f"{steps} of {factor} is {apart:.3f} away from ours, at most {limit}")
        if not row.get(f"here {factor}", 0.0) <= there.apart[0]:
            found.append(f"{factor} with {here(there)} here is {row[f'here {factor}']:.3f} away from its step")
        if abs(row[f"length {factor}"] / there.norm - 1) > 0.03:
            found.append(f"length of {factor} is {row[f'length {factor}']:.3f} of ours, said {there.norm}")
    for what, said in (("vectors", there.vectors), ("stacks", there.stacks)):
        known = next((words for shown, words in SAID.items() if row[what].startswith(shown)), None)
        words = (known,) if isinstance(known, str) else known or ()
        if not any(word in said for word in words):
            found.append(f"{what}: saw {row[what]!r}, said {said!r}")
    return found


def cell(text: str) -> str:
    """Return text that cannot end a cell of a table."""
    return text.replace("|", "\\|")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines) + "\n"


def facts(optimiser: str) -> str:
    """Return what the table of facts says of one optimiser."""
    settings_of = [
        (row.package, f"{row.version}, {row.established}", f"`{settings(row, LR, RANK, WIDTH)}`", row.defaults)
        for row in ELSEWHERE[optimiser]
        if not row.same.startswith("has no")
    ]
    acts = [
        (row.package, row.A, row.B, row.vectors, row.stacks, "; ".join(row.silently) or "nothing seen")
        for row in ELSEWHERE[optimiser]
        if not row.same.startswith("has no")
    ]
    scaled = [f"{row.package} (`{here(row)}`)" for row in ELSEWHERE[optimiser] if here(row)]
    absent = [row.package for row in ELSEWHERE[optimiser] if row.same.startswith("has no")]
    by_rule = f"\nOurs takes their steps at their own rate: {', '.join(scaled)}.\n" if scaled else ""
    said = f"\nNo {optimiser.capitalize()} in: {', '.join(absent)}.\n" if absent else ""
    return (
        f"Settings whose first steps are ours at lr {LR:g}, rank {RANK} and width {WIDTH}:\n\n"
        + table(("package", "version", "settings", "where nothing is given"), settings_of)
        + by_rule
        + "\n"
        + table(("package", "A", "B", "vectors", "stacks of matrices", "silently"), acts)
        + said
    )


def numbers(seen: Mapping[str, Any], optimiser: str) -> str:
    """Return what was measured of one optimiser."""

    def number(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = []
    for package, row in rows_of(seen, optimiser).items():
        if not lines:
            lines.append(
                ("ours", *map(number, lengths(row, "ours")), *["0"] * 2, *["refused"] * 2, *["as any A", "kept"])
            )
        apart = [f"{max(row[f'{steps} A'], row[f'{steps} B']):.2g}" for steps in ("step 1", "steps 2, 3")]
        shown = (row["vectors"], row["stacks"], row["wide A"], row["gradient"])
        lines.append((package, *map(number, lengths(row, "norm")), *apart, *shown))
    apart_of = ("apart, step 1", "apart, steps 2-3")
    return table(("package", "A", "B", "B / A", *apart_of, "vector", "stack", "A of 16 x 4096", "p.grad"), lines)


def lengths(row: Mapping[str, Any], whose: str) -> tuple[Any, Any, Any]:
    """Return the length of the step of A, of B, and their ratio."""
    A, B = row[f"{whose} A"], row[f"{whose} B"]
    return A, B, B / A if isinstance(A, float) and isinstance(B, float) else "-"


def page(seen: Mapping[str, Any]) -> str:
    """Return docs/muon-elsewhere.md."""
    versions = ", ".join(f"{name} {version}" for name, version in seen["versions"].items())
    explained = MEASURED
    parts = [INTRODUCTION]
    for optimiser in ELSEWHERE:
        parts += [f"\n## {optimiser.capitalize()}\n\n", facts(optimiser), explained, numbers(seen, optimiser)]
        explained = "\nThe same for Lion:\n\n"
    return "".join(parts) + f"\nVersions of the run: {versions}.\n"
