"""The picture of a plan: a chip's memory and the step's time, by part."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from llmjax.plan.compiler.buffers import KINDS
from llmjax.plan.report import Result
from llmjax.plan.tables import GIB, duration, gib, topology_name, unit

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#56B4E9", "#999999", "#009E73", "#E69F00", "#CC79A7")

SMALL = 0.05  # the share of the memory under which a bar of all of it shows nothing
LEAST = 1e-3  # the share of a bar under which a part is left out
BYTES = {"GiB": GIB, "MiB": 2**20, "KiB": 2**10}
SECONDS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6}


def draw(result: Result, path: epath.PathLike) -> str:
    """Draws a plan's result as a PNG; without matplotlib nothing.

    Returns:
      Why it is not drawn, and the command that installs what lacks; "" if it is.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return "no plan.png: it needs matplotlib: pip install -e '.[report]'"
    timed = "time" in result
    bars = 1 + sum(map(bool, result["time"]["roofline"].values())) if timed else 0
    heights = [0.8, 0.3 * bars + 0.3] if timed else [0.8]
    figure = Figure(figsize=(9, 1.0 + sum(heights)), layout="constrained", dpi=150)
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    name = epath.Path(result.get("config", "A run")).stem
    title = f"{name} on {topology_name(result)}"
    figure.suptitle(title, fontsize=11)
    _memory(axes[0], result["memory"], unit(result))
    if timed:
        _time(axes[1], result["time"], unit(result))
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    return ""


def _memory(axes: Any, memory: Result, unit: str) -> None:
    capacity, used = memory["capacity"], sum(memory[kind] for kind in KINDS)
    small = used < SMALL * capacity
    name, scale = _unit(used if small else capacity, BYTES)
    left = 0.0
    for kind, color in zip(KINDS, COLORS, strict=True):
        width = memory[kind] / scale
        if memory[kind] > LEAST * used:
            label = f"{kind} {width:.3g}"
            axes.barh(0, width, left=left, color=color, label=label)
        left += width
    longest = 1.06 * (used if small else max(used, capacity)) / scale
    text = {"textcoords": "offset points", "ha": "right" if small else "center"}
    axes.annotate(
        f"{used / capacity:.1%} of {gib(capacity)}"
        if small
        else f"capacity {capacity / scale:.1f}",
        (longest if small else capacity / scale, 1),
        xytext=(0, 3),
        xycoords=("data", "axes fraction"),
        size=8,
        **text,
    )
    if not small:
        axes.axvline(capacity / scale, color="black", linewidth=1.5)
    axes.set_xlim(0, longest)
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["memory"])
    axes.set_xlabel(f"{name} per {unit}", size=9)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5), ncols=6, **_LEGEND)
    _style(axes)


def _time(axes: Any, time: Result, unit: str) -> None:
    computed = "matmuls and fusions" if unit == "GPU" else "compiler's estimate"
    parts = (
        (computed, time["compiler_seconds"], COLORS[0]),
        ("attention kernels", time["pallas_seconds"], COLORS[4]),
        ("exposed communication", time["exposed_seconds"], COLORS[5]),
    )
    bounds = {k: v for k, v in time["roofline"].items() if v}
    names = ["predicted step", *(f"{name} alone" for name in bounds)]
    step = sum(seconds for _, seconds, _ in parts)
    longest = max(step, *bounds.values()) if bounds else step
    name, scale = _unit(longest, SECONDS)
    left = 0.0
    for label, seconds, color in parts:
        if seconds > LEAST * step:
            axes.barh(0, seconds / scale, left=left, color=color, label=label)
        left += seconds / scale
    for place, seconds in enumerate(bounds.values(), 1):
        axes.barh(place, seconds / scale, color="#999999")
    for place, seconds in enumerate((step, *bounds.values())):
        text = f" {duration(seconds)}"
        axes.text(seconds / scale, place, text, va="center", size=8)
    axes.set_xlim(0, 1.12 * longest / scale)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{name} per step; MFU {time['mfu']:.1%}", size=9)
    axes.legend(loc="lower right", **_LEGEND)
    _style(axes)


_LEGEND = {"fontsize": 8, "frameon": False}


def _unit(
    amount: int | float, units: Mapping[str, int | float]
) -> tuple[str, int | float]:
    """The largest unit of which there is one at least, and its size."""
    fitting = [(name, size) for name, size in units.items() if amount >= size]
    return (fitting or [*units.items()][-1:])[0]


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
