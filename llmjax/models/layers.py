"""Leaves of the Transformer: the one projection, norms, the two feed-forwards."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import (
    ClampedGated,
    Gated,
    LayerNorm,
    LayoutConfig,
    ModelConfig,
    NoQuantization,
    Plain,
    Quantization,
    RMSNorm,
    ScaledDot,
)
from llmjax.models import quantized
from llmjax.models.remat import differentiated_once, named

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "relu_squared": lambda x: jnp.square(nn.relu(x)),
}


def compute_dtype(layout: LayoutConfig) -> jnp.dtype:
    """The type of activations and matmuls; master weights are always float32."""
    return jnp.dtype(layout.precision.dtype)


class Projection(nn.Module):
    """A matrix of a model, and the one way to it: einsum(equation, x, kernel) + bias.

    Every use of every matrix is one call of this class or a subclass: with `x` the
    product, without it the matrix, for a caller that multiplies on its own (lookups,
    experts, absorbed latent attention, a blocked loss). `flax.linen.intercept_methods`
    sees each with `context.module` a `Projection` and `context.method_name`
    "__call__". An interceptor may create parameters and submodules of
    `context.module`, under `nn.scan` and `nn.remat` too. It names them after
    `parameter`, because tables share the scope of their owner. Those of a submodule
    leave the matrix its initial bits, which depend on its scope's parameters.

    Attributes:
      equation: e.g. "BTD,DNH->BTNH", in the letters of `llmjax.parallel.axes`.
      shape, axes: the kernel's sizes and logical axes, in the equation's order.
      std: of the normal initialiser.
      bias: how many of the kernel's last axes a bias spans; 0 for none.
      dtype: of the multiplication; None: as stored.
      quantization: of the multiplication, `layout.quantization` inside layers.
      parameter: name of the kernel; `(*module.path, parameter)` is its leaf.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    std: float
    bias: int = 0
    dtype: jnp.dtype | None = jnp.dtype("float32")
    quantization: Quantization = NoQuantization()
    parameter: str = "kernel"

    @nn.compact
    def __call__(self, x: jax.Array | None = None) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.normal(self.std), self.axes)
        kernel: Any = self.param(self.parameter, init, self.shape)
        if self.dtype is not None:
            kernel = quantized.dense(kernel, self.dtype)
        if x is None:
            return kernel
        x = x.astype(kernel.dtype)
        y = quantized.einsum(self.quantization, self.equation, x, kernel)
        if not self.bias:
            return y
        axes = self.axes[-self.bias :]
        axes = tuple("D_vector" if a in ("D", "D_out") else a for a in axes)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes)
        bias: Any = self.param("bias", zeros, self.shape[-self.bias :])
        return y + bias.astype(kernel.dtype)

    @property
    def contracted(self) -> tuple[int, ...]:
        """The kernel's axes that are summed over; () keeps it from being rounded."""
        (_, axes), _ = quantized.dot_dimensions(self.equation)[0]
        return tuple(axes)


class Table(Projection):
    """A matrix of vectors to look up or score against, never rounded."""

    @property
    def contracted(self) -> tuple[int, ...]:
        return ()


def table(
    owner: nn.Module,
    name: str,
    equation: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    std: float,
) -> Any:
    """The matrix `name` of `owner`, as stored; once per `setup` or compact call."""
    scope: Any = owner.scope
    return Table(equation, shape, axes, std, 0, None, parameter=name, parent=scope)()


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the axes named, last ones, in float32.

    Returns x's dtype.
    """

    norm: LayerNorm | RMSNorm
    axes: tuple[str, ...] = ("D_vector",)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-len(self.axes) :]

        def vector(name, init):
            boxed = nn.with_logical_partitioning(init, self.axes)
            param: Any = self.param(name, boxed, shape)
            return param.reshape(-1)

        flat = x.reshape(*x.shape[: -len(shape)], -1)
        if isinstance(self.norm, RMSNorm):
            ones = nn.initializers.constant(1.0 - self.norm.offset)
            scale = vector("scale", ones).astype(jnp.float32) + self.norm.offset
            return rms_norm(flat, scale, self.norm.epsilon).reshape(x.shape)
        scale = vector("scale", nn.initializers.ones) if self.norm.scale else None
        bias = vector("bias", nn.initializers.zeros) if self.norm.bias else None
        return layer_norm(flat, scale, bias, self.norm.epsilon).reshape(x.shape)


def rms_norm(x: jax.Array, scale_D: jax.Array, epsilon: float) -> jax.Array:
    """x / rms(x) * scale over the last axis (Zhang & Sennrich 2019, eq. 4)."""
    x32 = x.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + epsilon)
    return (x32 * rms * scale_D).astype(x.dtype)


def layer_norm(
    x: jax.Array, scale_D: jax.Array | None, bias_D: jax.Array | None, epsilon: float
) -> jax.Array:
    """(x - mean) / std * scale + bias over the last axis (Ba et al. 2016)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    std = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + epsilon)
    y32 = x32 * std
    y32 = y32 if scale_D is None else y32 * scale_D
    return (y32 if bias_D is None else y32 + bias_D).astype(x.dtype)


def activated(
    mlp: Plain | Gated | ClampedGated, into: Callable[[str], jax.Array]
) -> jax.Array:
    """The input of `down`; `into` projects the MLP's input by the name of a kernel."""
    if isinstance(mlp, ClampedGated):
        gate = jnp.minimum(into("gate"), mlp.limit)
        up = jnp.clip(into("up"), -mlp.limit, mlp.limit)
        return gate * jax.nn.sigmoid(mlp.alpha * gate) * (up + 1)
    act = ACTIVATIONS[mlp.activation]
    if isinstance(mlp, Gated):
        return act(into("gate")) * into("up")
    return act(into("up"))


class FeedForward(nn.Module):
    """The block's second half where it is one MLP, of width F = `d_ff`."""

    cfg: ModelConfig
    layout: LayoutConfig
    mlp: Plain | Gated | ClampedGated
    d_ff: int

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg, dtype = self.cfg, compute_dtype(self.layout)
        how = self.layout.quantization
        bias = int(cfg.biases in ("all", "mlp"))

        def into(name):
            shape, axes = (cfg.d_model, self.d_ff), ("D", "F")
            projection = Projection(
                "BTD,DF->BTF", shape, axes, cfg.init_std, bias, dtype, how, name=name
            )
            return named(differentiated_once(projection(x_BTD)), name)

        h_BTF = activated(self.mlp, into)
        h_BTF = jax.lax.optimization_barrier(h_BTF)  # as above: it is read twice
        h_BTF = nn.with_logical_constraint(h_BTF, ("act_B", "act_T", "act_F"))
        down = Projection(
            "BTF,FD->BTD",
            (self.d_ff, cfg.d_model),
            ("F", "D"),
            residual_std(cfg),
            bias,
            dtype,
            how,
            name="down",
        )
        return named(down(h_BTF), "down")


def residual_std(cfg: ModelConfig) -> float:
    """Init of what is added to the residual: std / sqrt(2 L) (Radford et al. 2019)."""
    return cfg.init_std / (2 * cfg.L) ** 0.5


def score_scale(cfg: ModelConfig, size: int) -> float:
    """The factor of q.k for heads of `size`; 1 where scores are not scaled."""
    if not isinstance(cfg.scores, ScaledDot):
        return 1.0
    return size**-0.5 if cfg.scores.scale is None else cfg.scores.scale
