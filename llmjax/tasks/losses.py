"""Losses over logits: a large vocabulary never exists as a whole [B, T, V]."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from llmjax.parallel import tables


def cross_entropy(
    logits: Float[Array, "*rows V"],
    targets: Int[Array, "*rows"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Per target: the loss to minimise, and the plain negative log-likelihood in nats.

    Smoothing spreads `label_smoothing` evenly over all classes (Szegedy et al. 2016);
    `z_loss` * log(Z)**2 keeps the normaliser near 1 (Chowdhery et al. 2022, 5).

    Args:
      logits: [..., V], any float; computed in float32.
      targets: int [...].
    """
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_z - chosen
    loss = nll
    if label_smoothing:
        uniform = log_z - jnp.mean(logits, axis=-1)
        loss = (1 - label_smoothing) * nll + label_smoothing * uniform
    if z_loss:
        loss = loss + z_loss * jnp.square(log_z)
    return loss, nll


def divergence(
    logits: Float[Array, "*rows V"], others: Float[Array, "*rows V"]
) -> Float[Array, "*rows"]:
    """KL(p, q) + KL(q, p) of two softmax distributions, in nats (Jeffreys 1946)."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (logits, others))
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


def binary_divergence(
    logits: Float[Array, "*rows"], others: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
    """`divergence` of two sigmoid probabilities."""
    logits, others = logits.astype(jnp.float32), others.astype(jnp.float32)
    return (jax.nn.sigmoid(logits) - jax.nn.sigmoid(others)) * (logits - others)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def blocked_cross_entropy(
    x_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    bias_V: Float[Array, " V"] | None,
    targets_BT: Int[Array, "B T"],
    weights_BT: Float[Array, "B T"],
    block: int,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Weighted sums of `cross_entropy` of x @ table.T + bias, both float32 scalars.

    With a softcap c the logits are c * tanh(logits / c). They exist for at most `block`
    positions of each row at a time. Differentiated, the same pass computes the
    gradients of `x`, `table` and `bias`, so that logits are computed once. The second
    result has no gradient.
    """
    output, data = (x_BTD, table_VD, bias_V), (targets_BT, weights_BT)
    options = (block, z_loss, label_smoothing, softcap)
    total, nll, _ = _scan(output, data, options, grad=False)
    return total, nll


def blocked_evaluation(
    x_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    bias_V: Float[Array, " V"] | None,
    targets_BT: Int[Array, "B T"],
    weights_BT: Float[Array, "B T"],
    block: int,
    softcap: float | None = None,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Per row: the negative log-likelihood in nats, and the targets that are the
    likeliest token; weighted sums, in blocks like those of `blocked_cross_entropy`."""

    def body(carry, inputs):
        x, targets, weights = inputs
        logits = _logits(x, table_VD, bias_V, softcap)
        _, nll = cross_entropy(logits, targets)
        right = jnp.argmax(logits, axis=-1) == targets
        sums = jnp.sum(nll * weights, axis=1), jnp.sum(right * weights, axis=1)
        return jax.tree.map(jnp.add, carry, sums), None

    zeros_B = jnp.zeros(x_BTD.shape[0], jnp.float32)
    data = (x_BTD, targets_BT, weights_BT)
    sums, _ = jax.lax.scan(body, (zeros_B, zeros_B), _blocks(data, block))
    return sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def blocked_token_losses(
    x_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    bias_V: Float[Array, " V"] | None,
    targets_BT: Int[Array, "B T"],
    block: int,
    softcap: float | None = None,
) -> Float[Array, "B T"]:
    """The negative log-likelihood of each target in nats.

    In blocks like those of `blocked_cross_entropy`; differentiated, logits are computed
    a second time.
    """

    def body(_, inputs):
        x, targets = inputs
        logits = _logits(x, table_VD, bias_V, softcap)
        return None, cross_entropy(logits, targets)[1]

    B, T = targets_BT.shape
    _, nll = jax.lax.scan(body, None, _blocks((x_BTD, targets_BT), block))
    return jnp.moveaxis(nll, 0, 1).reshape(B, -1)[:, :T]


def _tokens_forward(x_BTD, table_VD, bias_V, targets_BT, block, softcap):
    inputs = x_BTD, table_VD, bias_V, targets_BT
    return blocked_token_losses(*inputs, block, softcap), inputs


def _tokens_backward(block, softcap, inputs, cotangents_BT):
    """The gradient of one sum over all targets, weighted with their cotangents."""
    *output, targets_BT = inputs
    options = (block, 0.0, 0.0, softcap)
    data = targets_BT, cotangents_BT
    return *_scan(tuple(output), data, options, grad=True)[2], None


blocked_token_losses.defvjp(_tokens_forward, _tokens_backward)


def _blocks(arrays, block):
    """[B, T, ..] each as [blocks, B, t, ..], filled up with places of weight 0."""
    T = arrays[0].shape[1]
    count = -(-T // block)
    block = -(-T // count)

    def cut(a):
        a = jnp.pad(a, ((0, 0), (0, count * block - T)) + ((0, 0),) * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(a.shape[0], count, block, *a.shape[2:]), 1, 0)

    return tuple(map(cut, arrays))


def _logits(x, table_VD, bias_V, softcap):
    logits = jnp.einsum(
        "BTD,VD->BTV",
        x,
        table_VD.astype(x.dtype),
        preferred_element_type=jnp.float32,
    )
    if bias_V is not None:
        logits += bias_V.astype(jnp.float32)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def _scan(output, data, options, grad):
    """`_local` on the rows of each device: the table comes once, not once a block, and
    its gradient is summed over devices once."""
    x_BTD, table_VD, bias_V = output
    layout = tables.lookup_layout(data[0], table_VD.shape[1])
    if layout is None:
        total, nll, grads = _local(output, data, options, grad)
        return total, nll, _typed(grads, output)
    none = PartitionSpec()

    def local(x_BTD, table_VD, bias_V, *data):
        total, nll, grads = _local((x_BTD, table_VD, bias_V), data, options, grad)
        total, nll = jax.lax.psum((total, nll), layout.axes)
        if not grad:
            return total, nll, None
        dx_BTD, dtable_VD, dbias_V = grads
        dtable_VD = layout.sum_gradient(dtable_VD, table_VD.dtype)
        if bias_V is not None:
            dbias_V = jax.lax.psum(dbias_V, layout.axes)
        return total, nll, (dx_BTD, dtable_VD, dbias_V)

    tokens = layout.tokens
    total, nll, grads = layout.on_devices(
        local,
        in_specs=(tokens, none, none, tokens, tokens),
        out_specs=(none, none, (tokens, layout.table, none) if grad else none),
    )(x_BTD, table_VD.astype(x_BTD.dtype), bias_V, *data)
    return total, nll, _typed(grads, output)


def _typed(grads: Any, output: Any) -> Any:
    return (
        jax.tree.map(lambda g, x: g.astype(x.dtype), grads, output) if grads else None
    )


def _local(output, data, options, grad):
    """Sums over these rows, and with `grad` the gradients of `output`."""
    x_BTD, table_VD, bias_V = output
    block, z_loss, smoothing, softcap = options
    B, T, D = x_BTD.shape

    def body(carry, inputs):
        total, nll, dtable_VD, dbias_V = carry
        x, targets, weights = inputs
        logits = _logits(x, table_VD, bias_V, softcap)
        loss_BT, nll_BT = cross_entropy(logits, targets, z_loss, smoothing)
        total += jnp.sum(loss_BT * weights)
        nll += jnp.sum(nll_BT * weights)
        if not grad:
            return (total, nll, dtable_VD, dbias_V), None
        dlogits = _dlogits(logits, targets, weights, z_loss, smoothing)
        if softcap is not None:
            dlogits *= 1 - jnp.square(logits / softcap)
        if bias_V is not None:
            dbias_V += jnp.sum(dlogits, axis=(0, 1))
        dlogits = dlogits.astype(x.dtype)
        dx = jnp.einsum("BTV,VD->BTD", dlogits, table_VD.astype(x.dtype))
        dtable_VD += jnp.einsum(
            "BTV,BTD->VD", dlogits, x, preferred_element_type=jnp.float32
        )
        return (total, nll, dtable_VD, dbias_V), dx

    zero = jnp.zeros((), jnp.float32)
    dtable: Any = jnp.zeros(table_VD.shape, jnp.float32) if grad else None
    dbias: Any = None
    if grad and bias_V is not None:
        dbias = jnp.zeros(bias_V.shape, jnp.float32)
    (total, nll, dtable, dbias), dx = jax.lax.scan(
        body, (zero, zero, dtable, dbias), _blocks((x_BTD, *data), block)
    )
    if not grad:
        return total, nll, None
    dx_BTD = jnp.moveaxis(dx, 0, 1).reshape(B, -1, D)[:, :T]
    return total, nll, (dx_BTD, dtable, dbias)


def _dlogits(logits, targets, weights, z_loss, smoothing):
    """The gradient of the weighted loss by the logits."""
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    p = jnp.exp(logits - log_z)
    if z_loss:
        p = p * (1 + 2 * z_loss * log_z)
    chosen = jnp.arange(logits.shape[-1]) == targets[..., None]
    goal = chosen * (1 - smoothing) + smoothing / logits.shape[-1]
    return (p - goal) * weights[..., None]


def _forward(x_BTD, table_VD, bias_V, targets_BT, weights_BT, *options):
    output, data = (x_BTD, table_VD, bias_V), (targets_BT, weights_BT)
    total, nll, grads = _scan(output, data, options, grad=True)
    return (total, nll), grads


def _backward(block, z_loss, smoothing, softcap, grads, cotangents):
    scaled = jax.tree.map(lambda g: g * cotangents[0].astype(g.dtype), grads)
    return *scaled, None, None


blocked_cross_entropy.defvjp(_forward, _backward)
