"""A forward pass of a model that may have routers, and what they add to a loss."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import Mixture, ModelConfig
from llmjax.models.experts.mixture import STATISTICS, RouterSums, router_loss
from llmjax.tasks.task import Batch, Metrics, Params, rngs


def forward(
    model: nn.Module,
    params: Params,
    batch: Batch,
    rng: jax.Array | None,
    method: str = "outputs",
) -> tuple[Any, Any]:
    """What `model.method(batch)` gives, and the sums of its routers (empty: none)."""
    out, sown = model.apply(
        {"params": params}, batch, rngs=rngs(rng), method=method, mutable=[STATISTICS]
    )
    return out, sown.get(STATISTICS, {})


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


def routed(
    model: Any, router: Any, total: jax.Array, count: jax.Array, metrics: Metrics
) -> tuple[jax.Array, Metrics]:
    """Total and metrics with the routers' loss, where the model has routers."""
    if not router:
        return total, metrics
    balance = routing_loss(model.cfg, router) * count
    return total + balance, {**metrics, "router_loss": (balance, count)}


def _mixture(cfg: ModelConfig, path: list[str]) -> Mixture:
    """The mixture at .../stack or encoder/group_g/layer_i/mlp/sums."""
    start = next(i for i, key in enumerate(path) if key.startswith("group_"))
    groups = cfg.encoder_layers if "encoder" in path[:start] else cfg.layers
    group = groups[int(path[start].removeprefix("group_"))]
    spec = group.pattern[int(path[start + 1].removeprefix("layer_"))]
    mlp, _ = cfg.layer_mlp(spec)
    assert isinstance(mlp, Mixture)
    return mlp
