"""From a config to everything a loop needs: built once, checked before tracing."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from llmjax.config import LayoutConfig, RunConfig
from llmjax.data.batches.curriculum import Curriculum
from llmjax.models import forward, quantized
from llmjax.parallel import axes as axes_lib
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel import pipeline, sequence
from llmjax.parallel.processes import distributed
from llmjax.tasks.task import Task, loss_of
from llmjax.train import loss_scale, optimizers
from llmjax.train import placement as placement_lib
from llmjax.train import state as state_lib
from llmjax.train.state import State
from llmjax.train.step import make_evaluation, make_step

HostBatch = dict[str, np.ndarray]


@runtime_checkable
class Batches(Protocol):
    """The global batch as a function of step; `Pipeline` is one."""

    def batch(
        self, step: int, process_index: int = 0, process_count: int = 1
    ) -> HostBatch:
        """This process's rows of the batch of `step`."""

    def prefetch(
        self, start: int, stop: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[tuple[int, HostBatch]]:
        """(step, batch) from `start` to `stop`, made ahead of use."""

    def evaluation(
        self,
        process_index: int = 0,
        process_count: int = 1,
        max_batches: int | None = None,
    ) -> Iterator[HostBatch]:
        """Every example once."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled side of a run: what is jitted, and where things lie."""

    config: RunConfig
    mesh: Mesh
    model: nn.Module
    task: Task
    optimizer: optax.GradientTransformationExtraArgs
    batch: Any
    abstract: State
    axes: State
    shardings: State
    fresh: Callable[[jax.Array], State]
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    predict: Callable[..., Any]
    place: Callable[[HostBatch], Any]

    def init(self) -> State:
        """A fresh state from `train.seed`, born sharded."""

        with mesh_lib.use(self.mesh):
            key = jax.random.key(self.config.train.seed)
            return jax.jit(self.fresh, out_shardings=self.shardings)(key)

    def with_params(self, state: State, params: Any) -> State:
        """`state` with other weights and an optimizer that starts from them."""

        def init(params):
            return self.optimizer.init(state_lib.float32(params))

        with mesh_lib.use(self.mesh):
            opt_state = jax.jit(init, out_shardings=self.shardings.opt_state)(params)
        return dataclasses.replace(state, params=params, opt_state=opt_state)

    def restorable(self) -> State:
        """The abstract state with its shardings, for a checkpoint to fill."""
        return jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            self.abstract,
            self.shardings,
        )


def build(
    config: RunConfig,
    task: Task,
    example_batch: HostBatch,
    *,
    model: nn.Module | None = None,
    optimizer: optax.GradientTransformationExtraArgs | None = None,
    mesh: Mesh | None = None,
) -> Program:
    """Builds and checks a run's program; nothing is computed on devices yet.

    Args:
      config: the run.
      task: its task.
      example_batch: one process's rows of any batch, for names, shapes and types.
      model: instead of the task's own.
      optimizer: an optax chain instead of the config's.
      mesh: instead of the config's over all devices.

    Raises:
      ValueError: a mesh that is not there, a batch or weight that does not divide.
    """
    layout = config.layout
    mesh = mesh or mesh_lib.make_mesh(layout)
    _check(config, mesh)
    model = task.model(config.model, layout) if model is None else model
    batch = {
        k: jax.ShapeDtypeStruct((config.data.batch_size, *v.shape[1:]), v.dtype)
        for k, v in example_batch.items()
    }
    params, axes = axes_lib.param_axes(model, batch)
    mesh_lib.check_axes(axes, batch, mesh)
    if optimizer is None:
        optimizers.check(config)
        optimizer = optimizers.make(config.optimizer, config.train.steps, axes)
    fresh = functools.partial(_fresh, config, model, optimizer, batch)
    abstract = jax.eval_shape(fresh, jax.random.key(0))
    all_axes = state_lib.state_axes(abstract, params, axes)
    shardings, placement = placement_lib.place(
        abstract,
        all_axes,
        axes_lib.tree_shardings(abstract, all_axes, mesh),
        layout,
        mesh,
    )
    on_batch = axes_lib.batch_sharding(mesh, batch)
    loss, predict = loss_of(task, model), task.predict(model)
    step = make_step(
        loss,
        optimizer,
        layout,
        seed=config.train.seed,
        norms_every=config.train.log_every,
        placement=placement,
    )
    weights = shardings.params
    return Program(
        config=config,
        mesh=mesh,
        model=model,
        task=task,
        optimizer=optimizer,
        batch=batch,
        abstract=abstract,
        axes=all_axes,
        shardings=shardings,
        fresh=fresh,
        step=jax.jit(
            step,
            in_shardings=(shardings, on_batch),
            out_shardings=(shardings, None),
            donate_argnums=0,
            compiler_options=_compiler_options(layout, mesh),
        ),
        evaluate=jax.jit(
            make_evaluation(loss),
            # `extra` may be none: of weights alone
            in_shardings=(weights, shardings.frozen, None, on_batch),
        ),
        predict=jax.jit(
            lambda params, frozen, batch: predict(
                forward.variables(params, frozen), batch
            ),
            in_shardings=(weights, shardings.frozen, on_batch),
        ),
        place=functools.partial(_place, on_batch, mesh),
    )


def _compiler_options(layout: LayoutConfig, mesh: Mesh) -> dict[str, Any] | None:
    """XLA's of `layout.compiler_options`, which only its compiler for TPUs knows."""
    if mesh.devices.flat[0].platform != "tpu":
        return None
    pairs = (option.partition("=") for option in layout.compiler_options)
    return {name: value for name, _, value in pairs}


def _check(config: RunConfig, mesh: Mesh) -> None:
    """What is wrong with a run on this mesh, before anything is traced."""
    quantized.check(config.layout.quantization)
    for size, T in Curriculum(config.data).shapes():
        mesh_lib.check_batch(size, T, config.layout.microbatches, mesh)
        sequence.check(config.layout, T, mesh)
        rows = size // config.layout.microbatches
        pipeline.check(config.model, config.layout, rows, mesh)


def _fresh(
    config: RunConfig,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch: Any,
    key: jax.Array,
) -> State:
    layout = config.layout
    half = layout.precision == "float16"
    extra = loss_scale.initial(layout.loss_scale) if half else {}
    return state_lib.initial(model, optimizer, batch, key, layout.masters, extra)


def _place(on_batch: Any, mesh: Mesh, rows: HostBatch) -> Any:
    """This process's share of the rows, as a part of the global batch."""
    shares = distributed.share(mesh)[1]
    return {
        k: jax.make_array_from_process_local_data(
            on_batch[k], v, (shares * len(v), *v.shape[1:])
        )
        for k, v in rows.items()
    }
