"""A run from its config, or from parts that replace the config's."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax
from etils import epath

from llmjax.config import CraftConfig, LayoutConfig, MixturePart, RunConfig
from llmjax.data.batches.pipeline import Part, Pipeline
from llmjax.data.store.corpus import Corpus
from llmjax.models.forward import REFERENCE
from llmjax.parallel.processes import distributed
from llmjax.tasks.labelled import augmented
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import Loss, Predictions, Task, loss_of
from llmjax.train import initial, loop, outline, references, setup
from llmjax.train.checkpoints import reading, weights
from llmjax.train.gradient import GradientEstimator, value_and_grad
from llmjax.train.metrics import evaluation as evaluation_lib
from llmjax.train.optimizers import optimizers
from llmjax.train.setup import Batches, Program
from llmjax.train.state import State, WithAxes

# (program, params, batches, frozen) -> predictions for every example
Written = Callable[[Program, Any, Batches, Any], Iterable[Predictions]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that ended.

    Attributes:
      state: the last.
      program: what it was trained with.
      result: what `result.json` holds: last metrics, speed, memory, parameter count.
    """

    state: State
    program: Program
    result: dict[str, Any]


def run(
    config: RunConfig,
    workdir: epath.PathLike,
    *,
    model: nn.Module | None = None,
    task: Task | None = None,
    source: Batches | None = None,
    evaluation: Batches | None = None,
    update: optax.GradientTransformationExtraArgs | None = None,
    loss: Callable[[Task, nn.Module], Loss] = loss_of,
    gradient: GradientEstimator = value_and_grad,
    frozen: Mapping[str, WithAxes] | None = None,
    extra: Mapping[str, WithAxes] | None = None,
    written: Written | None = None,
    profile: tuple[int, int] | None = None,
    progress: bool = True,
    said: Collection[str] = (),
    watch: loop.Watch | None = None,
) -> Run:
    """Trains as `config` says, going on from what `workdir` holds.

    Args:
      config: the run, completed by `initial.complete`; its corpus must be prepared.
      workdir: of metrics, checkpoints and the config.
      model, task, source, evaluation, update: instead of the config's model, task,
        training batches, evaluation batches and optax chain.
      loss, gradient, frozen, extra: as `setup.build`'s.
      written: the texts for the examples of a split, of a task that writes, such as
        `llmjax.infer.writing.predictions`; None: none are written at the end.
      profile, progress, watch: as `loop.fit`'s.
      said: as `initial.complete`'s.

    Raises:
      FileNotFoundError: the corpus is not prepared.
      ValueError: something does not fit; before anything is traced.
      metrics.finite.NotFiniteError: the run diverged.
    """
    own = task is None and source is None
    config = initial.complete(config, workdir, corpus=own, said=said)
    if update is None:
        optimizers.check_length(config.optimizer, config.train.steps)
    corpora: Corpora = []
    if task is None or source is None:
        corpora = weights.open_corpora(workdir, config.data)
        task = task or make_task(config, corpora[0][1].tokenizer)
        data = config.data
        if source is None:
            source = batches(config, task, corpora, data.train_split, training=True)
            source.check(config.train.steps)
        evaluation = evaluation or batches(config, task, corpora, data.eval_split)
    initial.check_tokenizer(config, task, workdir)
    program = setup.build(
        config,
        task,
        source.batch(0),
        model=model,
        optimizer=update,
        loss=loss,
        gradient=gradient,
        frozen=frozen,
        extra=extra,
    )
    if progress and distributed.is_leader():
        print(outline.of(program, source, corpora), flush=True)
    fresh = not initial.goes_on(workdir)
    for some in filter(None, (source, evaluation)):
        references.fill(program, some, workdir, loop.begin, fresh=fresh)
    state, result = loop.fit(
        program,
        source,
        evaluation,
        workdir,
        profile=profile,
        progress=progress,
        watch=watch,
    )
    predict: Written | None = evaluation_lib.predictions if task.labels else None
    if task.writes:
        predict = written if jax.process_count() == 1 else None
        if predict is None and written is not None and distributed.is_leader():
            print("no text is written at the end: one process does; `llmjax evaluate`")
    if result["finished"] and evaluation is not None and predict is not None:
        result |= _report(program, state, evaluation, predict)
    return Run(state, program, result)


def _report(
    program: Program, state: State, evaluation: Batches, predict: Written
) -> dict[str, Any]:
    """The task's report of a run's last weights; its words are printed."""
    params = optimizers.averaged(state.opt_state, state.params)
    values = predict(program, params, evaluation, state.frozen)
    report = program.task.report(values, getattr(evaluation, "sources", ()))
    words = program.task.describe(report) if report else ""
    if words and distributed.is_leader():
        print(words)
    return {"report": report} if report else {}


# of an optimizer that updates nothing
TOLD_APART: dict[str, Any] = {
    "freeze": (),
    "layer_decay": 1.0,
    "start_decay": 0.0,
    "unfreeze_every": None,
}
Corpora = list[tuple[MixturePart, Corpus]]


def batches(
    config: RunConfig,
    task: Task,
    corpora: Corpora,
    split: str,
    training: bool = False,
) -> Pipeline:
    """The global batches of one split of the corpora for a task.

    Args:
      config, task, corpora, split: of the run.
      training: whether texts are changed as `data.augment` says.
    """
    features = augmented.features(task) if training else task.features
    parts = [
        Part(
            member.source,
            task.source(corpus, split),
            features,
            task.length,
            member.weight,
            member.max_epochs,
            task.declared,
        )
        for member, corpus in corpora
    ]
    return Pipeline.of(parts, config.data)


def load(
    workdir: epath.PathLike, split: str | None = None, step: int | None = None
) -> tuple[Program, Any, Pipeline]:
    """A trained run, to use: its program, its weights, the batches of a split.

    The program has the run's config, model and task, and `evaluate` and `predict`,
    compiled where they are first called. The weights are one tree, frozen and averaged
    ones among them: the "params" of the model; those that the run began with, if its
    task compares with them, are the program's. `batches.batch(k)` is the k-th of
    training, `batches.evaluation()` gives each example once. The mesh is of the devices
    that are here, whatever the run was trained on; on several, the model is applied
    within `mesh.use(program.mesh)`.

        program, params, batches = run.load("runs/finetune", split="test")
        evaluation.evaluate(program, params, batches)["accuracy"]
        inside = activations(program.model, {"params": params}, batches.batch(0))
        inside["hidden_states"]  # [layers + 1, B, T, D]
        inside["attentions"]  # [layers, B, heads, T, T]

    Args:
      workdir: of the run.
      split: None: the run's evaluation split.
      step: of the checkpoint; None: the best.

    Raises:
      FileNotFoundError: no such run, or its corpus is not prepared.
      ValueError: no such step, a checkpoint that can't be read, or a folder of the hub:
        that has no task and no data, and `hub.load.load` gives its model and weights.
    """
    return read(workdir, split, step)[1:]


def read(
    workdir: epath.PathLike, split: str | None = None, step: int | None = None
) -> tuple[int, Program, Any, Pipeline]:
    """The step of the checkpoint that `load` takes, and what `load` gives."""
    _check_run(workdir)
    step, config, params = reading.read(workdir, step)
    here = config.layout.mesh_fields(LayoutConfig().mesh_sizes)
    layout = dataclasses.replace(config.layout, microbatches=1, **here)
    train = dataclasses.replace(config.train, eval_batches=None)
    optimizer = dataclasses.replace(config.optimizer, **TOLD_APART)
    config = dataclasses.replace(
        config, layout=layout, train=train, optimizer=optimizer, craft=CraftConfig()
    )
    corpora = weights.open_corpora(workdir, config.data)
    task = make_task(config, corpora[0][1].tokenizer)
    pipeline = batches(config, task, corpora, split or config.data.eval_split)
    program = setup.build(config, task, pipeline.batch(0))
    references.fill(program, pipeline, workdir, loop.begin, fresh=False)
    params = jax.tree.map(distributed.spread, params, program.shardings.params)
    if program.keeps_reference:
        first = reading.load_reference(workdir, step)
        places = program.shardings.frozen[REFERENCE]
        first = jax.tree.map(distributed.spread, first, places)
        program = dataclasses.replace(program, frozen={REFERENCE: WithAxes(first)})
    return step, program, params, pipeline


def _check_run(workdir: epath.PathLike) -> None:
    """Raises ValueError where the folder is the hub's."""
    folder = epath.Path(workdir).expanduser()
    if (folder / "config.json").exists() and weights.of_hub(str(folder)):
        raise ValueError(
            f"{folder} is a folder of the hub, which has no task and no data; "
            "llmjax.hub.load.load gives its model and weights, and a run with "
            "init.path trains from it"
        )
