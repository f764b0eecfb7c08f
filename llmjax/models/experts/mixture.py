"""Mixtures of experts: the router, its statistics, and its auxiliary loss."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import (
    BalanceBias,
    BalanceLoss,
    LayoutConfig,
    Mixture,
    ModelConfig,
    SigmoidRouter,
)
from llmjax.models.activations import record
from llmjax.models.experts.dispatch import Experts
from llmjax.models.layers import FeedForward, Projection

STATISTICS = "router"  # the collection of `RouterSums` that a forward may give


@flax.struct.dataclass
class RouterSums:
    """A layer's router statistics over all real tokens: sums, to add up over batches.

    Attributes:
      load_E: how many choices each expert got.
      probability_E: of each expert.
      log_normalizer: of the squared logsumexp of the logits.
      tokens: how many there are.
      balance_E: the bias of the choice, where there is one.
    """

    load_E: Any
    probability_E: Any
    log_normalizer: Any
    tokens: Any
    balance_E: Any = None


class MixtureOfExperts(nn.Module):
    """The block's second half where it is a mixture.

    Sows one `RouterSums` where the collection `STATISTICS` is mutable.
    """

    cfg: ModelConfig
    layout: LayoutConfig
    mlp: Mixture

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segments_BT: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, D]; tokens of segment 0 are padding: uncounted, they take no place."""
        mlp = self.mlp
        B, T, _ = x_BTD.shape
        real_BT = jnp.ones((B, T), bool) if segments_BT is None else segments_BT > 0
        chosen_BTk, weight_BTk = self._route(x_BTD, real_BT)
        experts = Experts(self.cfg, self.layout, mlp, name="experts")
        y_BTD = experts(x_BTD, chosen_BTk, weight_BTk.astype(x_BTD.dtype), real_BT)
        if mlp.shared_d_ff:
            shared = FeedForward(
                self.cfg, self.layout, mlp.expert, mlp.shared_d_ff, name="shared"
            )
            s_BTD = shared(x_BTD)
            if mlp.shared_gate:
                gate_BT1 = jax.nn.sigmoid(self._router(x_BTD, "shared_gate", 1))
                s_BTD = s_BTD * gate_BT1.astype(s_BTD.dtype)
            y_BTD = y_BTD + s_BTD
        return y_BTD

    def _router(self, x_BTD: jax.Array, name: str, count: int) -> jax.Array:
        """`count` logits of each token."""
        router = Router(
            "BTD,DE->BTE",
            (self.cfg.d_model, count),
            ("D", "E_vector"),
            self.cfg.init_std,
            bias=int(self.cfg.biases in ("all", "mlp")),
            dtype=jnp.promote_types(x_BTD.dtype, jnp.float32),
            name=name,
        )
        return router(x_BTD)

    def _route(
        self, x_BTD: jax.Array, real_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The experts of each token and their weights, both [B, T, top_k]."""
        mlp = self.mlp
        logits_BTE = self._router(x_BTD, "router", mlp.num_experts)
        record(self, "router_logits", logits_BTE)
        sigmoid = isinstance(mlp.router, SigmoidRouter)
        score_BTE = jax.nn.sigmoid(logits_BTE) if sigmoid else nn.softmax(logits_BTE)
        balance_E: Any = None
        if isinstance(mlp.balance, BalanceBias):
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("E_balance",))
            balance_E = self.param("balance", zeros, (mlp.num_experts,))
        chosen_BTk, weight_BTk = choose(mlp, score_BTE, balance_E)
        one_hot = jax.nn.one_hot(chosen_BTk, mlp.num_experts) * real_BT[..., None, None]
        total = score_BTE.sum(axis=-1, keepdims=True) if sigmoid else 1.0
        squared_BT = jax.nn.logsumexp(logits_BTE, axis=-1) ** 2
        sums = RouterSums(
            load_E=jnp.sum(one_hot, axis=(0, 1, 2)),
            probability_E=jnp.sum(score_BTE / total * real_BT[..., None], axis=(0, 1)),
            log_normalizer=jnp.sum(squared_BT * real_BT),
            tokens=jnp.sum(real_BT),
            balance_E=balance_E,
        )
        self.sow(STATISTICS, "sums", sums, reduce_fn=lambda _, new: new, init_fn=tuple)
        return chosen_BTk, weight_BTk


class Router(Projection):
    """Logits of experts, wide and never rounded."""

    @property
    def contracted(self) -> tuple[int, ...]:
        return ()


def choose(
    mlp: Mixture, score_BTE: jax.Array, balance_E: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The top k experts by score + balance, and their weights from the score alone."""
    choice_BTE = score_BTE if balance_E is None else score_BTE + balance_E
    choice_BTE = jax.lax.stop_gradient(choice_BTE)
    router = mlp.router
    if isinstance(router, SigmoidRouter) and router.top_groups < router.groups:
        shape = (*choice_BTE.shape[:-1], router.groups, -1)
        grouped = choice_BTE.reshape(shape)
        best_2 = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0]
        group_scores = jnp.sum(best_2, axis=-1)
        best = jax.lax.top_k(group_scores, router.top_groups)[1]
        kept = jnp.any(jax.nn.one_hot(best, router.groups, dtype=bool), axis=-2)
        grouped = jnp.where(kept[..., None], grouped, -jnp.inf)
        choice_BTE = grouped.reshape(choice_BTE.shape)
    chosen_BTk = jax.lax.top_k(choice_BTE, mlp.top_k)[1]
    weight_BTk = jnp.take_along_axis(score_BTE, chosen_BTk, axis=-1)
    if router.normalize:
        total = jnp.sum(weight_BTk, axis=-1, keepdims=True)
        weight_BTk = weight_BTk / (total + 1e-20)
    return chosen_BTk, weight_BTk * getattr(router, "scale", 1.0)


def router_loss(mlp: Mixture, sums: RouterSums) -> jax.Array:
    """The auxiliary loss of one layer's router; leaves may have leading axes.

    E * sum(share of choices * mean probability) and the z loss, weighted; a balance
    bias gives 0 whose gradient is -rate * sign(its load's lack), for plain descent.
    Neither is linear in its sums: of several microbatches the gradients are averaged.
    """
    tokens = jnp.maximum(sums.tokens, 1)
    loss = mlp.z_loss * sums.log_normalizer / tokens
    load_E = jax.lax.stop_gradient(sums.load_E) * mlp.num_experts
    fair = tokens[..., None] * mlp.top_k
    if isinstance(mlp.balance, BalanceLoss):
        probability_E = sums.probability_E / tokens[..., None]
        balance = jnp.sum(load_E / fair * probability_E, axis=-1)
        return loss + mlp.balance.weight * balance
    move_E = mlp.balance.rate * jnp.sign(fair - load_E)
    zero_E = sums.balance_E - jax.lax.stop_gradient(sums.balance_E)
    return loss - jnp.sum(move_E * zero_E, axis=-1)
