"""Draws docs/house.svg, the rooms of the package and their imports, from the sources.

    python -m docs.house

An arrow that follows from others is left out: `plan` imports `config`, and so does
what `plan` imports.
"""

from html import escape
from pathlib import Path

from tests.test_imports import FLOORS, import_graph, packages_of, read_sources, room

Edges = set[tuple[str, str]]

FILE = Path(__file__).parent / "house.svg"
# Room -> the middle of its box from the left, and what happens there.
PLACES = {
    "experiments": (425, "one main for each command"),
    "configs": (885, "one file for each run"),
    "serve": (705, "HTTP, the page, metrics"),
    "plan": (150, "compile for a TPU without one"),
    "infer": (425, "generate, predict"),
    "regimes": (425, "rewards for what is written"),
    "train": (150, "the step, the loop, checkpoints"),
    "tasks": (150, "objectives, labels, metrics"),
    "hub": (705, "Hugging Face's formats, in and out"),
    "peft": (425, "small weights beside a model's"),
    "data": (705, "texts, tokenizers, batches"),
    "models": (425, "the one Transformer"),
    "parallel": (425, "the mesh, and what lies where"),
    "config": (565, "typed settings of a run"),
}
WIDTH, BOX, HEIGHT, STEP, TOP = 1020, (250, 54), 54, 84, 20
COLOURS = [
    "#e8eef9",
    "#e0f2f1",
    "#e3f3ec",
    "#fdf1dd",
    "#fbe6e3",
    "#efe7f7",
    "#f3efe0",
    "#eceff1",
]


def imports_between_rooms() -> Edges:
    """(room, room that it imports), for every pair there is."""
    sources = read_sources()
    graph = import_graph(sources, packages_of(sources))
    edges = {(room(a), room(b)) for a, imports in graph.items() for b in imports}
    return {(a, b) for a, b in edges if a and b and a != b}


def reduced(edges: Edges) -> Edges:
    """The edges that do not follow from others."""
    return {
        (a, b)
        for a, b in edges
        if not any(_reaches(c, b, edges) for c in _below(a, edges) if c != b)
    }


def _below(name: str, edges: Edges) -> set[str]:
    return {b for a, b in edges if a == name}


def _reaches(start: str, end: str, edges: Edges) -> bool:
    below = _below(start, edges)
    return end in below or any(_reaches(b, end, edges) for b in below)


def rows(edges: Edges) -> dict[str, int]:
    """Room -> its row: above all that it imports, and no lower than its floor."""
    found: dict[str, int] = {}

    def row(name: str) -> int:
        if name not in found:
            below = [row(b) + 1 for b in _below(name, edges)]
            found[name] = max([FLOORS[name], *below])
        return found[name]

    for name in {a for edge in edges for a in edge}:
        row(name)
    return found


def picture() -> str:
    """The house as SVG."""
    edges = reduced(imports_between_rooms())
    level = rows(edges)
    highest = max(level.values())
    height = TOP * 2 + STEP * highest + HEIGHT
    middle = {name: PLACES[name][0] for name in level}
    top = {name: TOP + STEP * (highest - row) for name, row in level.items()}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        "<title>The rooms of llmjax; an arrow means: imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#78909c"/>'
        "</marker></defs>",
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>',
    ]
    for a, b in sorted(edges):
        lines.append(arrow(middle[a], top[a] + HEIGHT, middle[b], top[b]))
    for name in sorted(level, key=lambda name: (-level[name], middle[name])):
        lines += box(name, middle[name], top[name], COLOURS[level[name] % len(COLOURS)])
    return "\n".join([*lines, "</svg>"]) + "\n"


def arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    """A line down from the bottom of one box, and a curve to the top of another."""
    turn, bend = to_y - (STEP - HEIGHT), (STEP - HEIGHT) // 2
    down = "" if turn == y else f" L{x},{turn}"
    curve = f"C{x},{turn + bend} {to_x},{to_y - bend} {to_x},{to_y - 2}"
    path = f"M{x},{y}{down} {curve}"
    return (
        f'<path d="{path}" fill="none" stroke="#78909c" stroke-width="1.5" '
        'marker-end="url(#tip)"/>'
    )


def box(name: str, x: int, y: int, colour: str) -> list[str]:
    """A room: its name, and what happens there."""
    left, label = (
        x - BOX[0] // 2,
        "" if name in ("experiments", "configs") else "llmjax/",
    )
    return [
        f'<rect x="{left}" y="{y}" width="{BOX[0]}" height="{HEIGHT}" rx="8" '
        f'fill="{colour}" stroke="#90a4ae"/>',
        f'<text x="{x}" y="{y + 23}" text-anchor="middle" font-size="16" '
        f'font-weight="bold" fill="#263238">{label}{name}</text>',
        f'<text x="{x}" y="{y + 42}" text-anchor="middle" font-size="13" '
        f'fill="#455a64">{escape(PLACES[name][1])}</text>',
    ]


if __name__ == "__main__":
    FILE.write_text(picture())
