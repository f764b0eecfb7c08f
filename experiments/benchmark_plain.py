"""A training loop as flax's examples are written: what `benchmark --beside=plain` runs.

Flax's own layers, `jax.nn.dot_product_attention`, optax's cross entropy and AdamW, one
donated `jax.jit`; sizes, batch and optimizer are those of a config. It has nothing that
a mesh, a long text or a large vocabulary needs. Written after the examples of
https://github.com/google/flax/tree/main/examples (lm1b, gemma).
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from llmjax.config import (
    AdamW,
    Float32,
    Gated,
    LayerNorm,
    Learned,
    LinearHead,
    LossConfig,
    ModelConfig,
    NoQuantization,
    Plain,
    RMSNorm,
    Rotary,
    RunConfig,
    SingleLabel,
)
from llmjax.train.optimizers.optimizers import schedule

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}


class Attention(nn.Module):
    """Multi-head attention; fewer heads of keys and rotation where the config says."""

    cfg: ModelConfig
    causal: bool

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg, bias = self.cfg, self.cfg.biases == "all"
        H = cfg.d_model // cfg.num_heads

        def heads(count: int, name: str) -> jax.Array:
            return nn.DenseGeneral((count, H), use_bias=bias, name=name)(x_BTD)

        q = heads(cfg.num_heads, "query")
        k, v = (heads(cfg.K, name) for name in ("key", "value"))
        if isinstance(cfg.positions, Rotary):
            q, k = (rotate(x, cfg.positions.theta) for x in (q, k))
        o = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return nn.DenseGeneral(cfg.d_model, (-2, -1), use_bias=bias, name="out")(o)


def rotate(x_BTNH: jax.Array, base: float) -> jax.Array:
    """Rotary positions, halves paired (Su et al. 2021)."""
    _, T, _, H = x_BTNH.shape
    angles = jnp.arange(T)[:, None] * base ** (-jnp.arange(0, H, 2) / H)
    sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
    a, b = jnp.split(x_BTNH, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Model(nn.Module):
    """A decoder's logits of the next token, or an encoder's of a text's class."""

    cfg: ModelConfig
    num_classes: int | None

    @nn.compact
    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        cfg, bias = self.cfg, self.cfg.biases == "all"
        kind: Any = nn.RMSNorm if isinstance(cfg.norm, RMSNorm) else nn.LayerNorm
        norm = functools.partial(kind, epsilon=cfg.norm.epsilon)
        assert isinstance(cfg.mlp, Plain | Gated)
        act = ACTIVATIONS[cfg.mlp.activation]
        embed = nn.Embed(cfg.vocab_size, cfg.d_model)
        x = embed(tokens_BT)
        if isinstance(cfg.positions, Learned):
            T = tokens_BT.shape[1]
            x = x + nn.Embed(cfg.positions.max_length, cfg.d_model)(jnp.arange(T))

        def mlp(x: jax.Array) -> jax.Array:
            h = act(nn.Dense(cfg.d_ff, use_bias=bias)(x))
            if isinstance(cfg.mlp, Gated):
                h = h * nn.Dense(cfg.d_ff, use_bias=bias)(x)
            return nn.Dense(cfg.d_model, use_bias=bias)(h)

        post = cfg.norm_position == "post"
        for _ in range(cfg.L):
            for part in (Attention(cfg, causal=self.num_classes is None), mlp):
                x = norm()(x + part(x)) if post else x + part(norm()(x))
        x = x if post else norm()(x)
        if self.num_classes is not None:
            return nn.Dense(self.num_classes)(jnp.mean(x, axis=1))
        if cfg.tie_embeddings:
            return embed.attend(x)
        return nn.Dense(cfg.vocab_size, use_bias=False)(x)


# fields of the model that the plain loop reads whatever they are
SIZES = {"vocab_size", "d_model", "d_ff", "num_layers", "num_heads", "num_kv_heads"}
READ = SIZES | {"tie_embeddings", "init_std"}  # the latter changes no time


def check(config: RunConfig) -> None:
    """Raises ValueError where the plain loop has no such model, or no such step."""
    task: Any = config.task
    cfg, o = config.model, config.optimizer
    has_task, shape = task.kind == "causal_lm", "decoder"
    if task.kind == "sequence_classification":
        linear = task.head is None or task.head == LinearHead()
        linear = linear and task.problem == SingleLabel() and not task.pair_field
        has_task, shape = linear and task.pooling in (None, "mean"), "encoder"
    parts = {  # every other field of the model must be at its default
        f"model.{field.name}": getattr(cfg, field.name) == field.default
        for field in dataclasses.fields(ModelConfig)
        if field.name not in READ
    } | {
        "task": has_task,
        "model.architecture": cfg.architecture == shape,
        "model.head_dim": cfg.head_dim in (None, cfg.d_model / cfg.num_heads),
        "model.positions": cfg.positions in _positions(cfg),
        "model.mlp": (
            isinstance(cfg.mlp, Plain | Gated) and cfg.mlp.activation in ACTIVATIONS
        ),
        "model.norm": (
            cfg.norm in (LayerNorm(cfg.norm.epsilon), RMSNorm(cfg.norm.epsilon))
        ),
        "model.norm_position": cfg.norm_position in ("pre", "post"),
        "model.biases": cfg.biases in ("none", "all"),
        "optimizer.algorithm": isinstance(o.algorithm, AdamW),
        "optimizer.decay": o.decay == "matrices",
        "optimizer.ema": o.ema is None,
        "optimizer.freeze": not o.freeze,
        "layout.precision": isinstance(config.layout.precision, Float32),
        "layout.quantization": isinstance(config.layout.quantization, NoQuantization),
        "loss": config.loss == LossConfig(),
    }
    if lacking := [key for key, there in parts.items() if not there]:
        value = operator.attrgetter(lacking[0])(config)
        raise ValueError(
            f"{lacking[0]}={value!r} is not in the plain loop of --beside=plain, which "
            "has what configs/benchmark/ has"
        )


def _positions(cfg: ModelConfig) -> list[Any]:
    """Positions of the model's kind that the plain loop has."""
    theirs = cfg.positions
    if isinstance(theirs, Rotary):
        return [Rotary(theirs.theta)]
    return [Learned(theirs.max_length)] if isinstance(theirs, Learned) else []


def build(config: RunConfig, batch: Any) -> tuple[TrainState, Callable]:
    """The state and the step: (state, batch) -> (state, loss).

    Args:
      config: of the run.
      batch: `tokens` [B, T], and `label` [B] for classes.

    Raises:
      ValueError: see `check`.
    """
    check(config)
    classes = getattr(config.task, "num_classes", None)
    model = Model(config.model, classes)
    o = config.optimizer
    assert isinstance(o.algorithm, AdamW)
    adamw = optax.adamw(
        schedule(o, config.train.steps),
        o.algorithm.b1,
        o.algorithm.b2,
        o.algorithm.eps,
        weight_decay=o.weight_decay,
        mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    )
    clip = optax.identity()
    if o.clip_norm is not None:
        clip = optax.clip_by_global_norm(o.clip_norm)

    def loss(params, batch):
        logits = model.apply({"params": params}, batch["tokens"])
        targets = batch["label" if classes else "targets"]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return jnp.mean(each)

    def step(state, batch):
        value, grads = jax.value_and_grad(loss)(state.params, batch)
        return state.apply_gradients(grads=grads), value

    params = jax.jit(model.init)(jax.random.key(0), batch["tokens"])["params"]
    state = TrainState.create(
        apply_fn=model.apply, params=params, tx=optax.chain(clip, adamw)
    )
    return state, jax.jit(step, donate_argnums=0)
