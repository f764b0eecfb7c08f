"""Losses over logits: a large vocabulary never exists as a whole [B, T, V]."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "*rows V"],
    targets: Int[Array, "*rows"],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Per target: what is minimised, and the plain negative log-likelihood in nats.

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def blocked_cross_entropy(
    x_BTD: Float[Array, "B T D"],
    table_VD: Float[Array, "V D"],
    targets_BT: Int[Array, "B T"],
    weights_BT: Float[Array, "B T"],
    block: int,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Weighted sums of `cross_entropy` of x @ table.T, both scalars in float32.

    Logits exist for at most `block` positions of each row at a time. Differentiated,
    the same pass computes the gradients of `x` and `table`, so that logits are
    computed once. The second result has no gradient.
    """
    total, nll, _ = _scan(
        x_BTD, table_VD, targets_BT, weights_BT, block, z_loss, label_smoothing, False
    )
    return total, nll


def _scan(x_BTD, table_VD, targets_BT, weights_BT, block, z_loss, smoothing, grad):
    T = x_BTD.shape[1]
    count = -(-T // block)
    block = -(-T // count)

    def blocks(a):  # the last one is filled up with what weighs nothing
        a = jnp.pad(a, ((0, 0), (0, count * block - T)) + ((0, 0),) * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(a.shape[0], count, block, *a.shape[2:]), 1, 0)

    def body(carry, inputs):
        total, nll, dtable_VD = carry
        x, targets, weights = inputs
        logits = jnp.einsum(
            "BTD,VD->BTV",
            x,
            table_VD.astype(x.dtype),
            preferred_element_type=jnp.float32,
        )
        loss_BT, nll_BT = cross_entropy(logits, targets, z_loss, smoothing)
        total += jnp.sum(loss_BT * weights)
        nll += jnp.sum(nll_BT * weights)
        if not grad:
            return (total, nll, dtable_VD), None
        dlogits = _dlogits(logits, targets, weights, z_loss, smoothing).astype(x.dtype)
        dx = jnp.einsum("BTV,VD->BTD", dlogits, table_VD.astype(x.dtype))
        dtable_VD += jnp.einsum(
            "BTV,BTD->VD", dlogits, x, preferred_element_type=jnp.float32
        )
        return (total, nll, dtable_VD), dx

    zero = jnp.zeros((), jnp.float32)
    dtable: Any = jnp.zeros(table_VD.shape, jnp.float32) if grad else None
    (total, nll, dtable), dx = jax.lax.scan(
        body,
        (zero, zero, dtable),
        (blocks(x_BTD), blocks(targets_BT), blocks(weights_BT)),
    )
    if not grad:
        return total, nll, None
    B, _, D = x_BTD.shape
    dx_BTD = jnp.moveaxis(dx, 0, 1).reshape(B, count * block, D)[:, :T]
    return total, nll, (dx_BTD, dtable.astype(table_VD.dtype))


def _dlogits(logits, targets, weights, z_loss, smoothing):
    """The gradient of the weighted loss by the logits."""
    log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    p = jnp.exp(logits - log_z)
    if z_loss:
        p = p * (1 + 2 * z_loss * log_z)
    chosen = jnp.arange(logits.shape[-1]) == targets[..., None]
    want = chosen * (1 - smoothing) + smoothing / logits.shape[-1]
    return (p - want) * weights[..., None]


def _forward(x_BTD, table_VD, targets_BT, weights_BT, block, z_loss, smoothing):
    total, nll, grads = _scan(
        x_BTD, table_VD, targets_BT, weights_BT, block, z_loss, smoothing, True
    )
    return (total, nll), grads


def _backward(block, z_loss, smoothing, grads, cotangents):
    dx_BTD, dtable_VD = grads
    scale = cotangents[0]
    return (
        dx_BTD * scale.astype(dx_BTD.dtype),
        dtable_VD * scale.astype(dtable_VD.dtype),
        None,
        None,
    )


blocked_cross_entropy.defvjp(_forward, _backward)
