"""What crafts gave: scores of runs, and the table of their means over seeds."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

PLAIN = "plain"  # no craft


@dataclasses.dataclass(frozen=True)
class Score:
    """A craft's run: metrics of the test split, and of the last training steps."""

    accuracy: float
    loss: float
    seconds_per_step: float


def row(scores: Sequence[Score], plain: Sequence[Score]) -> dict[str, float]:
    """Means over seeds, and differences from plain with the same seeds."""
    accuracy = np.array([s.accuracy for s in scores])
    gain = accuracy - np.array([s.accuracy for s in plain])
    several = len(gain) > 1
    return {
        "accuracy": float(accuracy.mean()),
        "spread": float(accuracy.std(ddof=1)) if several else 0.0,
        "gain": float(gain.mean()),
        "gain_error": float(gain.std(ddof=1) / math.sqrt(len(gain)))
        if several
        else 0.0,
        "loss": float(np.mean([s.loss for s in scores])),
        "time": float(
            np.median([s.seconds_per_step for s in scores])
            / np.median([s.seconds_per_step for s in plain])
        ),
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| craft | accuracy | over seeds | gain, points | loss | time of a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        gain = f"{100 * r['gain']:+.1f} ± {100 * r['gain_error']:.1f}"
        lines.append(
            f"| {name} | {100 * r['accuracy']:.1f} % | ± {100 * r['spread']:.1f} "
            f"| {gain if name != PLAIN else ''} | {r['loss']:.3f} | {r['time']:.2f} |"
        )
    return "\n".join(lines) + "\n"
