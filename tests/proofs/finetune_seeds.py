"""Fine-tuning against the same network from scratch, over three seeds each.

    python -m experiments.quickstart --workdir=runs/quickstart
    python tests/proofs/finetune_seeds.py [--workdir=runs/quickstart]

Both read the same labelled texts and take as many steps; from scratch at its own best
of its learning rates, chosen on the validation split. A seed draws the new weights
and the order of the texts. Prints test accuracy and macro-F1, their means and spreads
(largest - smallest); exits 1 where the means are not further apart than the larger of
the two spreads.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import app, flags, logging
from etils import epath

from experiments import cli
from experiments.quickstart import stages
from experiments.quickstart.configs import TEXTS, configs
from llmjax import config as cfg
from llmjax.train.checkpoints.reading import load_params

SEEDS = (0, 1, 2)
METRICS = ("accuracy", "macro_f1")


def seeded(config, seed: int):
    """The same run with other new weights and another order of texts."""
    config.train.seed = config.data.shuffle_seed = seed
    return cfg.parse(config)


def measure(name: str, config, folder: epath.Path) -> list[dict[str, float]]:
    """Trains and tests once per seed."""
    out = []
    for seed in SEEDS:
        workdir = folder / f"{name}_seed{seed}"
        stages.train_on_few(seeded(config, seed), workdir, TEXTS)
        out.append(stages.evaluate_classifier(workdir))
        scores = "  ".join(f"{m} {out[-1][m]:.4f}" for m in METRICS)
        print(f"{name:10} seed {seed}: {scores}", flush=True)
    return out


def main(_) -> None:
    logging.set_verbosity(logging.ERROR)
    workdir = epath.Path(cli.WORKDIR.value or "runs/quickstart").expanduser().absolute()
    pretrained, folder = workdir / "pretrain", workdir / "seeds"
    config, _ = load_params(pretrained)
    print(f"pretrained: {pretrained}, {config.train.steps} steps")
    # finds scratch's best learning rate, or reads what quickstart found
    *_, tune = configs(workdir)
    tune.data.directory = config.data.directory
    best = stages.finetune(tune, workdir, TEXTS)["scratch"]["learning_rate"]
    print(f"from scratch: best learning rate {best:g} of {stages.SCRATCH_RATES}")

    *_, tune = configs(workdir)
    tune.data.directory = config.data.directory
    tuned = measure("fine-tuned", tune, folder)
    tune.init = {"kind": "scratch"}
    tune.optimizer.learning_rate = best
    scratch = measure("scratch", tune, folder)

    good = True
    print(f"\n{tune.train.steps} steps each, seeds {SEEDS}")
    for metric in METRICS:
        mean, spread = {}, {}
        for name, results in (("fine-tuned", tuned), ("scratch", scratch)):
            values = [r[metric] for r in results]
            mean[name] = sum(values) / len(values)
            spread[name] = max(values) - min(values)
            print(
                f"{metric:9} {name:10} mean {mean[name]:.4f} spread {spread[name]:.4f}"
            )
        gap = mean["fine-tuned"] - mean["scratch"]
        exceeds = gap > max(spread.values())
        good &= exceeds
        verdict = "exceeds" if exceeds else "does NOT exceed"
        print(f"{metric:9} gap {gap:.4f} {verdict} the spread")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    flags.FLAGS.set_default("workdir", "runs/quickstart")
    app.run(main)
