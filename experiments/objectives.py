r"""Pretrains by every objective, and tabulates what each has learned.

    python -m experiments.objectives --workdir=runs/objectives \
        [--only=ul2,masked_lm] [--quick]

Each file of `configs/objectives/` is prepared, trained into `<workdir>/<name>` and
evaluated on the whole held-out split, where it is beside a trivial baseline: the most
frequent target, a coin, or the more frequent answer. `margin` counts standard errors of
a share between the accuracy and its baseline. Goes on from what the workdir holds;
writes `objectives.md` and `result.json`.
`--quick` shrinks everything to a toy that shows the path, not the result.
"""

import dataclasses
import importlib
import math
import pathlib
import pkgutil
from collections import Counter
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from experiments import cli
from llmjax import config as cfg
from llmjax.data.prepare import prepare
from llmjax.train import run
from llmjax.train.metrics import evaluation, writers
from llmjax.train.setup import Batches

ONLY = flags.DEFINE_list("only", None, "Names of configs/objectives/; default: all.")
QUICK = flags.DEFINE_bool("quick", False, "A toy size, for tests.")
DIRECTORY = flags.DEFINE_string("directory", None, "Cache of corpora.")

# Accuracies of answers, not of tokens: metric -> the metric that gives the baseline.
ANSWERS = {"pair_accuracy": "pair_share", "detection_accuracy": "replaced"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: an accuracy of an objective beside its baseline."""

    objective: str
    metric: str
    accuracy: float
    baseline: float
    frequency: bool  # the baseline is the most frequent target's share
    count: float
    loss: tuple[float, float]  # at the start and at the end
    tokens_per_second: float

    @property
    def margin(self) -> float:
        """Standard errors between the accuracy and its baseline."""
        error = math.sqrt(self.baseline * (1 - self.baseline) / max(self.count, 1))
        return (self.accuracy - self.baseline) / max(error, 1e-12)

    @property
    def met(self) -> bool:
        """Five standard errors above, and half again where a frequency is beaten."""
        enough = not self.frequency or self.accuracy >= 1.5 * self.baseline
        return self.margin >= 5 and enough


def names() -> list[str]:
    """The files of configs/objectives/, in order.

    Raises:
      ValueError: --only names another.
    """
    folder = pathlib.Path(__file__).parents[1] / "configs" / "objectives"
    files = sorted(m.name for m in pkgutil.iter_modules([str(folder)]))
    unknown = set(ONLY.value or ()) - set(files)
    if unknown:
        raise ValueError(
            f"--only names {', '.join(sorted(unknown))}; accepted: {', '.join(files)}"
        )
    return [name for name in files if not ONLY.value or name in ONLY.value]


def config(name: str) -> cfg.RunConfig:
    """The run of configs/objectives/<name>.py."""
    draft = importlib.import_module(f"configs.objectives.{name}").get_config()
    if QUICK.value:
        toy(draft)
    if DIRECTORY.value is not None:
        draft.data.directory = DIRECTORY.value
    return cfg.parse(draft)


def toy(config: Any) -> None:
    """The same objective in seconds, on the small corpus."""
    config.data.source = "python_docs/small"
    config.data.tokenizer.vocab_size = 512
    config.data.batch_size = 8
    config.data.seq_len = 64
    if config.data.encoder_seq_len is not None:
        config.data.encoder_seq_len = 64
    config.model.vocab_size = 640
    config.model.d_model = 16
    config.model.d_ff = 32
    config.model.num_heads = 2
    config.train.update(steps=2, log_every=1, eval_every=2, eval_batches=1)
    config.optimizer.schedule.warmup_steps = 1


def learn(name: str, folder: epath.Path) -> list[Row]:
    """Trains one objective; a row for each of its accuracies."""
    settings = config(name)
    prepare.prepare(settings.data)
    trained = run.run(settings, folder).result
    cli.stop_unless_finished(trained)
    program, params, batches = run.load(folder, step=settings.train.steps)
    totals = evaluation.totals(program, params, batches)
    means = evaluation.means([totals])
    started = next(r["eval/loss"] for r in writers.read(folder) if "eval/loss" in r)
    frequent = most_frequent(batches)
    out = []
    for metric, (_, count) in sorted(totals.items()):
        if not metric.endswith("accuracy"):
            continue
        baseline = frequent
        if metric in ANSWERS:
            share = means[ANSWERS[metric]]
            baseline = max(share, 1 - share)
        if baseline is None:
            baseline = means["chance"]  # of finding a text among those of a batch
        out.append(
            Row(
                name,
                metric,
                means[metric],
                baseline,
                metric not in ANSWERS and frequent is not None,
                count,
                (started, means["loss"]),
                trained["tokens_per_second"],
            )
        )
    return out


def most_frequent(batches: Batches) -> float | None:
    """The share of the most frequent target of a split; None: it has no targets."""
    counts: Counter[int] = Counter()
    for batch in batches.evaluation():
        if "targets" not in batch:
            return None
        real = batch.get("segment_ids", np.ones_like(batch["targets"])) > 0
        counted = batch["targets"][real & (batch.get("weights", real) > 0)]
        ids, times = np.unique(counted, return_counts=True)
        counts.update(dict(zip(ids.tolist(), times.tolist(), strict=True)))
    return max(counts.values()) / sum(counts.values())


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| objective | loss, start | end | accuracy | of | baseline | margin "
        "| tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.objective} | {row.loss[0]:.3f} | {row.loss[1]:.3f} "
            f"| {row.metric} {row.accuracy:.3f} | {row.count:,.0f} "
            f"| {row.baseline:.3f} | {row.margin:.0f}{'' if row.met else ' (not met)'} "
            f"| {row.tokens_per_second:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> dict[str, Any]:
    folder = epath.Path(cli.WORKDIR.value).expanduser()
    rows: list[Row] = []
    for name in names():
        print(f"objectives: {name}", flush=True)
        rows += learn(name, folder / name)
        (folder / "objectives.md").write_text(table(rows))
    print(table(rows))
    return {
        "rows": [
            dataclasses.asdict(r) | {"margin": r.margin, "met": r.met} for r in rows
        ],
        "met": all(row.met for row in rows),
    }


if __name__ == "__main__":
    cli.launch(main, required=("workdir",))
