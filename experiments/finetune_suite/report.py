"""The suite's results: as a page, as JSON by the main, as lines for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
_COLUMNS = (
    *("row", "metric", "tuned", "95 %", "trivial", "classical", "zero-shot"),
    *("wanted", "", "tokens/s", "seconds"),
)
_SPEED = {  # of training, where a row has it
    "steps": "{:,.0f} steps",
    "epochs": "{:.2f} epochs",
    "filled": "{:.0%} of a batch is no padding",
}


def write(results: Sequence[Result], folder: Path) -> None:
    """Writes `suite.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "suite.md.part"
    part.write_text(page(results), "utf-8")
    part.replace(folder / "suite.md")


def nothing(result: Result) -> str:
    """The main prints its own words."""
    return ""


def summary(results: Sequence[Result]) -> str:
    """The table for a terminal, and what is to be known of its rows."""
    return f"{table(results)}\n\n{details(results)}"


def page(results: Sequence[Result]) -> str:
    """The table and its rows' details as Markdown."""
    quick = any(r["size"] == "quick" for r in results)
    toy = "\n\nToy sizes: the numbers show the path alone." if quick else ""
    parts = [
        "# Fine-tuning on real labels",
        f"Test rows were not looked at before the end.{toy}",
        table(results),
        "## Rows",
        details(results),
    ]
    return "\n\n".join(parts) + "\n"


def table(results: Sequence[Result]) -> str:
    """A Markdown table with a line for each row."""
    lines: list[Sequence[str]] = [_COLUMNS, ["---"] * len(_COLUMNS)]
    for result in results:
        if "left_out" in result:
            rest = [""] * (len(_COLUMNS) - 2)
            lines.append([result["name"], "left out", *rest])
        else:
            lines.append(_line(result))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _line(result: Result) -> list[str]:
    found, metric = result["found"], result["metric"]
    compared = (result[k] for k in ("trivial", "classical", "zero_shot"))
    return [
        result["name"],
        metric,
        f"**{_number(found['value'])}**",
        f"{_number(found['low'])}-{_number(found['high'])}",
        *("" if c is None else _number(c["value"]) for c in compared),
        f"{result['wanted']}: {_number(result['bound'])}",
        "met" if result["met"] else "**missed**",
        f"{result['speed'].get('tokens_per_second', 0):,.0f}",
        f"{result['seconds']:,.0f}",
    ]


def _number(value: float) -> str:
    """Three digits that say something: 0.912, 34.1."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def details(results: Iterable[Result]) -> str:
    """A list with what the table has no place for."""
    return "\n".join(f"- **{r['name']}**: {_detail(r)}" for r in results)


def _detail(result: Result) -> str:
    if "left_out" in result:
        return f"{result['what']}; left out: {result['left_out']}."
    speed, sizes = result["speed"], result["sizes"]
    compared = [result[k] for k in ("trivial", "classical", "zero_shot")]
    names = ("trivial", "classical", "zero-shot")
    others = "; ".join(
        f"{name}: {c['name']}" for name, c in zip(names, compared, strict=True) if c
    )
    counts = ", ".join(f"{n:,} {name}" for name, n in sizes.items())
    more = ", ".join(
        f"{name} {_number(v)}"
        for name, v in result["more"].items()
        if isinstance(v, float)
    )
    sentences = [
        f"{result['what']} ({counts})",
        others,
        ", ".join(word.format(speed[k]) for k, word in _SPEED.items() if k in speed),
        more,
        *result["notes"],
    ]
    return ". ".join(filter(None, sentences)) + "."
