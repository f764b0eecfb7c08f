"""One optax chain from an `OptimizerConfig`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
import optax.contrib

from llmjax.config import (
    Checkpoint,
    Constant,
    Float16,
    Lamb,
    Mixture,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleFree,
    Sophia,
    SplashAttention,
    WarmupCosine,
)
from llmjax.train.optimizers import algorithms, layers, roles
from llmjax.train.optimizers.averages import average_weights
from llmjax.train.optimizers.averages import averaged as averaged

BALANCE = "balance"  # the part of the weights that moves by its gradient alone


def schedule(config: OptimizerConfig, steps: int) -> Callable[[Any], jax.Array]:
    """Learning rate of the update that follows `step` updates, of `steps` in all.

    Warm-up reaches the peak after `warmup_steps` updates and begins above zero.
    """
    kind, peak = config.schedule, config.learning_rate
    warmup = min(kind.warmup_steps, steps)
    decay_steps = max(steps - warmup, 1)
    if isinstance(kind, Constant):
        after = optax.constant_schedule(peak)
    elif isinstance(kind, WarmupCosine):
        after = optax.cosine_decay_schedule(peak, decay_steps, kind.final)
    else:
        after = optax.linear_schedule(peak, peak * kind.final, decay_steps)
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def check_length(config: OptimizerConfig, steps: int) -> None:
    """Raises ValueError where a run of `steps` ends before its warm-up."""
    warmup = config.schedule.warmup_steps
    if warmup > steps:
        raise ValueError(
            f"optimizer.schedule.warmup_steps={warmup} exceeds train.steps={steps}, so "
            "the learning rate would never reach its peak; lower it, or train longer"
        )


def make(
    config: OptimizerConfig,
    steps: int,
    axes: Any,
    model: ModelConfig | None = None,
    after: Sequence[optax.GradientTransformation] = (),
) -> optax.GradientTransformationExtraArgs:
    """Clip, algorithm, decay, learning rate, average of the weights: one chain.

    Routers' balances (axis `E_balance`) stand apart: their gradient is their move
    (`router_loss`), they take p - g, and no norm counts them. With `Sophia`, `update`
    needs `obj_fn`: the mean loss as a function of the weights alone.

    Args:
      config: what to chain.
      steps: of the whole run, for the schedule.
      axes: the logical axes of every weight; leaves stacked over `L` are handled layer
        by layer wherever an algorithm looks at a leaf as a whole.
      model: whose weights they are, for rates that differ between layers.
      after: more of the chain, before the average.

    Raises:
      ValueError: rates differ between layers, and none of them is trained.
    """
    rate = schedule(config, steps)
    chain = _update(config, rate, axes, _apart(config, rate, axes, model))
    if config.clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    leaves = jax.tree.leaves(axes, is_leaf=algorithms.is_axes)
    if any(map(roles.moves_by_its_gradient, leaves)):
        alone = algorithms.mark(roles.moves_by_its_gradient, axes)
        parts = {"weights": optax.chain(*chain), BALANCE: optax.scale(-1.0)}
        chain = [optax.partition(parts, functools.partial(_parts, alone))]
    chain += after
    if config.ema is not None:
        chain.append(average_weights(config.ema))
    return optax.with_extra_args_support(optax.chain(*chain))


def check(run: RunConfig) -> None:
    """Raises ValueError where the algorithm does not go with the rest of a run."""
    config, layout = run.optimizer, run.layout
    _check_layers(run)
    if isinstance(config.algorithm, ScheduleFree):
        if not isinstance(config.schedule, Constant):
            raise ValueError(
                "optimizer.algorithm is 'schedule_free' and optimizer.schedule "
                f"{config.schedule.kind!r}; it averages where others decay: set "
                "optimizer.schedule.kind='constant'"
            )
        if config.ema is not None:
            raise ValueError(
                "optimizer.algorithm is 'schedule_free' and optimizer.ema "
                f"{config.ema}; it has an average of its own: set optimizer.ema=None"
            )
    if isinstance(config.algorithm, Sophia):
        specs = [spec for group in run.model.layers for spec in group.pattern]
        twice = "Sophia differentiates the loss twice"
        problem = None
        if isinstance(layout.precision, Float16):
            problem = "layout.precision.kind is 'float16', which scales it once"
        elif isinstance(layout.attention, SplashAttention):
            problem = "layout.attention.kind is 'splash', a kernel with one derivative"
        elif any(isinstance(run.model.layer_mlp(s)[0], Mixture) for s in specs):
            problem = "model.mlp is a mixture, whose exchange has one derivative"
        if problem:
            raise ValueError(
                f"optimizer.algorithm is 'sophia' and {problem}; {twice}: change one "
                "of them"
            )


def _check_layers(run: RunConfig) -> None:
    """Raises ValueError where what tells layers apart does not go with the run."""
    config, every = run.optimizer, run.optimizer.unfreeze_every
    if config.start_decay and not isinstance(run.init, Checkpoint):
        raise ValueError(
            f"optimizer.start_decay={config.start_decay} leads back to the weights "
            "that a run begins with, and init.kind='scratch' draws them at random; "
            "give init.path, or set it to 0"
        )
    if config.layer_decay < 1:
        layers.check(run.model, f"optimizer.layer_decay={config.layer_decay}")
    if every is None:
        return
    layers.check(run.model, f"optimizer.unfreeze_every={every}")
    if isinstance(config.algorithm, ScheduleFree):
        raise ValueError(
            f"optimizer.unfreeze_every={every} holds weights still, and optimizer."
            "algorithm.kind='schedule_free' moves its averages; choose another"
        )
    two = run.model.architecture == "encoder_decoder"
    groups = (*run.model.layers, *(run.model.encoder_layers if two else ()))
    count = sum(group.repeat * len(group.pattern) for group in groups)
    if every * (count + 1) >= run.train.steps:
        raise ValueError(
            f"optimizer.unfreeze_every={every} trains the embeddings from update "
            f"{every * (count + 1)} on, below {count} layers, and train.steps="
            f"{run.train.steps} ends before; lower it to "
            f"{max((run.train.steps - 1) // (count + 1), 1)}, or name what stays as it "
            "is in optimizer.freeze"
        )


def _apart(
    config: OptimizerConfig,
    rate: Callable[[Any], jax.Array],
    axes: Any,
    model: ModelConfig | None,
) -> list[optax.GradientTransformation]:
    """What changes a finished update: by its layer, and towards the first weights."""
    chain = []
    if config.start_decay:
        chain.append(layers.decay_to_start(rate, config.start_decay, axes))
    if config.layer_decay < 1 or config.unfreeze_every is not None:
        assert model is not None, "rates of layers need the model"
        below = layers.distances(axes, model)
        if not any(distance.any() for distance in below.values()):
            raise ValueError(
                "optimizer.layer_decay and optimizer.unfreeze_every tell layers apart, "
                "and all of them are frozen; leave them out, or train some by "
                "optimizer.freeze or peft"
            )
        chain.append(layers.by_layer(below, config.layer_decay, config.unfreeze_every))
    return chain


def _update(
    config: OptimizerConfig,
    rate: Callable[[Any], jax.Array],
    axes: Any,
    apart: list[optax.GradientTransformation],
) -> list[optax.GradientTransformation]:
    """Algorithm, decay and learning rate, in the order of the algorithm's paper, then
    `apart`."""
    kind = config.algorithm
    mask = decayed(axes) if config.decay == "matrices" else None
    if isinstance(kind, Sophia):
        sophia = optax.contrib.sophia(
            rate,
            kind.b1,
            kind.b2,
            kind.eps,
            config.weight_decay,
            mask,
            kind.gamma,
            update_interval=kind.interval,
        )
        return [sophia, *apart]
    chain = [algorithms.make(kind, axes)]
    if config.weight_decay:
        chain.append(optax.add_decayed_weights(config.weight_decay, mask))
    if isinstance(kind, Lamb):
        chain.append(algorithms.per_layer(optax.scale_by_trust_ratio(), axes))
    chain += [optax.scale_by_learning_rate(rate), *apart]
    if isinstance(kind, ScheduleFree):
        base = optax.chain(*chain)
        # optax counts this rate's updates from 1, and its base's from 0
        weight = functools.partial(_before, rate)
        return [optax.contrib.schedule_free(base, weight, kind.b1)]
    return chain


def _before(rate: Callable[[Any], Any], count: Any) -> Any:
    return rate(count - 1)


def decayed(axes: Any) -> Callable[[Any], Any]:
    """Params -> True for those that decay: kernels and tables, no bias nor scale."""
    return algorithms.mark(lambda leaf_axes: not roles.is_vector(leaf_axes), axes)


def _parts(alone: Callable[[Any], Any], params: Any) -> Any:
    return jax.tree.map(lambda mark: BALANCE if mark else "weights", alone(params))
