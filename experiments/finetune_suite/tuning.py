"""Training a row's model, and asking it or the weights that it began with."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import cli
from experiments.finetune_suite import texts
from experiments.finetune_suite.row import Setting
from llmjax import config as cfg
from llmjax import hub
from llmjax.data.files.slices import Row as FileRow
from llmjax.infer.predict import Predictor, chunks
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Objective
from llmjax.train import initial, run
from llmjax.train.checkpoints import weights as weights_lib
from llmjax.train.setup import Program

BATCH = 64  # texts that are asked together
SAMPLED = 40  # batches whose real tokens are counted


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A model that a row has trained.

    Attributes:
      program, params, batches: as `run.load` gives them, of the test rows.
      base: the weights that it began with, in the same tree.
      speed: `tokens_per_second`, padding not counted, of training alone; `filled`, the
        share of a batch that is no padding; `steps`; `epochs`; `parameters`.
    """

    program: Program
    params: Any
    batches: Any
    base: Any
    speed: dict[str, float]


def tune(setting: Setting, config: Any, splits: texts.Splits, weights: str) -> Tuned:
    """Trains as `config` says, going on from what the row's folder holds.

    Args:
      setting: of the row.
      config: a ConfigDict of `configs/finetune`, with what the row changes.
      splits: the rows, as that config's task reads them from a .jsonl.
      weights: `init.path`.
    """
    config.init.path = weights
    config.data.source = str(texts.write(splits, setting.folder / "data"))
    config.data.directory = str(setting.corpora)
    config.train.eval_every = config.train.steps
    config.train.best_metric, config.train.best_mode = "loss", "min"
    config.train.log_every = 20
    config.train.checkpoint_every = max(1, config.train.steps // 3)
    if setting.quick:
        shrink(config)
    workdir = setting.folder / "run"
    complete = initial.complete(cfg.parse(config), workdir)
    initial.prepare_local(complete.data, workdir)
    trained = run.run(complete, workdir).result
    cli.stop_unless_finished(trained)
    program, params, batches = run.load(workdir, "test", trained["step"])
    speed = speed_of(program, workdir, trained)
    return Tuned(program, params, batches, base_of(weights, params), speed)


def shrink(config: Any) -> None:
    """Makes a run of a toy model take a second."""
    config.train.update(steps=2, eval_every=2, checkpoint_every=1, log_every=1)
    config.train.eval_batches = 1
    config.data.batch_size = 4
    config.data.seq_len = 32
    if config.data.encoder_seq_len:
        config.data.encoder_seq_len = 32
    config.data.prefetch = 0
    config.layout.unroll = 1
    config.optimizer.schedule.warmup_steps = 1


def speed_of(
    program: Program, workdir: Any, trained: Mapping[str, Any]
) -> dict[str, float]:
    """See `Tuned.speed`."""
    config = program.config
    corpora = weights_lib.open_corpora(workdir, config.data)
    split = config.data.train_split
    batches = run.batches(config, program.task, corpora, split)
    steps = config.train.steps
    real = places = counted = 0
    for step in range(min(steps, SAMPLED)):
        batch = batches.batch(step)
        streams = [v for k, v in batch.items() if k.endswith("segment_ids")]
        real += sum(int((v > 0).sum()) for v in streams)
        places += sum(v.size for v in streams)
        counted += batch["segment_ids"].size  # what the log's rate counts
    (epochs,) = batches.epochs(steps).values()
    return {
        "tokens_per_second": trained["tokens_per_second"] * real / counted,
        "filled": real / places,
        "steps": steps,
        "epochs": epochs,
        "parameters": trained["parameters"],
        "trained_parameters": trained.get("trained_parameters", 0),
    }


def base_of(weights: str, like: Any) -> Any:
    """The weights of the hub, if a trained model has no others."""
    _, base = hub.load(weights)
    trees: list[Any] = [jax.tree.structure(tree) for tree in (base, like)]
    return base if trees[0] == trees[1] else None


def asked(
    program: Program, params: Any, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A trained model's answer to each row, by the names of its task's inputs."""
    data = dataclasses.replace(
        program.config.data, packing="pad", max_segments=None, prefetch=0
    )
    config = dataclasses.replace(program.config, data=data)
    task = make_task(config, program.task.vocabulary)  # type: ignore[attr-defined]
    return _answers(config, task, params, rows)


def vectors(program: Program, params: Any, role: str, given: Sequence[str]) -> Any:
    """The vectors of texts by a model of `text_embedding`, float32 [n, D]."""
    task: Any = program.task
    rows = [{"text": text} for text in given]
    answers = _answers(program.config, task.answering(role), params, rows)
    return np.array([answer["vector"] for answer in answers], np.float32)


def hub_vectors(weights: str, given: Sequence[str], longest: int) -> Any:
    """The vectors of texts by an encoder of the hub as it is, float32 [n, D]."""
    model, params = hub.load(weights)
    data = cfg.DataConfig(seq_len=longest, packing="pad", prefetch=0)
    config = cfg.RunConfig(model.cfg, cfg.TextEmbedding(), data)
    task = make_task(config, hub.tokenizer(weights)).answering("passage")
    rows = [{"text": text} for text in given]
    answers = _answers(config, task, params, rows)
    return np.array([answer["vector"] for answer in answers], np.float32)


def _answers(
    config: cfg.RunConfig,
    task: Objective,
    params: Any,
    rows: Sequence[Mapping[str, Any]],
) -> list[Any]:
    columns = {name: name for name in task.inputs}
    predictor = Predictor(config, task, params, min(BATCH, len(rows)))
    listed = (FileRow(dict(row), f"row {k}".__str__) for k, row in enumerate(rows))
    return [answer for part in chunks(listed, 0) for answer in predictor(part, columns)]
