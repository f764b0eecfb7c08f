"""Tiny models and batches of each kind, and their loss on a mesh and without one."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import (
    BalanceBias,
    Capacity,
    LayerNorm,
    LayoutConfig,
    Learned,
    Mixture,
    ModelConfig,
    Plain,
    RelativeBias,
)
from llmjax.models.forward import forward
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel import axes as axes_lib
from llmjax.parallel.mesh import make_mesh, use
from llmjax.tasks.routing import routing_loss

B, T = 16, 8
DECODER = ModelConfig(
    vocab_size=40, d_model=16, d_ff=24, num_heads=4, num_kv_heads=2, head_dim=6
)
MIXTURE = Mixture(4, 2, 8, dispatch=Capacity(1.0), z_loss=0.1)
MODELS = {
    "decoder": DECODER,
    "encoder": dataclasses.replace(
        DECODER,
        architecture="encoder",
        positions=Learned(max_length=T),
        norm=LayerNorm(),
        norm_position="post",
        biases="mlp",
        mlp=Plain(),
    ),
    "encoder-decoder": dataclasses.replace(
        DECODER, architecture="encoder_decoder", positions=RelativeBias(8, 16)
    ),
    "encoder-decoder mixture": dataclasses.replace(
        DECODER,
        architecture="encoder_decoder",
        positions=RelativeBias(8, 16),
        mlp=MIXTURE,
    ),
    "mixture": dataclasses.replace(DECODER, mlp=MIXTURE),
    "biased mixture": dataclasses.replace(
        DECODER, mlp=dataclasses.replace(MIXTURE, balance=BalanceBias(0.5))
    ),
}


def batch(cfg: ModelConfig, rows: int = B) -> dict[str, np.ndarray]:
    """Two segments to a row, of differing lengths, and padding in every other row."""
    rng = np.random.default_rng(0)

    def side():
        cut = rng.integers(1, T - 1, (rows, 1))
        at = np.arange(T)[None]
        segments = 1 + (at >= cut)
        segments[1::2, T - 2 :] = 0
        return {
            "tokens": rng.integers(0, 40, (rows, T)),
            "segment_ids": segments,
            "positions": np.where(at >= cut, at - cut, at),
        }

    out = side()
    if cfg.architecture == "encoder_decoder":
        out |= {f"encoder_{k}": v for k, v in side().items()}
    return out


def loss(model: LanguageModel, params: Any, rows: Any, key: Any = None) -> jax.Array:
    """Of every real token, and of the routers."""
    variables = {"params": params}
    outputs, sums = forward(model, variables, rows, rng=key, method="outputs")
    log_p_BTV = jax.nn.log_softmax(outputs.logits())
    log_p_BT = jnp.take_along_axis(log_p_BTV, rows["tokens"][..., None], -1)[..., 0]
    real_BT = rows["segment_ids"] > 0
    own = -jnp.sum(log_p_BT * real_BT) / jnp.sum(real_BT)
    return own + routing_loss(model.cfg, sums)


@functools.cache
def weights(name: str, layers: int) -> Any:
    """None of them 0 or 1; the same for all layouts of a model."""
    cfg = dataclasses.replace(MODELS[name], num_layers=layers)
    rng = np.random.default_rng(1)

    def leaf(path, shape):
        around = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return np.float32(around + 0.3 * rng.standard_normal(shape.shape))

    shapes, _ = axes_lib.param_axes(LanguageModel(cfg), batch(cfg))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def plain(name: str, layers: int) -> Any:
    """Loss and gradients without a mesh."""
    cfg = dataclasses.replace(MODELS[name], num_layers=layers)
    f = functools.partial(loss, LanguageModel(cfg))
    return jax.jit(jax.value_and_grad(f))(weights(name, layers), batch(cfg))


def compiled(name: str, layers: int, **layout: Any) -> tuple[Any, Any]:
    """The program of loss and gradients on all devices, and its arguments."""
    cfg = dataclasses.replace(MODELS[name], num_layers=layers)
    how = LayoutConfig(**layout)
    mesh, rows = make_mesh(how), batch(cfg)
    model = LanguageModel(cfg, how)
    shapes, axes = axes_lib.param_axes(model, rows)
    shardings = axes_lib.tree_shardings(shapes, axes, mesh)
    on_batch = axes_lib.batch_sharding(mesh, rows)
    arguments = (
        jax.device_put(weights(name, layers), shardings),
        jax.device_put(rows, on_batch),
    )
    with use(mesh):
        program = jax.jit(
            jax.value_and_grad(functools.partial(loss, model)),
            in_shardings=(shardings, on_batch),
            out_shardings=(None, shardings),
        )
        return program.lower(*arguments).compile(), arguments


def error(got: Any, want: Any) -> float:
    """The largest difference of any leaf relative to that leaf's largest value."""

    def of(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))

    return max(jax.tree.leaves(jax.tree.map(of, got, want)))
