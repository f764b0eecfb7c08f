"""Exchange of rows between the devices of a mesh axis, ragged, and back.

To be called where `axis` is manual (`llmjax.parallel.manual`). Each of the e devices
sends at most `limit` rows to any other. The rows from device s start at row s * limit
of the result, which has room for e * limit rows, so none is dropped.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llmjax.parallel import mesh as mesh_lib

# XLA has no ragged all-to-all on CPUs: there rows are padded to `limit`
RAGGED_PLATFORMS = ("tpu", "gpu")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def take(
    x_XD: Float[Array, "X D"],
    index: tuple[Int[Array, " Y"], Int[Array, " Y"]],
    copies: int = 1,
) -> Float[Array, "Y D"]:
    """`copies` of each row, permuted: Y = X * copies.

    Args:
      x_XD: the rows.
      index: (from_Y, to_Y), inverse permutations, so that the gradient is a gather
        too: place y has copy from_Y[y], which is of row from_Y[y] // copies; copy c is
        at place to_Y[c].
      copies: number of copies of each row.
    """
    return x_XD.at[index[0] // copies].get(mode="promise_in_bounds")


def _take_forward(x_XD, index, copies):
    return take(x_XD, index, copies), index


def _take_backward(copies, index, g_YD):
    g_YD = g_YD.at[index[1]].get(mode="promise_in_bounds")
    return g_YD.reshape(-1, copies, g_YD.shape[-1]).sum(axis=1), None


take.defvjp(_take_forward, _take_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pick(
    x_XD: Float[Array, "X D"],
    index: tuple[Int[Array, " Y"], Int[Array, " Z"]],
    copies: int = 1,
) -> Float[Array, "Y D"]:
    """`take` where not every copy has a place, nor every place a copy.

    Args:
      x_XD: the rows.
      index: (from_Y, to_Z), Z = X * copies, as in `take`; X * copies in from_Y, and Y
        in to_Z, stand for none: such a place is zero, such a copy has no gradient.
      copies: number of copies of each row.
    """
    return _gather(x_XD, index[0] // copies)


def _pick_forward(x_XD, index, copies):
    return pick(x_XD, index, copies), index


def _pick_backward(copies, index, g_YD):
    g_ZD = _gather(g_YD, index[1])
    return g_ZD.reshape(-1, copies, g_ZD.shape[-1]).sum(axis=1), None


pick.defvjp(_pick_forward, _pick_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def send(
    x_XD: Float[Array, "X D"],
    counts: tuple[Int[Array, " e"], Int[Array, " e"]],
    limit: int,
    axis: str,
) -> Float[Array, "R D"]:
    """Sends x's first rows to device 0 of `axis`, the next ones to device 1, ...

    Args:
      x_XD: rows in the order of the devices that they go to.
      counts: how many rows go to each device, and how many come from each.
      limit: upper bound of every count.
      axis: mesh axis, manual here.

    Returns:
      R = e * limit rows as this file's head says, zeros where none came.
    """
    sends_e, gets_e = counts
    e, starts_e = len(sends_e), jnp.cumsum(sends_e) - sends_e
    if _ragged():
        to_e = jnp.full_like(sends_e, limit) * jax.lax.axis_index(axis)
        room_RD = jnp.zeros_like(x_XD, shape=(e * limit, x_XD.shape[1]))
        return jax.lax.ragged_all_to_all(
            x_XD, room_RD, starts_e, sends_e, to_e, gets_e, axis_name=axis
        )
    at_el = jnp.arange(limit) + starts_e[:, None]
    at_el = jnp.where(jnp.arange(limit) < sends_e[:, None], at_el, len(x_XD))
    padded_RD = _gather(x_XD, at_el.reshape(-1))
    return jax.lax.all_to_all(padded_RD, axis, 0, 0, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def send_back(
    y_RD: Float[Array, "R D"],
    counts: tuple[Int[Array, " e"], Int[Array, " e"]],
    X: int,
    axis: str,
) -> Float[Array, "X D"]:
    """Sends each device its X rows back, in its own order: the transpose of `send`.

    Args:
      y_RD: rows as `send` returns them; places where none came are not read.
      counts: those of the `send` on this device.
      X: number of rows that it sent.
      axis: mesh axis, manual here.
    """
    sends_e, gets_e = counts
    limit, ends_e = len(y_RD) // len(sends_e), jnp.cumsum(sends_e)
    starts_e = ends_e - sends_e
    if _ragged():
        room_XD = jnp.zeros_like(y_RD, shape=(X, y_RD.shape[1]))
        from_e = jnp.arange(len(sends_e), dtype=sends_e.dtype) * limit
        to_e = jax.lax.all_to_all(starts_e, axis, 0, 0, tiled=True)
        return jax.lax.ragged_all_to_all(
            y_RD, room_XD, from_e, gets_e, to_e, sends_e, axis_name=axis
        )
    padded_RD = jax.lax.all_to_all(y_RD, axis, 0, 0, tiled=True)
    row_X = jnp.arange(X)
    device_X = jnp.searchsorted(ends_e, row_X, side="right")
    at_X = jnp.where(
        row_X < ends_e[-1], device_X * limit - starts_e[device_X] + row_X, len(y_RD)
    )
    return _gather(padded_RD, at_X)


def _send_forward(x_XD, counts, limit, axis):
    return send(x_XD, counts, limit, axis), (counts, x_XD.shape[0])


def _send_backward(limit, axis, residuals, g_RD):
    counts, X = residuals
    return send_back(g_RD, counts, X, axis), None


def _back_forward(y_RD, counts, X, axis):
    return send_back(y_RD, counts, X, axis), (counts, y_RD.shape[0])


def _back_backward(X, axis, residuals, g_XD):
    counts, R = residuals
    return send(g_XD, counts, R // len(counts[0]), axis), None


send.defvjp(_send_forward, _send_backward)
send_back.defvjp(_back_forward, _back_backward)


def _gather(x_XD, from_Y):
    """Rows of x, zeros where it has none."""
    return x_XD.at[from_Y].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _ragged() -> bool:
    """Whether XLA has the ragged all-to-all for the devices compiled for."""
    return mesh_lib.target().platform in RAGGED_PLATFORMS
