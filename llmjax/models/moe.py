"""Mixtures of experts: the router, and experts with and without a capacity."""

import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from llmjax.config import (
    BalanceBias,
    BalanceLoss,
    Capacity,
    LayoutConfig,
    Mixture,
    ModelConfig,
    Plain,
    SigmoidRouter,
)
from llmjax.models.layers import FeedForward, compute_dtype, hidden, residual_std

STATISTICS = "router"  # the collection of `RouterSums` that a forward may give


@flax.struct.dataclass
class RouterSums:
    """Of one layer over all real tokens; sums, so that they add up over batches.

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
            y_BTD = y_BTD + shared(x_BTD)
        return y_BTD

    def _route(
        self, x_BTD: jax.Array, real_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Which experts each token goes to, and with what weights, [B, T, top_k]."""
        mlp, cfg = self.mlp, self.cfg
        bias = cfg.biases in ("all", "mlp")
        logits_BTE = Router(mlp.num_experts, cfg.init_std, bias, name="router")(x_BTD)
        sigmoid = isinstance(mlp.router, SigmoidRouter)
        score_BTE = jax.nn.sigmoid(logits_BTE) if sigmoid else nn.softmax(logits_BTE)
        balance_E: Any = None
        if isinstance(mlp.balance, BalanceBias):
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("E_vector",))
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


class Router(nn.Module):
    """Float32 logits [B, T, E], whatever the precision of the rest."""

    num_experts: int
    std: float
    bias: bool

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(
            nn.initializers.normal(self.std), ("D", "E_vector")
        )
        kernel_DE: Any = self.param("kernel", init, (x_BTD.shape[-1], self.num_experts))
        logits_BTE = jnp.einsum(
            "BTD,DE->BTE", x_BTD.astype(jnp.float32), kernel_DE.astype(jnp.float32)
        )
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("E_vector",))
            bias_E: Any = self.param("bias", zeros, (self.num_experts,))
            logits_BTE += bias_E
        return logits_BTE


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


class Experts(nn.Module):
    """E MLPs in three stacked kernels, and how tokens get to them and back."""

    cfg: ModelConfig
    layout: LayoutConfig
    mlp: Mixture

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        chosen_BTk: jax.Array,
        weight_BTk: jax.Array,
        real_BT: jax.Array,
    ) -> jax.Array:
        cfg, mlp = self.cfg, self.mlp
        dtype = compute_dtype(self.layout)
        bias = cfg.biases in ("all", "mlp")
        D, F = cfg.d_model, mlp.d_ff

        def projection(name, sizes, axes, std):
            shape = (mlp.num_experts, *sizes)
            return ExpertProjection(shape, ("E", *axes), std, bias, dtype, name=name)

        names = ("up",) if isinstance(mlp.expert, Plain) else ("gate", "up")
        into = {n: projection(n, (D, F), ("D", "F"), cfg.init_std) for n in names}
        down = projection("down", (F, D), ("F", "D"), residual_std(cfg))

        def expert(x, where):
            h = hidden(mlp.expert, lambda name: into[name](x, where))
            return down(h, where)

        if isinstance(mlp.dispatch, Capacity):
            C = math.ceil(mlp.dispatch.factor * x_BTD.shape[1] * mlp.top_k)
            C = max(1, C // mlp.num_experts)
            place = places(chosen_BTk, real_BT, mlp.num_experts, C)
            x_BECD = jnp.einsum("BTkEC,BTD->BECD", place.astype(dtype), x_BTD)
            y_BECD = expert(x_BECD, None)
            combine = jnp.einsum("BTkEC,BTk->BTEC", place.astype(dtype), weight_BTk)
            return jnp.einsum("BTEC,BECD->BTD", combine, y_BECD)
        chosen_X = chosen_BTk.reshape(-1)
        order_X = jnp.argsort(chosen_X)
        sizes_E = jnp.bincount(chosen_X, length=mlp.num_experts)
        x_XD = x_BTD.reshape(-1, D)[order_X // mlp.top_k]
        y_XD = expert(x_XD, (sizes_E, chosen_X[order_X]))
        y_XD = jnp.zeros_like(y_XD).at[order_X].set(y_XD, unique_indices=True)
        return jnp.einsum(
            "BTkD,BTk->BTD", y_XD.reshape(*chosen_BTk.shape, D), weight_BTk
        )


class ExpertProjection(nn.Module):
    """One kernel [E, in, out] and bias [E, out] of all experts."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float
    bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, sorted_by: tuple[jax.Array, jax.Array] | None
    ) -> jax.Array:
        """[X, in] sorted by expert (counts [E], each row's [X]), or [B, E, C, in]."""
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), self.axes)
        kernel: Any = self.param("kernel", init, self.shape)
        kernel = kernel.astype(self.dtype)
        offset = None
        if self.bias:
            axes = (self.axes[0], "D_vector" if self.axes[2] == "D" else self.axes[2])
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes)
            param: Any = self.param("bias", zeros, (self.shape[0], self.shape[2]))
            offset = param.astype(self.dtype)
        if sorted_by is None:
            y = jnp.einsum("BECI,EIO->BECO", x, kernel)
            return y if offset is None else y + offset[:, None]
        sizes_E, expert_X = sorted_by
        y = jax.lax.ragged_dot(x.astype(self.dtype), kernel, sizes_E.astype(jnp.int32))
        return y if offset is None else y + offset[expert_X]


def places(
    chosen_BTk: jax.Array, real_BT: jax.Array, num_experts: int, capacity: int
) -> jax.Array:
    """Bool [B, T, k, E, C]: which place of which expert a token's choice takes, if any.

    First choices come before second ones, earlier tokens before later ones.
    """
    B, T, k = chosen_BTk.shape
    wants = jax.nn.one_hot(chosen_BTk, num_experts, dtype=jnp.int32)
    wants = wants * real_BT[..., None, None]
    by_choice = jnp.swapaxes(wants, 1, 2).reshape(B, k * T, num_experts)
    before = jnp.cumsum(by_choice, axis=1) - by_choice
    before = jnp.swapaxes(before.reshape(B, k, T, num_experts), 1, 2)
    at = jnp.where(wants > 0, before, capacity)
    return at[..., None] == jnp.arange(capacity)


def router_loss(mlp: Mixture, sums: RouterSums) -> jax.Array:
    """What training adds for one layer's router; leaves may have leading axes.

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
