r"""Recommends the next item, by a Transformer and by simpler ways beside it.

    python -m experiments.recommend --workdir=runs/movies
    python -m experiments.recommend --events=events.csv --workdir=runs/items

Without `--events` the events are the ratings of MovieLens 100K, downloaded after a
question (or with --download); they are for research alone. A row of a file has a user,
an item and a time, as `configs/finetune/next_item.py` says. The last item of each user
is the test; all items that the user has not had are ranked, by the model and by
popularity, similar items and EASE alike (`experiments/recommend/baselines.py`). The run
in WORKDIR/model is read by `predict`, and the same command goes on after it was killed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.recommend.beside import movielens, recommend
from llmjax.config import wording
from llmjax.tasks.items import ranking

EVENTS = flags.DEFINE_string("events", None, "file of events; absent: MovieLens 100K")
DOWNLOAD = flags.DEFINE_bool("download", False, "agree to download a package")
STEPS = flags.DEFINE_integer("steps", 1000, "updates at most", lower_bound=1)
LENGTH = flags.DEFINE_integer(
    "length", 50, "items of a history that are read", lower_bound=2
)
SEED = flags.DEFINE_integer("seed", 0, "of weights and batches", lower_bound=0)


def main() -> dict[str, Any]:
    workdir = Path(cli.WORKDIR.value or "").expanduser()
    source = EVENTS.value or str(
        movielens(workdir / "events.csv", DOWNLOAD.value or None)
    )
    sizes = {"steps": STEPS.value or 1, "seq_len": LENGTH.value or 2}
    return recommend(source, workdir, SEED.value or 0, **sizes)


def describe(result: Mapping[str, Any]) -> str:
    """The result in words: a line for each way."""
    names = (key.partition("@") for key in result["model"])
    top = next(int(k) for name, _, k in names if name == "hr" and k.isdecimal())
    return wording.table(
        {way: ranking.describe(report, top) for way, report in result.items()}
    )


if __name__ == "__main__":
    cli.launch(main, ("workdir",), describe)
