"""The losses of a model's routers beside a task's own."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import Mixture, ModelConfig
from llmjax.models.experts.mixture import RouterSums, router_loss
from llmjax.models.forward import forward
from llmjax.tasks.task import Metrics, Outputs


@flax.struct.dataclass
class Routed:
    """Outputs of a model's method, and its routers' loss.

    Attributes:
      head: any tree.
      router_loss: float32 scalar, per counted item; None: the model has no routers.
    """

    head: Any
    router_loss: jax.Array | None = None


def routed(model: Any, method: str = "__call__") -> Outputs:
    """`Task.outputs` as `Routed`: one method of the model, applied to the batch."""

    def outputs(variables, batch, rng):
        head, sums = forward(model, variables, batch, rng=rng, method=method)
        return Routed(head, routing_loss(model.cfg, sums) if sums else None)

    return outputs


def with_routing(
    outputs: Routed, total: jax.Array, count: jax.Array, metrics: Metrics
) -> tuple[jax.Array, jax.Array, Metrics]:
    """A score with the routers' loss, once per counted item, and its metric."""
    if outputs.router_loss is None:
        return total, count, metrics
    balance = outputs.router_loss * count
    return total + balance, count, {**metrics, "router_loss": (balance, count)}


def routing_loss(cfg: ModelConfig, sums: Any) -> jax.Array:
    """The routers' losses, summed over layers; see `router_loss`."""
    total = jnp.zeros((), jnp.float32)
    leaves = jax.tree_util.tree_leaves_with_path(
        sums, is_leaf=lambda x: isinstance(x, RouterSums)
    )
    for path, layer in leaves:
        mlp = _mixture(cfg, [str(p.key) for p in path])
        total += jnp.sum(router_loss(mlp, layer))
    return total


def _mixture(cfg: ModelConfig, path: list[str]) -> Mixture:
    """The mixture at .../stack or encoder/group_g/layer_i/mlp/sums."""
    start = next(i for i, key in enumerate(path) if key.startswith("group_"))
    groups = cfg.encoder_layers if "encoder" in path[:start] else cfg.layers
    group = groups[int(path[start].removeprefix("group_"))]
    spec = group.pattern[int(path[start + 1].removeprefix("layer_"))]
    mlp, _ = cfg.layer_mlp(spec)
    assert isinstance(mlp, Mixture)
    return mlp
