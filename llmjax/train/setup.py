"""From a config to everything a loop needs: built once, checked before tracing."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from llmjax.config import AdaLoRA, Adapters, LayoutConfig, RunConfig, Scratch
from llmjax.data.batches.curriculum import Curriculum
from llmjax.models import quantized
from llmjax.models.forward import REFERENCE, variables
from llmjax.parallel import axes as axes_lib
from llmjax.parallel import mesh as mesh_lib
from llmjax.parallel import pipeline, sequence
from llmjax.parallel.processes import distributed
from llmjax.peft import adapted, allocation
from llmjax.tasks.craft import craft
from llmjax.tasks.craft.agreement import PROXIMAL
from llmjax.tasks.task import Loss, Task, loss_of
from llmjax.train import gradient_cache, loss_scale, wrapping
from llmjax.train import placement as placement_lib
from llmjax.train import state as state_lib
from llmjax.train.checkpoints import frozen as frozen_lib
from llmjax.train.gradient import GradientEstimator, value_and_grad
from llmjax.train.optimizers import of_run
from llmjax.train.state import State, WithAxes
from llmjax.train.step import make_evaluation, make_prediction, make_step

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
    """The compiled side of a run: what is jitted, and where things lie.

    Attributes:
      config, mesh, model, task, optimizer: of the run.
      batch: ShapeDtypeStructs of the global batch.
      abstract, axes, shardings: of the state.
      frozen, extra: trees of the state that the caller gave `build`.
      fresh: key -> a fresh state without those.
      step: (state, batch) -> (state, (metrics, scalars)); the state is donated.
      evaluate: (params, frozen, extra, batch) -> metrics.
      predict: (params, frozen, batch) -> predictions.
      place: this process's rows -> the global batch.
    """

    config: RunConfig
    mesh: Mesh
    model: nn.Module
    task: Task
    optimizer: optax.GradientTransformationExtraArgs
    batch: Any
    abstract: State
    axes: State
    shardings: State
    frozen: Mapping[str, WithAxes]
    extra: Mapping[str, WithAxes]
    fresh: Callable[[jax.Array], State]
    step: Callable[..., Any]
    evaluate: Callable[..., Any]
    predict: Callable[..., Any]
    place: Callable[[HostBatch], Any]

    def init(self) -> State:
        """A fresh state from `train.seed`, born sharded."""
        key = jax.random.key(self.config.train.seed)
        base = _names(self.frozen)
        frozen, extra = dict(self.shardings.frozen), self.shardings.extra
        own, added = frozen_lib.split(frozen.get(frozen_lib.PARAMS, {}), base)
        trees = {frozen_lib.PARAMS: own} if own else {}
        if self.keeps_reference:
            trees[REFERENCE] = frozen[REFERENCE]
        born = dataclasses.replace(self.shardings, frozen=trees, extra={})
        frozen[frozen_lib.PARAMS] = added
        with mesh_lib.use(self.mesh):
            state = jax.jit(self.fresh, out_shardings=born)(key)
            return state_lib.joined(
                state,
                {k: v.placed(frozen[k]) for k, v in self.frozen.items()},
                {k: v.placed(extra[k]) for k, v in self.extra.items()},
            )

    @property
    def keeps_reference(self) -> bool:
        """Whether the run's first weights are its task's reference."""
        return REFERENCE in self.abstract.frozen and REFERENCE not in self.frozen

    def with_params(self, state: State, params: Any) -> State:
        """`state` with other trained weights, and an optimizer and a reference that
        start from them."""

        def init(params):
            return self.optimizer.init(state_lib.float32(params))

        with mesh_lib.use(self.mesh):
            opt_state = jax.jit(init, out_shardings=self.shardings.opt_state)(params)
        frozen = state.frozen
        if self.keeps_reference:
            frozen = {**frozen, REFERENCE: state_lib.copied(params)}
        return dataclasses.replace(
            state, params=params, frozen=frozen, opt_state=opt_state
        )

    def begun(self, state: State) -> State:
        """`state` with the adapters that a run starts with, if they are computed of its
        base."""
        peft = self.config.peft
        if not isinstance(peft, Adapters) or not adapted.begins_at_base(peft):
            return state
        plain = self.task.model(self.config.model, self.config.layout)
        places = variables(self.shardings.params, self.shardings.frozen)["params"]
        with mesh_lib.use(self.mesh):
            weights = jax.jit(
                functools.partial(adapted.begun, peft, plain, self.batch),
                out_shardings=places,
            )(variables(state.params, state.frozen)["params"])
        own = flatten_dict(state.frozen.get(frozen_lib.PARAMS, {}), sep="/")
        params, rest = frozen_lib.split(weights, own)
        frozen = {**state.frozen, frozen_lib.PARAMS: rest}
        state = dataclasses.replace(state, params=params, frozen=frozen)
        return self.with_params(state, params)

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
    loss: Callable[[Task, nn.Module], Loss] = loss_of,
    gradient: GradientEstimator = value_and_grad,
    frozen: Mapping[str, WithAxes] | None = None,
    extra: Mapping[str, WithAxes] | None = None,
) -> Program:
    """Builds and checks a run's program; nothing is computed on devices yet.

    Args:
      config: the run.
      task: its task.
      example_batch: one process's rows of any batch, for names, shapes and types.
      model: instead of the task's own.
      optimizer: an optax chain instead of the config's.
      mesh: instead of the config's over all devices.
      loss: what is minimised and evaluated, made of task and model; a wrapper of
        `loss_of`.
      gradient: how the loss's gradient is computed; see `llmjax.train.gradient`.
      frozen: trees for `State.frozen`, by name. "params" holds weights of the model
        itself, such as the base under an adapter: they are not trained. "reference"
        replaces the run's first weights where the task compares with them.
      extra: trees for `State.extra`, by name, as they are at step 0.

    Raises:
      ValueError: more devices than there are, a batch or weight that does not divide,
        a tree that does not fit.
    """
    layout = config.layout
    mesh = mesh or mesh_lib.make_mesh(layout)
    _check(config, mesh)
    if model is None:
        model = adapted.adapted(task.model(config.model, layout), config.peft)
    batch = {
        k: jax.ShapeDtypeStruct((config.data.batch_size, *v.shape[1:]), v.dtype)
        for k, v in example_batch.items()
    }
    scaling = loss_scale.of(layout.precision)
    objective = loss(task, model)
    craft.check(config, task, model, objective)
    references = task.needs_reference or config.craft.mixout > 0
    birth = _birth(
        config,
        model,
        optimizer,
        batch,
        mesh,
        _checked("frozen", frozen or {}),
        _checked("extra", {**(extra or {}), **scaling.extra}),
        reference=references and REFERENCE not in (frozen or {}),
    )
    shardings, placement = placement_lib.place(
        birth.abstract,
        birth.axes,
        axes_lib.tree_shardings(birth.abstract, birth.axes, mesh),
        layout,
        mesh,
    )
    on_batch = axes_lib.batch_sharding(mesh, batch)
    trained, stepped = _minimised(config, task, objective, birth.axes.params)
    step = make_step(
        scaling.loss(trained),
        birth.optimizer,
        stepped,
        seed=config.train.seed,
        placement=placement,
        gradient=gradient,
        accept=scaling.accept,
    )
    return Program(
        **{f.name: getattr(birth, f.name) for f in dataclasses.fields(birth)},
        **_jitted(task, model, step, objective, shardings, on_batch, mesh, layout),
        config=config,
        mesh=mesh,
        model=model,
        task=task,
        batch=batch,
        shardings=shardings,
        place=functools.partial(_place, on_batch, mesh),
    )


def _jitted(
    task: Task,
    model: nn.Module,
    step: Callable[..., Any],
    objective: Loss,
    shardings: State,
    on_batch: Any,
    mesh: Mesh,
    layout: LayoutConfig,
) -> dict[str, Any]:
    """What a program computes on its devices, by the names of its fields."""
    weights = shardings.params, shardings.frozen
    return {
        "step": jax.jit(
            step,
            in_shardings=(shardings, on_batch),
            out_shardings=(shardings, None),
            donate_argnums=0,
            compiler_options=_compiler_options(layout, mesh.devices.flat[0]),
        ),
        "evaluate": jax.jit(
            make_evaluation(objective),
            # `extra` may be none: of weights alone
            in_shardings=(*weights, None, on_batch),
        ),
        "predict": jax.jit(
            make_prediction(task.predict(model)),
            # no prediction reads a reference, which may be absent
            in_shardings=(shardings.params, None, on_batch),
        ),
    }


def _minimised(
    config: RunConfig, task: Task, objective: Loss, axes: Any
) -> tuple[Loss, LayoutConfig]:
    """What the step minimises, and the layout in which it does."""
    trained = craft.wrapped(config, task, objective)
    layout = stepped = config.layout
    if layout.microbatches > 1 and getattr(task, "whole_batch", False):
        trained = gradient_cache.cached(objective, layout.microbatches)
        stepped = dataclasses.replace(layout, microbatches=1)
    if config.craft.mixout:
        trained = wrapping.mixed(config, task, trained, axes)
    if isinstance(config.peft, AdaLoRA):
        trained = allocation.penalised(config.peft, trained)
    return trained, stepped


@dataclasses.dataclass(frozen=True)
class _Birth:
    """How a fresh state is made; the fields are those of `Program`."""

    optimizer: optax.GradientTransformationExtraArgs
    frozen: Mapping[str, WithAxes]
    extra: Mapping[str, WithAxes]
    fresh: Callable[[jax.Array], State]
    abstract: State
    axes: State


def _birth(
    config: RunConfig,
    model: nn.Module,
    optimizer: optax.GradientTransformationExtraArgs | None,
    batch: Any,
    mesh: Mesh,
    frozen: Mapping[str, WithAxes],
    extra: Mapping[str, WithAxes],
    reference: bool,
) -> _Birth:
    """The trained weights' optimizer, and the state's shapes and axes."""
    shapes, axes = axes_lib.param_axes(model, batch)
    mesh_lib.check_axes(axes, batch, mesh)
    base = _check_base(config, frozen, shapes)
    names = flatten_dict(shapes, sep="/").keys() - base
    flat_axes = {k: v for k, v in flatten_dict(axes, sep="/").items() if k in names}
    kept = frozen_lib.matching(config.optimizer.freeze, names)
    kept |= adapted.frozen(config.peft, flat_axes)
    trained_axes, _ = frozen_lib.split(axes, kept | base)
    _, kept_axes = frozen_lib.split(axes, kept)
    optimizer = of_run.make(config, optimizer, trained_axes)
    if craft.keeps_average(config):
        trained, _ = frozen_lib.split(shapes, kept | base)
        extra = {**extra, PROXIMAL: wrapping.average(trained, trained_axes)}
    fresh = functools.partial(
        state_lib.initial,
        model,
        optimizer,
        batch,
        masters=config.layout.precision.masters,
        frozen=kept,
        elsewhere=base,
        reference=reference,
    )
    born = jax.eval_shape(fresh, jax.random.key(0))
    born_axes = state_lib.state_axes(born, trained_axes, kept_axes)
    abstract = state_lib.joined(born, _shapes(frozen), _shapes(extra))
    all_axes = state_lib.joined(born_axes, _axes(frozen), _axes(extra))
    return _Birth(optimizer, frozen, extra, fresh, abstract, all_axes)


def _checked(where: str, trees: Mapping[str, WithAxes]) -> dict[str, WithAxes]:
    return {name: tree.checked(f"{where}/{name}") for name, tree in trees.items()}


def _check_base(
    config: RunConfig, frozen: Mapping[str, WithAxes], shapes: Any
) -> set[str]:
    """Names of the model's weights that a caller gave, which must fit the model."""
    if frozen_lib.PARAMS not in frozen:
        return set()
    frozen_lib.check_params(frozen[frozen_lib.PARAMS].values, shapes)
    if not isinstance(config.init, Scratch):
        raise ValueError(
            f"config key 'init.kind' is {config.init.kind!r} and frozen['params'] has "
            "weights of the model too; set it to 'scratch', or load them into one tree"
        )
    return _names(frozen)


def _names(frozen: Mapping[str, WithAxes]) -> set[str]:
    """Names of the model's own weights in a caller's trees."""
    base = frozen.get(frozen_lib.PARAMS)
    return set() if base is None else set(flatten_dict(base.values, sep="/"))


def _shapes(trees: Mapping[str, WithAxes]) -> dict[str, Any]:
    return {name: tree.shapes for name, tree in trees.items()}


def _axes(trees: Mapping[str, WithAxes]) -> dict[str, Any]:
    return {name: tree.axes for name, tree in trees.items()}


# Prefix of the options that only the compiler for these devices knows.
_OWN_OPTIONS = {"tpu": "xla_tpu_", "gpu": "xla_gpu_"}


def _compiler_options(layout: LayoutConfig, device: Any) -> dict[str, Any] | None:
    """XLA's of `layout.compiler_options` for such a device; None on CPUs."""
    platform = device.platform
    if platform not in _OWN_OPTIONS:
        return None
    others = tuple(set(_OWN_OPTIONS.values()) - {_OWN_OPTIONS[platform]})
    pairs = (option.partition("=") for option in layout.compiler_options)
    switches = {"true": True, "false": False}  # XLA knows no word for either
    return {
        name: switches.get(value.lower(), value)
        for name, _, value in pairs
        if not name.startswith(others)
    }


def _check(config: RunConfig, mesh: Mesh) -> None:
    """Raises ValueError where the run does not fit the mesh."""
    quantized.check(config.layout.quantization)
    for size, T in Curriculum(config.data).shapes():
        mesh_lib.check_batch(size, T, config.layout.microbatches, mesh)
        sequence.check(config.layout, T, mesh)
        rows = size // config.layout.microbatches
        pipeline.check(config.model, config.layout, rows, mesh)


def _place(on_batch: Any, mesh: Mesh, rows: HostBatch) -> Any:
    """This process's share of the rows, as a part of the global batch."""
    shares = distributed.share(mesh)[1]
    return {
        k: jax.make_array_from_process_local_data(
            on_batch[k], v, (shares * len(v), *v.shape[1:])
        )
        for k, v in rows.items()
    }
