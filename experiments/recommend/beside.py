"""A model of the next item, beside its baselines on the same histories."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from configs.finetune import next_item
from experiments import cli
from experiments.recommend.baselines import BASELINES, MOST
from llmjax import config as cfg
from llmjax.data.corpora import packaged, wheels
from llmjax.tasks.items import ranking
from llmjax.tasks.items.histories import Histories
from llmjax.tasks.items.next_item import NextItemTask
from llmjax.train import initial, run
from llmjax.train.checkpoints import weights
from llmjax.train.metrics import evaluation


def recommend(
    source: str, workdir: Path, seed: int = 0, **changes: Any
) -> dict[str, dict[str, Any]]:
    """The report of the test split, of the model and of each baseline.

    Args:
      source: file of events.
      workdir: of the run, in `model`, and of what is prepared.
      seed: of weights and batches.
      changes: fields of `config.train`, and `d_model` and `seq_len`.

    Raises:
      ValueError: see `initial.complete` and `NextItemTask`.
    """
    config = config_of(source, workdir, seed, **changes)
    config = initial.complete(config, workdir / "model")
    initial.prepare_local(config.data, workdir / "model")
    done = run.run(config, workdir / "model", progress=False)
    cli.stop_unless_finished(done.result)
    program, params, batches = run.load(workdir / "model", "test")
    task: Any = program.task
    values = evaluation.predictions(program, params, batches)
    reports = {"model": task.report(values, batches.sources)}
    ((_, corpus),) = weights.open_corpora(workdir / "model", config.data)
    learned, test = (task.documents(corpus, name) for name in ("train", "test"))
    return reports | baselines(task, learned, test)


def config_of(source: str, workdir: Path, seed: int, **changes: Any) -> cfg.RunConfig:
    """The run of `configs/finetune/next_item.py` on a file of events."""
    config = next_item.get_config()
    config.data.source = source
    config.data.directory = str(workdir / "cache")
    config.data.shuffle_seed = seed
    config.task.exclude_seen = True
    config.model.d_model = changes.pop("d_model", config.model.d_model)
    config.data.seq_len = changes.pop("seq_len", config.data.seq_len)
    if "steps" in changes:  # a run that is short warms up faster
        schedule = config.optimizer.schedule
        schedule.warmup_steps = min(schedule.warmup_steps, changes["steps"] // 2)
    parsed = cfg.parse(config)
    train = dataclasses.replace(parsed.train, seed=seed, **changes)
    return dataclasses.replace(parsed, train=train)


def baselines(
    task: NextItemTask, learned: Histories, test: Histories
) -> dict[str, dict[str, Any]]:
    """The report of each baseline on the histories that the model is tested on."""
    items, top = task.items, task.config.top
    place = np.zeros(int(items.max()) + 1, np.int64)
    place[items] = np.arange(len(items))
    spans = np.unique(learned.places[:, 2:], axis=0)
    learned_UI = _table([learned.items[a:b] for a, b in spans], place, len(items))
    whole = [test.items[a : b - 1] for a, b in test.places[:, 2:]]
    asked_UI = _table(whole, place, len(items))
    right = place[test.items[test.places[:, 1] - 1]]
    reports = {}
    for name, scores_of in BASELINES.items():
        if len(items) > MOST and name != "popularity":
            continue
        scores_UI = np.where(asked_UI > 0, -np.inf, scores_of(learned_UI, asked_UI))
        own_U1 = np.take_along_axis(scores_UI, right[:, None], axis=1)
        ranks = (scores_UI >= own_U1).sum(1)
        chosen = np.zeros(len(items), bool)
        chosen[np.argsort(-scores_UI, axis=1, kind="stable")[:, :top]] = True
        reports[name] = ranking.report(ranks, chosen, len(items), top)
    return reports


def _table(histories: list[np.ndarray], place: np.ndarray, items: int) -> np.ndarray:
    """1 where a history has an item, float32 [histories, items]."""
    table = np.zeros((len(histories), items), np.float32)
    for row, history in zip(table, histories, strict=True):
        row[place[history]] = 1
    return table


def movielens(path: Path, consent: bool | None = None) -> Path:
    """Writes the ratings of MovieLens 100K as events, unless they are there.

    Raises:
      ValueError: no consent to the download, or another archive than the pinned one.
    """
    if path.exists():
        return path
    wheel = packaged.WHEELS["recbole"]
    folder = wheels.fetch("recbole", wheel, consent=consent)
    lines = (folder / "ml-100k.inter").read_text("utf-8").splitlines()[1:]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time"])
        for line in lines:
            user, item, _, time = line.split("\t")
            writer.writerow([user, item, time])
    return partial.replace(path)
