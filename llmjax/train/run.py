"""A whole run from its config; any of its parts can be given instead."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import optax
from etils import epath

from llmjax.config import LayoutConfig, MixturePart, RunConfig
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.data.prepare import prepare
from llmjax.data.prepare.prepare import Corpus
from llmjax.parallel.axes import MESH_AXES
from llmjax.parallel.processes import distributed
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Task
from llmjax.train import loop, setup
from llmjax.train.checkpoints import load_params
from llmjax.train.setup import Batches, Program


def run(
    config: RunConfig,
    workdir: epath.PathLike,
    *,
    model: nn.Module | None = None,
    task: Task | None = None,
    source: Batches | None = None,
    evaluation: Batches | None = None,
    update: optax.GradientTransformationExtraArgs | None = None,
    profile: tuple[int, int] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains as `config` says, going on from what `workdir` holds.

    Args:
      config: the run; its corpus must be prepared.
      workdir: of metrics, checkpoints and the config.
      model, task, source, evaluation, update: instead of the config's model, task,
        training batches, evaluation batches and optax chain.
      profile, progress: as `loop.fit`'s.

    Returns:
      What `result.json` holds: last metrics, speed, memory, parameter count.

    Raises:
      FileNotFoundError: the corpus is not prepared.
      ValueError: something does not fit; before anything is traced.
      log.NotFiniteError: the run diverged.
    """
    if task is None or source is None:
        corpora = prepare.open_corpora(config.data)
        task = task or make_task(config, corpora[0][1].tokenizer)
        data = config.data
        if source is None:
            source = batches(config, task, corpora, data.train_split)
            source.check(config.train.steps)
        evaluation = evaluation or batches(config, task, corpora, data.eval_split)
    program = setup.build(config, task, source.batch(0), model=model, optimizer=update)
    _, result = loop.fit(
        program, source, evaluation, workdir, profile=profile, progress=progress
    )
    return result


Corpora = list[tuple[MixturePart, Corpus]]


def batches(config: RunConfig, task: Task, corpora: Corpora, split: str) -> Pipeline:
    """The global batches of one split of the corpora for a task."""
    parts = [
        Part(
            member.source,
            task.source(corpus, split),
            task.features,
            task.length,
            member.weight,
            member.max_epochs,
        )
        for member, corpus in corpora
    ]
    return Pipeline.of(parts, config.data)


def load(
    workdir: epath.PathLike, split: str | None = None, step: int | None = None
) -> tuple[Program, Any, Pipeline]:
    """A trained run, to evaluate: its program, its weights, the batches of a split.

    The mesh is of the devices that are here, whatever the run was trained on.

    Args:
      workdir: of the run.
      split: None: the run's evaluation split.
      step: of the checkpoint; None: the best.
    """
    config, params = load_params(workdir, step)
    default = LayoutConfig()
    here: dict[str, Any] = {axis: getattr(default, axis) for axis in MESH_AXES}
    layout = dataclasses.replace(config.layout, microbatches=1, **here)
    train = dataclasses.replace(config.train, eval_batches=None)
    config = dataclasses.replace(config, layout=layout, train=train)
    corpora = prepare.open_corpora(config.data)
    task = make_task(config, corpora[0][1].tokenizer)
    pipeline = batches(config, task, corpora, split or config.data.eval_split)
    program = setup.build(config, task, pipeline.batch(0))
    params = jax.tree.map(distributed.spread, params, program.shardings.params)
    return program, params, pipeline
