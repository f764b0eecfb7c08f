"""AdaLoRA's ranks, allocated as a part of the optimizer's update.

Thus they can't be forgotten, and a run that is resumed goes on with the same ranks: the
averages and the entries that are kept lie in the optimizer's state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.config import AdaLoRA, RunConfig, ScheduleFree
from llmjax.config.checks import require
from llmjax.peft.adalora import Allocated

SCOPE = f"_{Allocated.name}"  # the end of the scopes of its weights

Leaves = dict[tuple[str, ...], Any]
# (params, frozen, extra, batch, rng) -> (sum, count, metrics, extra), as of a task
Loss = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any, Any]]


class Allocation(NamedTuple):
    """The state of `allocating`.

    Attributes:
      step: int32, updates done.
      importance, uncertainty: averages of |w g| of each weight of the adapters, and of
        how far it is from its average.
      kept: bool, the entries of each e that the last cut left.
      inner: of the optimizer.
    """

    step: Any
    importance: Any
    uncertainty: Any
    kept: Any
    inner: Any


def check(config: RunConfig) -> None:
    """Raises ValueError where AdaLoRA does not go with the rest of a run."""
    peft, steps, optimizer = config.peft, config.train.steps, config.optimizer
    if not isinstance(peft, AdaLoRA):
        return
    require(
        peft.initial_steps + peft.final_steps < steps,
        f"peft.initial_steps={peft.initial_steps} and final_steps={peft.final_steps} "
        f"leave none of train.steps={steps} for the ranks to fall; lower them",
    )
    averaged = optimizer.ema is not None and "optimizer.ema"
    if isinstance(optimizer.algorithm, ScheduleFree):
        averaged = "optimizer.algorithm 'schedule_free'"
    require(
        not averaged,
        f"peft.kind='adalora' cuts ranks, and {averaged} averages them with what they "
        "were before; leave one of them out",
    )


def allocating(
    peft: AdaLoRA, steps: int, optimizer: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose updates also cut entries of e, of all matrices together.

    Importance is that of the updated weights with the gradient that updated them. At
    step t, of `steps` in all, entries are cut until `budgets` of them are left: those
    of the lowest importance, and those equal to it. After the last cut those that are
    out stay at 0. As peft 0.21, whose count of steps begins at 1 here.

    Args:
      peft: its config.
      steps: of the run.
      optimizer: whose updates are masked.
    """
    end = steps - peft.final_steps

    def init(params: Any) -> Allocation:
        own = _own(params)
        importance, uncertainty = (
            unflatten_dict(_map(jnp.zeros_like, own)) for _ in range(2)
        )
        kept = {k: jnp.ones(x.shape, bool) for k, x in own.items() if k[-1] == "e"}
        state = optimizer.init(params)
        step = jnp.zeros((), jnp.int32)
        return Allocation(step, importance, uncertainty, unflatten_dict(kept), state)

    def update(
        grads: Any, state: Allocation, params: Any = None, **extra: Any
    ) -> tuple[Any, Allocation]:
        updates, inner = optimizer.update(grads, state.inner, params, **extra)
        step, old, slopes = state.step + 1, _own(params), _own(grads)
        flat = flatten_dict(updates)
        new = {name: old[name] + flat[name] for name in old}
        sensitivity = {k: jnp.abs(new[k] * slopes[k]) for k in new}
        counted = step < end
        importance = _average(counted, peft.beta1, state.importance, sensitivity)
        far = {k: jnp.abs(sensitivity[k] - importance[k]) for k in new}
        uncertainty = _average(counted, peft.beta2, state.uncertainty, far)
        scores = _scores(importance, uncertainty)
        budget, cuts = _due(peft, end, scores, step)
        last = flatten_dict(state.kept)
        best = _largest(scores, budget)
        kept = {k: jnp.where(cuts, best[k], last[k]) for k in scores}
        masked = cuts | (step > end)
        for name in scores:
            out = masked & ~kept[name]
            flat[name] = jnp.where(out, -old[name], flat[name])
        trees = [unflatten_dict(x) for x in (importance, uncertainty, kept)]
        new_state = Allocation(step, trees[0], trees[1], trees[2], inner)
        return unflatten_dict(flat), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def budgets(peft: AdaLoRA, end: int, matrices: int) -> np.ndarray:
    """The ranks of all matrices together after each step from 0 to `end`, [end + 1].

    `rank` each up to `initial_steps`; then target + (first - target) c³, c falling from
    1 to 0 in a line, rounded down.
    """
    first, target = peft.rank * matrices, peft.target_rank * matrices
    start = peft.initial_steps

    def of(step: int) -> int:
        share = 1 - (step - start) / (end - start)
        return int((first - target) * share**3 + target)

    return np.array([first if t <= start else of(t) for t in range(end + 1)])


def _due(
    peft: AdaLoRA, end: int, scores: Leaves, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The budget of a step, and whether it cuts."""
    total = sum(score.size for score in scores.values())
    falling = budgets(peft, end, total // peft.rank)
    # a constant as long as the ranks that fall, not as the run
    drops = np.repeat(np.arange(1, end + 1), -np.diff(falling)).astype(np.int32)
    budget = total - jnp.searchsorted(jnp.asarray(drops), step, side="right")
    within = (step > peft.initial_steps) & (step < end)
    return budget, (step == end) | (within & (step % peft.interval == 0))


def _scores(importance: Leaves, uncertainty: Leaves) -> Leaves:
    """The score of each entry of e: its own, and the means of its column and row."""
    own = {k: importance[k] * uncertainty[k] for k in importance}
    scores = {}
    for name, score in own.items():
        if name[-1] == "e":
            a, b = own[*name[:-1], "a"], own[*name[:-1], "b"]
            lead = score.ndim - 1
            inner, outer = range(lead, a.ndim - 1), range(lead + 1, b.ndim)
            scores[name] = score + a.mean(tuple(inner)) + b.mean(tuple(outer))
    return scores


def _largest(scores: Leaves, budget: jax.Array) -> Leaves:
    """Which entries are above the largest of those that have to go."""
    ordered = jnp.sort(jnp.concatenate([score.ravel() for score in scores.values()]))
    threshold = ordered[len(ordered) - budget - 1]
    return _map(lambda score: score > threshold, scores)


def _average(counted: jax.Array, beta: float, tree: Any, new: Leaves) -> Leaves:
    old = flatten_dict(tree)
    mixed = {k: beta * old[k] + (1 - beta) * new[k] for k in new}
    return {k: jnp.where(counted, mixed[k], old[k]) for k in new}


def penalised(peft: AdaLoRA, loss: Loss) -> Loss:
    """A loss with `orthogonality` times `skewness` for each of its count."""

    def wrapped(
        params: Any, frozen: Any, extra: Any, batch: Any, rng: Any
    ) -> tuple[Any, Any, Any, Any]:
        total, count, metrics, extra = loss(params, frozen, extra, batch, rng)
        total += peft.orthogonality * skewness(params) * count
        return total, count, metrics, extra

    return wrapped if peft.orthogonality else loss


def skewness(params: Any) -> jax.Array:
    """The mean of |AᵀA - I| and |B Bᵀ - I| over all matrices."""
    own, distances = _own(params), []
    for name, e in own.items():
        if name[-1] != "e":
            continue
        lead, rank = e.shape[:-1], e.shape[-1]
        a = own[*name[:-1], "a"].astype(jnp.float32).reshape(*lead, -1, rank)
        b = own[*name[:-1], "b"].astype(jnp.float32).reshape(*lead, rank, -1)
        for equation, factor in (("...ir,...is->...rs", a), ("...ro,...so->...rs", b)):
            gram = jnp.einsum(equation, factor, factor) - jnp.eye(rank)
            distances.append(jnp.sqrt(jnp.square(gram).sum((-2, -1))).ravel())
    return jnp.concatenate(distances).mean()


def _own(tree: Any) -> Leaves:
    """The leaves of adapters, by path."""
    flat = flatten_dict(tree)
    return {k: x for k, x in flat.items() if k[-2:-1] and k[-2].endswith(SCOPE)}


def _map(function: Callable[..., Any], leaves: Leaves) -> Leaves:
    return {name: function(leaf) for name, leaf in leaves.items()}
