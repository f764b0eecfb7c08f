"""The pictures of the report, as PNG."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

from etils import epath
from matplotlib import pyplot as plt
from matplotlib import ticker

DPI = 130
_SIZE = (8.0, 5.6)  # inches, of the curves
_TRAIN, _HELD_OUT, _RATE, _QUIET = "#8fb3d9", "#123f6d", "#b5542c", "#6b7280"
_STYLE: Any = {
    "axes.edgecolor": "#9ca3af",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": "#374151",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "font.size": 10,
    "grid.color": "#e5e7eb",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
}

Metrics = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl


def curves(
    metrics: Metrics,
    path: epath.PathLike,
    *,
    references: Mapping[str, float],
    metric: str = "bits_per_byte",
    label: str = "bits per byte",
    title: str = "Pretraining",
) -> None:
    """Draws a metric in training and held out, and below it the learning rate, by step.

    Args:
      metrics: rows of metrics.jsonl; those with `train/<metric>` and
        `train/learning_rate`, and those with `eval/<metric>`, are drawn.
      path: the PNG to write.
      references: name -> value of the metric, each drawn as a horizontal line.
      metric: the metric to draw.
      label: name of the metric in the picture.
      title: title of the picture.
    """
    with plt.rc_context(_STYLE):
        figure, (top, bottom) = plt.subplots(
            2, 1, sharex=True, figsize=_SIZE, height_ratios=(4, 1), layout="constrained"
        )
        top.plot(*_series(metrics, f"train/{metric}"), color=_TRAIN, lw=1.6)
        steps, held_out = _series(metrics, f"eval/{metric}")
        top.plot(steps, held_out, "o-", color=_HELD_OUT, lw=1, ms=5.5)
        top.set(title=title, ylabel=label)
        bottom.plot(*_series(metrics, "train/learning_rate"), color=_RATE, lw=1.6)
        bottom.set(xlabel="step", ylabel="learning rate")
        bottom.set_ylim(bottom=0)
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        bottom.yaxis.set_major_locator(ticker.MaxNLocator(3))
        bottom.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        bottom.margins(x=0.02)
        top.tick_params(axis="x", length=0)
        figure.align_ylabels()
        for value in references.values():
            top.axhline(value, color=_QUIET, lw=1, ls=(0, (5, 3)), zorder=1)
        _name_lines(top, references)
        _legend(top, held_out)
        figure.savefig(str(path), dpi=DPI)
        plt.close(figure)


def confusion(
    matrix: Sequence[Sequence[int]], class_names: Sequence[str], path: epath.PathLike
) -> None:
    """Draws a confusion matrix: rows are the true classes, columns the predicted ones.

    The numbers count texts; a cell's colour is its share of the row. A class beyond
    `class_names` is named by its number.
    """
    size = len(matrix)
    class_names = [*class_names[:size], *map(str, range(len(class_names), size))]
    shares = [[n / max(sum(row), 1) for n in row] for row in matrix]
    inches = 2.6 + 0.56 * size
    with plt.rc_context({**_STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(inches, inches), layout="constrained")
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(matrix):
            for j, count in enumerate(row):
                if count:
                    color = "white" if shares[i][j] > 0.55 else "#1f2937"
                    axes.text(j, i, str(count), ha="center", va="center", color=color)
        axes.set_xticks(range(size), class_names, rotation=40, ha="right")
        axes.set_xticks([k + 0.5 for k in range(size - 1)], minor=True)
        axes.set_yticks(range(size), class_names)
        axes.set_yticks([k + 0.5 for k in range(size - 1)], minor=True)
        axes.grid(which="minor", axis="both", color="#e5e7eb", lw=0.8)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set(title="Test texts by class", xlabel="predicted", ylabel="true class")
        bar = figure.colorbar(
            image, shrink=0.6, aspect=18, format=ticker.PercentFormatter(1, decimals=0)
        )
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        figure.savefig(str(path), dpi=DPI, bbox_inches="tight")
        plt.close(figure)


def _series(metrics: Metrics, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have the metric `name`."""
    points = [(row["step"], row[name]) for row in metrics if name in row]
    return [step for step, _ in points], [value for _, value in points]


def _name_lines(axes: Any, references: Mapping[str, float]) -> None:
    """Names each horizontal line to the right of the panel, without overlaps."""
    gap = 0.055  # height of a line of text, as a share of the panel's
    low, high = axes.get_ylim()
    height = -gap
    for name, value in sorted(references.items(), key=lambda item: item[1]):
        height = max((value - low) / (high - low), height + gap)
        axes.text(
            1.01,
            height,
            f"{value:.2f}  {name.replace('_', ' ')}",
            transform=axes.transAxes,
            color=_QUIET,
            va="center",
            fontsize=9,
        )


def _legend(axes: Any, held_out: Sequence[float]) -> None:
    last = f", {held_out[-1]:.2f} at the end" if held_out else ""
    labels = ("training", f"held out{last}")
    axes.legend(axes.lines[:2], labels, edgecolor="none", framealpha=1, loc="best")
