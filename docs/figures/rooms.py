"""Draw the rooms of the package, what they import from each other, and the way of the data, as `rooms.svg`.

`python docs/figures/rooms.py` parses every module of `src/narrowly` and writes the picture beside this file. An arrow
is an import between two rooms; one that other arrows imply is left out (transitive reduction). The order of the rooms
is the table in CONTRIBUTING.md. A test draws the picture again and compares it with the file.
"""

from __future__ import annotations

import ast
import re
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
COMMAND = "python docs/figures/rooms.py"

PLACES = {
    "cli": (2, 0, "one file per command"),
    "report": (2, 1, "figures, pages"),
    "workbench": (2, 2, "one organism at a time"),
    "study": (2, 3, "many runs"),
    "analysis": (0, 4, "what the tables say"),
    "train": (3, 4, "one run"),
    "evaluate": (1, 5, "verdict rows"),
    "models": (2, 6, "names to live models"),
    "integrations": (3, 5, "other people's tools"),
    "engines": (4, 6, "where tasks run"),
    "microworld": (1, 7, "the made-up world"),
    "runs": (2, 7, "the run directory"),
    "optim": (3, 7, "optimisers"),
    "directions": (4, 7, "personas in activations"),
    "stats": (0, 8, "intervals, effects, power"),
    "data": (1, 8, "sources, rows, masks"),
    "spectrum": (3, 8, "penalty, edits"),
    "audit": (4, 8, "other people's pipelines"),
    "records": (2, 9, "specs, rows, errors, ids, files"),
}
"""Column, row and caption of each room. Arrows are computed; only the places are chosen by hand."""

WAY = (
    ("StudySpec", "study"), ("RunSpec", "train"), ("run directory", "evaluate"), ("verdict rows", "analysis"),
    ("summary", "report"), ("report.html", ""),
)  # fmt: skip
"""The way of the data: each thing, and the room that makes the next one from it."""

COLUMN, ROW, TOP, MARGIN = 188, 68, 122, 96  # pixels between centres, above the first row, left of the first column
WIDTH, BOX_W, BOX_H = 2 * MARGIN + 4 * COLUMN, 160, 42

STYLE = """
.ground { fill: #ffffff }
text { fill: #1f2328; font-family: system-ui, sans-serif; font-size: 14px; text-anchor: middle }
.box { fill: #f6f8fa; stroke: #6e7781 } .way { fill: #ddf4ff; stroke: #0969da; stroke-width: 1.6 }
.name { font-weight: 600; font-size: 13.5px } .small { font-size: 11.5px; fill: #57606a } .left { text-anchor: start }
.import { fill: none; stroke: #6e7781; stroke-width: 1.2 } .flow { fill: none; stroke: #0969da; stroke-width: 1.6 }
.import-head { fill: #6e7781 } .flow-head { fill: #0969da }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } text { fill: #e6edf3 }
.box { fill: #161b22; stroke: #8b949e } .way { fill: #0c2d6b; stroke: #4493f8 }
.small { fill: #9da7b1 } .import { stroke: #8b949e } .flow { stroke: #4493f8 }
.import-head { fill: #8b949e } .flow-head { fill: #4493f8 }
}"""


def order_of_rooms(contributing: str) -> list[str]:
    """Read the rooms, from the top, from the first column of the table in CONTRIBUTING.md."""
    return re.findall(r"^\| `(\w+)` \|", contributing, flags=re.MULTILINE)


def imports_between(package: Path) -> dict[str, set[str]]:
    """Parse every module and return the rooms that each room imports, itself left out."""
    rooms = {folder.name for folder in package.iterdir() if (folder / "__init__.py").is_file()}
    found: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts[1] not in rooms:
            continue  # the package itself
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = parts[: -node.level] if node.level else ()
                source = ".".join((*base, *filter(None, [node.module])))
                names = [f"{source}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                head, _, rest = name.partition(".")
                room = rest.partition(".")[0]
                if head == package.name and room in rooms - {parts[1]}:
                    found[parts[1]].add(room)
    return found


def reduced(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the transitive reduction: leave out imports of rooms that another imported room reaches.

    Raises:
        ValueError: the rooms import each other in a circle.
    """
    below: dict[str, set[str]] = {}

    def reach(room: str, above: tuple[str, ...] = ()) -> set[str]:
        if room in above:
            raise ValueError(f"the rooms import each other in a circle: {' -> '.join((*above, room))}")
        if room not in below:
            below[room] = imports[room].union(*(reach(other, (*above, room)) for other in sorted(imports[room])))
        return below[room]

    for room in imports:
        reach(room)
    return {
        room: {other for other in others if not any(other in reach(third) for third in others - {other})}
        for room, others in imports.items()
    }


def x_of(column: float) -> float:
    """Return the centre of a column in pixels."""
    return MARGIN + column * COLUMN


def y_of(row: float) -> float:
    """Return the centre of a row in pixels."""
    return TOP + BOX_H / 2 + row * ROW


def passage(start: tuple[float, int], end: tuple[float, int]) -> list[tuple[float, int]]:
    """Return (column, row) in every row between two rooms, nearest to the straight line, where no box stands."""
    points = []
    for row in range(start[1] + 1, end[1]):
        straight = start[0] + (end[0] - start[0]) * (row - start[1]) / (end[1] - start[1])
        taken = {column for column, other, _ in PLACES.values() if other == row}
        free = [half / 2 for half in range(9) if half / 2 not in taken]
        points.append((min(free, key=lambda column, wanted=straight: (abs(column - wanted), column)), row))
    return points


def ports(arrows: list[tuple[str, str]], end: int) -> dict[tuple[str, str], float]:
    """Spread the arrows at one end of each room over its edge, ordered by where their other ends stand."""
    places: dict[tuple[str, str], float] = {}
    for room in PLACES:
        here = sorted((arrow for arrow in arrows if arrow[end] == room), key=lambda arrow: PLACES[arrow[1 - end]])
        for position, arrow in enumerate(here):
            places[arrow] = x_of(PLACES[room][0]) + (position - (len(here) - 1) / 2) * 26
    return places


def import_arrow(arrow: tuple[str, str], x_start: float, x_end: float) -> str:
    """Draw one import as a curve that leaves and enters boxes vertically and passes rows between boxes."""
    source, target = PLACES[arrow[0]][:2], PLACES[arrow[1]][:2]
    reached = (source[0], target[1]) if arrow[1] == "records" else target  # the bar at the bottom is met from anywhere
    if arrow[1] == "records":
        x_end = x_start
    elif source[0] == target[0]:
        x_start = x_end  # one below the other: straight
    stops = [(x_start, y_of(source[1]) + BOX_H / 2)]
    for column, row in passage(source, reached):
        x = x_start if column == source[0] == reached[0] else x_of(column)
        stops += [(x, y_of(row) - BOX_H / 2), (x, y_of(row) + BOX_H / 2)]
    stops.append((x_end, y_of(target[1]) - BOX_H / 2 - 6))
    path = f"M{stops[0][0]:g} {stops[0][1]:g}"
    for (x0, y0), (x1, y1) in pairwise(stops):
        middle = (y0 + y1) / 2
        path += f" V{y1:g}" if x0 == x1 else f" C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
    return f'<path class="import" marker-end="url(#import)" d="{path}"/>'


def box(x: float, y: float, width: float, kind: str, lines: list[tuple[str, str]]) -> list[str]:
    """Draw a box around a centre with up to two lines of text, each with its class."""
    drawn = [
        f'<rect class="{kind}" x="{x - width / 2:g}" y="{y - BOX_H / 2:g}" width="{width:g}" height="{BOX_H}" rx="6"/>'
    ]
    for (text, look), shift in zip(lines, (-3, 13) if len(lines) > 1 else (5,), strict=True):
        drawn.append(f'<text class="{look}" x="{x:g}" y="{y + shift:g}">{escape(text)}</text>')
    return drawn


def way_of_the_data() -> list[str]:
    """Draw the strip at the top: what is on disk or in memory, and over each arrow the room that does the step."""
    drawn, width, y = [], 106, 62
    step = (WIDTH - 32 - width) / (len(WAY) - 1)
    for number, (thing, room) in enumerate(WAY):
        x = 16 + width / 2 + number * step
        drawn += box(x, y, width, "way", [(thing, "name")])
        if room:
            start, end = x + width / 2, x + step - width / 2 - 7
            drawn.append(f'<path class="flow" marker-end="url(#flow)" d="M{start:g} {y} H{end:g}"/>')
            drawn.append(f'<text class="small" x="{x + step / 2:g}" y="{y - 8}">{room}</text>')
    return drawn


def picture(imports: dict[str, set[str]], rooms: list[str]) -> str:
    """Draw the way of the data, the rooms and the arrows between them as SVG.

    Args:
        imports: the rooms that each room imports.
        rooms: every room, from the top.

    Raises:
        ValueError: a room has no place, or an arrow would point upwards in the picture.
    """
    homeless = sorted(imports.keys() - PLACES.keys() | imports.keys() - set(rooms))
    if homeless:
        raise ValueError(
            f"no place for {', '.join(homeless)}: add it to PLACES in {Path(__file__).name} and to CONTRIBUTING.md"
        )
    arrows = [(room, other) for room, others in reduced(imports).items() for other in sorted(others)]
    for source, target in arrows:
        if PLACES[source][1] >= PLACES[target][1]:
            raise ValueError(f"{source} imports {target}, which is drawn above it or beside it: move one in PLACES")
    leave, enter = ports(arrows, 0), ports(arrows, 1)
    height = y_of(max(row for _, row, _ in PLACES.values())) + BOX_H / 2 + 18
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}"'
        f' viewBox="0 0 {WIDTH} {height:g}" role="img">',
        "<title>The rooms of Narrowly and the way of the data</title>",
        f"<style>{STYLE}\n</style>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
            f' markerUnits="userSpaceOnUse"><path class="{name}-head" d="M0 0L8 4L0 8z"/></marker>'
            for name in ("import", "flow")
        ),
        f'<rect class="ground" width="{WIDTH}" height="{height:g}"/>',
        '<text class="small left" x="16" y="24">The way of the data: each arrow is the work of one room.</text>',
        *way_of_the_data(),
        *(
            f'<text class="small left" x="16" y="{y_of(0) + shift:g}">{line}</text>'
            for line, shift in (
                ("The rooms: an arrow points to what is imported.", -3),
                ("Left out: imports that other arrows imply.", 13),
            )
        ),
        *(import_arrow(arrow, leave[arrow], enter[arrow]) for arrow in arrows),
    ]
    on_the_way = {room for _, room in WAY}
    for room in (room for room in rooms if room in imports):
        column, row, caption = PLACES[room]
        width = WIDTH - 32 if room == "records" else BOX_W
        kind = "way" if room in on_the_way else "box"
        drawn += box(x_of(column), y_of(row), width, kind, [(room, "name"), (caption, "small")])
    return "\n".join([*drawn, "</svg>", ""])


def drawn_now() -> str:
    """Draw the picture of the sources as they are."""
    rooms = order_of_rooms((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return picture(imports_between(ROOT / "src" / "narrowly"), rooms)


if __name__ == "__main__":
    PICTURE.write_text(drawn_now(), encoding="utf-8")
    print(PICTURE)
