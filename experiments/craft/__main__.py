r"""What each craft of fine-tuning gives on few labelled texts, over three seeds.

    python -m experiments.craft --workdir=runs/craft [--only=fgm,r_drop] \
        [--wordnet=/usr/share/wordnet] [--quick]

A small encoder reads the documentation that Python carries, with hidden tokens, then
learns from a few hundred texts which package a text is of, its names masked: plainly,
and with one craft at a time, the rest as it is. All have the same texts and draws.
Prints accuracy and loss on the test split, and the difference from plain with its
standard error over the seeds; also where nothing was gained. Goes on from what the
workdir holds; writes `craft.md` and `result.json`.
`--quick` shrinks everything to a toy that shows the path, not the result.
"""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from configs.objectives import masked_lm
from experiments import cli
from experiments.craft.scores import PLAIN, Score, row, table
from llmjax import config as cfg
from llmjax.data.augment.words import READ_WORDNET
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.data.prepare import prepare
from llmjax.tasks.labelled import augmented
from llmjax.tasks.registry import make_task
from llmjax.train import initial, run
from llmjax.train.checkpoints import weights
from llmjax.train.metrics import evaluation, writers

ONLY = flags.DEFINE_list("only", None, "Names of crafts; plain is always among them.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each craft.", lower_bound=1)
TEXTS = flags.DEFINE_integer("texts", 300, "Labelled texts.", lower_bound=1)
WORDNET = flags.DEFINE_string("wordnet", None, "Folder of WordNet; or left out.")
QUICK = flags.DEFINE_bool("quick", False, "A toy size, for tests.")
DIRECTORY = flags.DEFINE_string("directory", None, "Cache of corpora.")

STEPS = 80
SPEED = "train/tokens_per_second"
Craft = Callable[[Any], None]  # changes a ConfigDict


def _loss(kind: str, dropout: float = 0.0, **fields: Any) -> Craft:
    def change(config: Any) -> None:
        config.craft.loss.update(kind=kind, **fields)
        config.model.dropout = dropout

    return change


def _set(**fields: Any) -> Craft:
    """Keys of the config, "__" for the dots between them."""

    def change(config: Any) -> None:
        for key, value in fields.items():
            *rooms, name = key.split("__")
            part = config
            for room in rooms:
                part = part[room]
            part[name] = value

    return change


CRAFTS: dict[str, Craft] = {
    PLAIN: _set(),
    # the target
    "label_smoothing": _set(loss__label_smoothing=0.1),
    "class_weights": _set(task__problem__weights__kind="balanced"),
    "focal": _set(task__problem__focal_gamma=2.0),
    # the network
    "dropout": _set(model__dropout=0.1),
    "layer_drop": _set(model__layer_drop=0.1),
    # the loss
    "r_drop": _loss("r_drop", dropout=0.1, weight=1.0),
    "fgm": _loss("fgm", radius=0.5),
    "pgd": _loss("pgd", radius=0.5, step_size=0.2),
    "freelb": _loss("freelb", radius=0.5, step_size=0.2),
    "smart": _loss("smart", radius=1e-2, noise=1e-3, step_size=1e-2),
    "mixup": _loss("mixup"),
    # the weights
    "mixout": _set(craft__mixout=0.3),
    "no_decay": _set(optimizer__weight_decay=0.0),
    "start_decay": _set(optimizer__weight_decay=0.0, optimizer__start_decay=1.0),
    "layer_decay": _set(optimizer__layer_decay=0.7),
    "unfreezing": _set(optimizer__unfreeze_every=STEPS // 10),
    "ema": _set(optimizer__ema=0.95),
    "patience": _set(train__patience=2),
    # the texts
    "swap": _set(data__augment__swap=0.1),
    "deletion": _set(data__augment__deletion=0.1),
    "synonyms": _set(data__augment__synonyms=0.1),
    "insertion": _set(data__augment__insertion=0.1),
}


def names() -> list[str]:
    """The crafts that are tried, plain first.

    Raises:
      ValueError: --only names another, or one that needs --wordnet.
    """
    chosen = ONLY.value or [n for n in CRAFTS if WORDNET.value or n not in READ_WORDNET]
    for name in chosen:
        if name not in CRAFTS:
            raise ValueError(f"--only names {name}; accepted: {', '.join(CRAFTS)}")
        if name in READ_WORDNET and not WORDNET.value:
            raise ValueError(
                f"{name} reads WordNet; give its folder by --wordnet, as "
                "/usr/share/wordnet of Debian's wordnet-base"
            )
    return list(dict.fromkeys([PLAIN, *chosen]))


def pretrained() -> Any:
    """The ConfigDict of the run that all start from."""
    config = masked_lm.get_config()
    config.model.update(d_model=128, d_ff=384, num_layers=3)
    config.data.seq_len = 64
    config.train.update(steps=800, eval_every=400, checkpoint_every=400)
    config.layout.unroll = 1
    if QUICK.value:
        _toy(config)
    if DIRECTORY.value is not None:
        config.data.directory = DIRECTORY.value
    return config


def _toy(config: Any) -> None:
    """The same run in seconds, on the small corpus."""
    config.data.source = "python_docs/small"
    config.data.tokenizer.vocab_size = 512
    config.data.update(batch_size=8, seq_len=64)
    config.model.update(vocab_size=640, d_model=16, d_ff=32, num_heads=2, num_layers=2)
    config.train.update(steps=2, log_every=1, eval_every=2, eval_batches=1)
    config.optimizer.schedule.warmup_steps = 1


def config(name: str, seed: int, start: epath.Path) -> cfg.RunConfig:
    """The run of one craft from the weights in `start`."""
    config, steps = pretrained(), 13 if QUICK.value else STEPS
    config.init.kind = "checkpoint"
    config.init.path = str(start)
    config.task.kind = "sequence_classification"
    config.task.rate = None
    config.task.num_labels = 11
    config.task.pooling = "mean"
    config.task.text_field = "masked_text"
    config.data.tokenizer.kind = "file"
    config.data.tokenizer.path = str(start / "tokenizer")
    config.data.tokenizer.vocab_size = None
    config.data.packing = "pad"
    config.data.batch_size = 16
    config.data.shuffle_seed = config.train.seed = seed
    config.data.augment.wordnet = WORDNET.value or ""
    config.train.update(steps=steps, log_every=steps // 8, eval_every=steps // 4)
    config.train.update(checkpoint_every=steps // 4, eval_batches=20)
    config.optimizer.algorithm.kind = "adamw"
    config.optimizer.algorithm.newton_schulz_steps = None
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule.warmup_steps = steps // 10
    CRAFTS[name](config)
    if name == "unfreezing" and QUICK.value:
        config.optimizer.unfreeze_every = 4
    return cfg.parse(config)


def tune(name: str, seed: int, folder: epath.Path) -> Score:
    """Trains and tests one craft, unless it has been."""
    workdir = folder / name / str(seed)
    file = workdir / "score.json"
    if file.exists():
        return Score(**json.loads(file.read_text()))
    settings = initial.complete(config(name, seed, folder / "start"), workdir)
    ((_, corpus),) = weights.open_corpora(workdir, settings.data)
    task = make_task(settings, corpus.tokenizer)
    documents: Any = task.documents(corpus, settings.data.train_split)
    few = np.random.default_rng(seed).permutation(len(documents))[: TEXTS.value]
    source = task.examples(documents.select(few))
    part = Part("data.source", source, augmented.features(task), task.length)
    batches = Pipeline.of([part], settings.data)
    with contextlib.redirect_stdout(io.StringIO()):  # sixty runs would say too much
        done = run.run(settings, workdir, source=batches, progress=False)
    cli.stop_unless_finished(done.result)
    # all by their last weights, but where stopping early chooses them
    step = None if settings.train.patience else done.result["step"]
    program, params, test = run.load(workdir, "test", step)
    means = evaluation.evaluate(program, params, test)
    score = Score(means["accuracy"], means["loss"], _seconds(workdir, settings))
    file.write_text(json.dumps(dataclasses.asdict(score)))
    return score


def _seconds(workdir: epath.Path, settings: cfg.RunConfig) -> float:
    """Of a step, the median of what the log has."""
    rows = writers.read(workdir)
    speeds = [r[SPEED] for r in rows if SPEED in r]
    tokens = settings.data.batch_size * settings.data.seq_len
    return tokens / float(np.median(speeds)) if speeds else math.nan


def main() -> dict[str, Any]:
    folder = epath.Path(cli.WORKDIR.value or "").expanduser()
    start, chosen = cfg.parse(pretrained()), names()
    prepare.prepare(start.data)
    if not (folder / "start" / "result.json").exists():
        done = run.run(start, folder / "start")
        cli.stop_unless_finished(done.result)
        text, _ = cli.to_json(done.result)
        cli.write_result(str(folder / "start"), text)
    rows: dict[str, dict[str, float]] = {}
    plain: list[Score] = []
    for name in chosen:
        scores = [tune(name, seed, folder) for seed in range(SEEDS.value)]
        plain = plain or scores
        rows[name] = row(scores, plain)
        print(f"craft: {name}: {100 * rows[name]['accuracy']:.1f} %", flush=True)
        (folder / "craft.md").write_text(table(rows))
    return {"texts": TEXTS.value, "seeds": SEEDS.value, "rows": rows}


def describe(result: dict[str, Any]) -> str:
    """The table."""
    return table(result["rows"])


if __name__ == "__main__":
    cli.launch(main, ("workdir",), describe)
