"""From a config to everything a loop needs: built once, checked before tracing."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from llmjax.config import RunConfig
from llmjax.data.curriculum import Curriculum
from llmjax.parallel import axes as axes_lib
from llmjax.parallel import mesh as mesh_lib
from llmjax.tasks.task import Task
from llmjax.train import optimizers
from llmjax.train import state as state_lib
from llmjax.train.state import State
from llmjax.train.step import make_evaluation, make_step

HostBatch = dict[str, np.ndarray]


@runtime_checkable
class Batches(Protocol):
    """The global batch as a function of step, as `llmjax.data.pipeline` gives it."""

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
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    predict: Callable[..., Any]
    place: Callable[[HostBatch], Any]

    def init(self) -> State:
        """A fresh state from `train.seed`, born sharded."""

        def init(key):
            return state_lib.initial(self.model, self.optimizer, self.batch, key)

        with mesh_lib.use(self.mesh):
            key = jax.random.key(self.config.train.seed)
            return jax.jit(init, out_shardings=self.shardings)(key)

    def with_params(self, state: State, params: Any) -> State:
        """`state` with other weights and an optimizer that starts from them."""
        with mesh_lib.use(self.mesh):
            opt_state = jax.jit(
                self.optimizer.init, out_shardings=self.shardings.opt_state
            )(params)
        return state.replace(params=params, opt_state=opt_state)  # type: ignore[attr-defined]

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
    mesh = mesh or mesh_lib.make_mesh(config.layout)
    data, layout = config.data, config.layout
    for size, T in Curriculum(data).shapes():
        mesh_lib.check_batch(size, T, layout.microbatches, mesh)
    model = task.model(config.model, layout) if model is None else model
    batch = {
        k: jax.ShapeDtypeStruct((data.batch_size, *v.shape[1:]), v.dtype)
        for k, v in example_batch.items()
    }
    params, axes = axes_lib.param_axes(model, batch)
    if optimizer is None:
        optimizer = optimizers.make(config.optimizer, config.train.steps, axes)
    abstract = jax.eval_shape(
        lambda: state_lib.initial(model, optimizer, batch, jax.random.key(0))
    )
    all_axes = state_lib.state_axes(abstract, params, axes)
    shardings = axes_lib.tree_shardings(abstract, all_axes, mesh)
    on_batch = axes_lib.batch_sharding(mesh, batch)
    loss = task.loss(model)
    step = make_step(
        loss,
        optimizer,
        seed=config.train.seed,
        microbatches=layout.microbatches,
        norms_every=config.train.log_every,
    )

    def place(rows: HostBatch) -> Any:
        return {
            k: jax.make_array_from_process_local_data(on_batch[k], v)
            for k, v in rows.items()
        }

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
        step=jax.jit(
            step,
            in_shardings=(shardings, on_batch),
            out_shardings=(shardings, None),
            donate_argnums=0,
        ),
        evaluate=jax.jit(
            make_evaluation(loss),
            in_shardings=(
                shardings.params,
                shardings.frozen,
                shardings.extra,
                on_batch,
            ),
        ),
        predict=jax.jit(task.predict(model), in_shardings=(shardings.params, on_batch)),
        place=place,
    )
