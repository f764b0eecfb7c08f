"""One optax chain from an `OptimizerConfig`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
import optax.contrib

from llmjax.config import (
    Constant,
    Float16,
    Lamb,
    Mixture,
    OptimizerConfig,
    RunConfig,
    ScheduleFree,
    Sophia,
    SplashAttention,
    WarmupCosine,
)
from llmjax.train.optimizers import algorithms, roles
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
      after: more of the chain, before the average.
    """
    chain = _update(config, schedule(config, steps), axes)
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


def _update(
    config: OptimizerConfig, rate: Callable[[Any], jax.Array], axes: Any
) -> list[optax.GradientTransformation]:
    """Algorithm, decay and learning rate, in the order of the algorithm's paper."""
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
        return [sophia]
    chain = [algorithms.make(kind, axes)]
    if config.weight_decay:
        chain.append(optax.add_decayed_weights(config.weight_decay, mask))
    if isinstance(kind, Lamb):
        chain.append(algorithms.per_layer(optax.scale_by_trust_ratio(), axes))
    chain.append(optax.scale_by_learning_rate(rate))
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
