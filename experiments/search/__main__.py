r"""Searches for the fields of a config that give the best run.

    python -m experiments.search --config=configs/finetune/text_classification.py \
        --config.data.source=texts.csv --space=space.json --trials=20 \
        --workdir=runs/search

`space.json` names fields of the config, and among what they are drawn:

    {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-3, "log": true},
     "train.steps": {"low": 100, "high": 400, "step": 100},
     "craft.loss.kind": {"choices": ["plain", "r_drop"]}}

Each trial is a run in `<workdir>/trials/NNNN`, drawn by optuna's TPE after what the
others gave, and judged by its best `train.best_metric`. One that is worse than the
median of the others at the same step ends early (`--noprune`: none does). The trials
are kept in `<workdir>/study.db`: the same command goes on, the run that was interrupted
too, and with larger --trials adds more. Prints a table of all trials, failed ones with
their error, and writes `result.json`.
"""

from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from etils import epath

from experiments import cli
from experiments.search import space, study
from llmjax import config as cfg
from llmjax.infer import writing
from llmjax.train import initial, lock, run
from llmjax.train.optimizers import optimizers

SPACE = flags.DEFINE_string("space", None, "JSON file of what is searched.")
TRIALS = flags.DEFINE_integer("trials", 20, "Trials in all.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.", lower_bound=0)
PRUNE = flags.DEFINE_bool("prune", True, "End trials that are worse than the median.")


def main() -> dict[str, Any]:
    folder = epath.Path(cli.WORKDIR.value or "").expanduser()
    if jax.process_count() > 1:
        raise ValueError("a search is of one process; start one for each --workdir")
    config = cli.config()
    searched = space.read(SPACE.value or "", cli.CONFIG.value)
    settings = study.Search(
        folder,
        searched,
        config.train.best_metric,
        config.train.best_mode,
        SEED.value,
        PRUNE.value,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder):
        result = study.search(settings, TRIALS.value, train)
    (folder / "trials.md").write_text(study.table(result) + "\n")
    return result


def train(
    values: Mapping[str, Any], folder: epath.Path, watch: study.Watch
) -> float | None:
    """The best value of a run with these values; None: SIGTERM ended it early."""
    said = cli.said() | values.keys()
    with cfg.reworded():
        config = cfg.parse(dict(space.changed(cli.CONFIG.value, values).items()))
    config = initial.complete(config, folder, said=said)
    optimizers.check_length(config.optimizer, config.train.steps)
    initial.prepare_local(config.data, folder)
    done = run.run(
        config,
        folder,
        written=writing.predictions,
        progress=False,
        said=said,
        watch=watch,
    )
    if not done.result["finished"]:
        return None
    best: float = done.result["best"]["value"]
    return best


if __name__ == "__main__":
    cli.launch(main, ("config", "space", "workdir"), study.table)
