"""Numbers and tables of a plan, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmjax.config import wording

GIB = 2**30


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns; columns of numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [
        all(not isinstance(row[i], str) or row[i][:1].isdigit() for row in rows)
        for i in range(len(head))
    ]
    lines = [
        "| "
        + " | ".join(
            c.rjust(w) if r else c.ljust(w)
            for c, w, r in zip(row, widths, right, strict=True)
        )
        + " |"
        for row in cells
    ]
    rule = [
        "-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)
    ]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def gib(count: int | float | None) -> str:
    """Formats bytes as "12.34 GiB", below 0.1 GiB in a unit that suits them."""
    if count is None:
        return "-"
    if count == 0 or count >= GIB / 10:
        return f"{count / GIB:.2f} GiB"
    return wording.size(count)


def duration(seconds: int | float | None) -> str:
    """Formats seconds as "1.234 s", "12.3 ms" or "12.3 µs"."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.3f} s"
    milliseconds = seconds == 0 or seconds >= 1e-3
    return f"{1e3 * seconds:.1f} ms" if milliseconds else f"{1e6 * seconds:.1f} µs"


def topology_name(result: Mapping[str, Any]) -> str:
    """The topology of a plan's result, as "v5e:16x16 x 2 slices"."""
    slices = result["num_slices"]
    return result["topology"] + (f" x {slices} slices" if slices > 1 else "")


def mesh_axes(result: Mapping[str, Any]) -> str:
    """The mesh axes that are larger than 1, as "data=2 fsdp=16"."""
    return " ".join(f"{axis}={n}" for axis, n in result["mesh"].items() if n > 1)


def unit(result: Mapping[str, Any]) -> str:
    """Word for a device of a plan's result: "GPU", or "chip" of TPUs."""
    return "GPU" if result.get("platform") == "cuda" else "chip"
