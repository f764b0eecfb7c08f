"""Leaves of the Transformer: the one projection, norms, the two feed-forwards."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import LayerNorm, LayoutConfig, ModelConfig, RMSNorm

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "relu_squared": lambda x: jnp.square(nn.relu(x)),
}


def compute_dtype(layout: LayoutConfig) -> jnp.dtype:
    """The type of activations and matmuls; master weights are always float32."""
    return jnp.dtype(layout.precision)


class Projection(nn.Module):
    """einsum(equation, x, kernel) + bias: every matrix of a model goes through here.

    Attributes:
      equation: e.g. "BTD,DNH->BTNH", in the letters of `llmjax.parallel.axes`.
      shape, axes: the kernel's sizes and logical axes, in the equation's order.
      bias: how many of the kernel's last axes a bias spans; 0 for none.
      std: of the normal initialiser.
      dtype: of the multiplication; the parameters are float32.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float
    bias: int = 0
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), self.axes)
        kernel: Any = self.param("kernel", init, self.shape)
        y = jnp.einsum(self.equation, x.astype(self.dtype), kernel.astype(self.dtype))
        if self.bias:
            axes = tuple("D_vector" if a == "D" else a for a in self.axes[-self.bias :])
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes)
            bias: Any = self.param("bias", zeros, self.shape[-self.bias :])
            y = y + bias.astype(self.dtype)
        return y


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, in float32; returns x's dtype."""

    norm: LayerNorm | RMSNorm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def vector(name, init):
            boxed = nn.with_logical_partitioning(init, ("D_vector",))
            return self.param(name, boxed, x.shape[-1:])

        scale = vector("scale", nn.initializers.ones)
        if isinstance(self.norm, RMSNorm):
            return rms_norm(x, scale, self.norm.epsilon)
        bias = vector("bias", nn.initializers.zeros)
        return layer_norm(x, scale, bias, self.norm.epsilon)


def rms_norm(x: jax.Array, scale_D: jax.Array, epsilon: float) -> jax.Array:
    """x / rms(x) * scale over the last axis (Zhang & Sennrich 2019, eq. 4)."""
    x32 = x.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + epsilon)
    return (x32 * rms * scale_D).astype(x.dtype)


def layer_norm(
    x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float
) -> jax.Array:
    """(x - mean) / std * scale + bias over the last axis (Ba et al. 2016)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    std = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + epsilon)
    return (x32 * std * scale_D + bias_D).astype(x.dtype)


class FeedForward(nn.Module):
    """The block's second half: `Plain` or `Gated`."""

    cfg: ModelConfig
    layout: LayoutConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        bias = int(cfg.biases == "all")

        def into(name):
            shape, axes = (cfg.d_model, cfg.d_ff), ("D", "F")
            return Projection(
                "BTD,DF->BTF", shape, axes, cfg.init_std, bias, dtype, name=name
            )(x_BTD)

        act = ACTIVATIONS[cfg.mlp.activation]
        if cfg.mlp.kind == "gated":
            h_BTF = act(into("gate")) * into("up")
        else:
            h_BTF = act(into("up"))
        h_BTF = nn.with_logical_constraint(h_BTF, ("act_B", "act_T", "act_F"))
        return Projection(
            "BTF,FD->BTD",
            (cfg.d_ff, cfg.d_model),
            ("F", "D"),
            residual_std(cfg),
            bias,
            dtype,
            name="down",
        )(h_BTF)


def residual_std(cfg: ModelConfig) -> float:
    """Init of what is added to the residual: std / sqrt(2 L) (Radford et al. 2019)."""
    return cfg.init_std / (2 * cfg.L) ** 0.5
