"""The one way to apply a model: its variables, a batch, and what it sows."""

from typing import Any, Protocol, runtime_checkable

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax.models.experts.mixture import STATISTICS

REFERENCE = "reference"  # the model's weights as a run began, beside those it trains


@runtime_checkable
class Applicable(Protocol):
    """A Linen module, or a wrapper with the same `apply`."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """See `flax.linen.Module.apply`."""


def variables(params: Any, frozen: Any = None) -> dict[str, Any]:
    """Linen variables of a model whose weights are partly frozen.

    Args:
      params: the weights that are trained; a nested dict.
      frozen: of a `State`; its tree "params", if it has one, holds the rest of the
        model's weights. Its tree "reference" holds what `params` were at first, and
        becomes a collection of that name. Its other trees (a teacher's) are not the
        model's.
    """
    frozen = frozen or {}
    trees = {"params": params}
    if REFERENCE in frozen:
        trees[REFERENCE] = frozen[REFERENCE]
    if rest := frozen.get("params", {}):
        flat = flatten_dict(rest)
        return {
            name: unflatten_dict({**flat, **flatten_dict(tree)})
            for name, tree in trees.items()
        }
    return trees


def forward(
    model: Applicable,
    variables: Any,
    *arguments: Any,
    rng: jax.Array | None = None,
    method: str = "__call__",
) -> tuple[Any, Any]:
    """Applies `model.method` to a batch, and whatever else it takes.

    Args:
      model: of `llmjax.models`, or like it.
      variables: as `variables` gives them.
      arguments: of the method, the batch first.
      rng: of dropout, which is off without one.
      method: of the model.

    Returns:
      The method's result, and the sums of the model's routers ({}: it has none).
    """
    rngs = {} if rng is None else {"dropout": rng}
    out, sown = model.apply(
        variables, *arguments, rngs=rngs, method=method, mutable=[STATISTICS]
    )
    return out, sown.get(STATISTICS, {})
