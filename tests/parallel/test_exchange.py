"""Rows that change devices, against the same in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llmjax.config import LayoutConfig
from llmjax.parallel.exchange import pick, send, send_back, take
from llmjax.parallel.manual import on_devices
from llmjax.parallel.mesh import make_mesh, use

pytestmark = pytest.mark.usefixtures("quick_compile")

# from device (row) to device (column): none, all, and all to one; six rows each
COUNTS = np.array([[0, 6, 0, 0], [2, 1, 3, 0], [0, 6, 0, 0], [1, 0, 0, 5]], np.int32)
ROWS, D = 6, 2


def test_rows_arrive_by_sender_and_come_back():
    x_RD = np.arange(4 * ROWS * D, dtype=np.float32).reshape(-1, D) + 1
    row, columns = P("expert", None), P(None, "expert")

    def there_and_back(x_XD, sends_1e, gets_e1):
        counts = (sends_1e[0], gets_e1[:, 0])
        there = functools.partial(send, counts=counts, limit=ROWS, axis="expert")
        got_RD, back = jax.vjp(there, x_XD)
        again_XD = send_back(got_RD, counts, ROWS, "expert")
        return got_RD, again_XD, back(2 * got_RD)[0]

    mesh = make_mesh(LayoutConfig(expert=4), jax.devices()[:4])
    with use(mesh):
        function = on_devices(there_and_back, (row, row, columns), (row, row, row))
        got, again, gradient = jax.jit(function)(x_RD, COUNTS, COUNTS)
    want = np.zeros((4, 4, ROWS, D), np.float32)  # to, from
    sent = x_RD.reshape(4, ROWS, D)
    for source, counts in enumerate(COUNTS):
        starts = np.cumsum(counts) - counts
        for to, (start, count) in enumerate(zip(starts, counts, strict=True)):
            want[to, source, :count] = sent[source, start : start + count]
    np.testing.assert_array_equal(got, want.reshape(-1, D))
    np.testing.assert_array_equal(again, x_RD)
    np.testing.assert_array_equal(gradient, 2 * x_RD)


def test_taking_rows_has_the_gradient_of_plain_indexing():
    """Two copies of three rows to six places."""
    rng = np.random.default_rng(0)
    from_Y = np.array([3, 0, 5, 1, 4, 2])
    index = (jnp.asarray(from_Y), jnp.asarray(np.argsort(from_Y)))
    x_XD, g_YD = (
        jnp.float32(rng.normal(size=(3, D))),
        jnp.float32(rng.normal(size=(6, D))),
    )
    want, want_back = jax.vjp(lambda x: jnp.repeat(x, 2, axis=0)[from_Y], x_XD)
    got, back = jax.vjp(lambda x: take(x, index, 2), x_XD)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(back(g_YD)[0], want_back(g_YD)[0], rtol=1e-6)


def test_picking_rows_has_the_gradient_of_plain_indexing():
    """Two copies of three rows to four places; one is empty, three go nowhere."""
    rng = np.random.default_rng(0)
    index = (jnp.array([3, 6, 5, 0]), jnp.array([3, 4, 4, 0, 4, 2]))
    x_XD = jnp.float32(rng.normal(size=(3, D)))
    g_YD = jnp.float32(rng.normal(size=(4, D)))

    def plain(x_XD):
        copies = jnp.repeat(x_XD, 2, axis=0)
        return jnp.stack([copies[3], jnp.zeros(D), copies[5], copies[0]])

    want, want_back = jax.vjp(plain, x_XD)
    got, back = jax.vjp(lambda x: pick(x, index, 2), x_XD)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(back(g_YD)[0], want_back(g_YD)[0], rtol=1e-6)
