"""The picture of a plan: a chip's memory and the step's time, by part."""

from typing import Any

from etils import epath

from llmjax.plan.compiler.buffers import KINDS
from llmjax.plan.report import Result
from llmjax.plan.tables import GIB, duration, topology_name, unit

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#56B4E9", "#999999", "#009E73", "#E69F00", "#CC79A7")


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
    title = f"{result.get('config', 'A run')} on {topology_name(result)}"
    figure.suptitle(title, fontsize=11)
    _memory(axes[0], result["memory"], unit(result))
    if timed:
        _time(axes[1], result["time"], unit(result))
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    return ""


def _memory(axes: Any, memory: Result, unit: str) -> None:
    left = 0.0
    for kind, color in zip(KINDS, COLORS, strict=True):
        width = memory[kind] / GIB
        if width > 0:
            axes.barh(0, width, left=left, color=color, label=f"{kind} {width:.2f}")
            left += width
    capacity = memory["capacity"] / GIB
    axes.axvline(capacity, color="black", linewidth=1.5)
    axes.annotate(
        f"capacity {capacity:.1f}",
        (capacity, 1),
        xytext=(0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        size=8,
    )
    axes.set_xlim(0, 1.06 * max(left, capacity))
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["memory"])
    axes.set_xlabel(f"GiB per {unit}", size=9)
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
    left = 0.0
    for label, seconds, color in parts:
        axes.barh(0, seconds, left=left, color=color, label=label)
        left += seconds
    for place, seconds in enumerate(bounds.values(), 1):
        axes.barh(place, seconds, color="#999999")
    longest = max(left, *bounds.values()) if bounds else left
    for place, seconds in enumerate((left, *bounds.values())):
        axes.text(seconds, place, f" {duration(seconds)}", va="center", size=8)
    axes.set_xlim(0, 1.12 * longest)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds per step; MFU {time['mfu']:.1%}", size=9)
    axes.legend(loc="lower right", **_LEGEND)
    _style(axes)


_LEGEND = {"fontsize": 8, "frameon": False}


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
