"""A table read and updated by tokens on many devices, as by tokens on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import LayoutConfig
from llmjax.parallel import tables
from llmjax.parallel.mesh import make_mesh, use

LAYOUTS = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "data, fsdp, tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp, sequence": {"fsdp": 4, "sequence": 2},
}
TABLE = jax.random.normal(jax.random.key(0), (24, 16))
TOKENS = jax.random.randint(jax.random.key(1), (8, 12), 0, 5)  # each many times
WEIGHTS = jax.random.normal(jax.random.key(2), (8, 12, 16))


def weighted(table, tokens, dtype):
    return jnp.sum(jnp.sin(tables.lookup(table, tokens, dtype)) * WEIGHTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_and_gradients_are_those_of_one_device(name):
    mesh = make_mesh(LayoutConfig(**LAYOUTS[name]))
    want = jax.grad(weighted)(TABLE, TOKENS, jnp.float32)
    with use(mesh):
        rows = jax.jit(tables.lookup, static_argnums=2)(TABLE, TOKENS, jnp.float32)
        got = jax.jit(jax.grad(weighted), static_argnums=2)(TABLE, TOKENS, jnp.float32)
    np.testing.assert_array_equal(rows, TABLE[TOKENS])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_bfloat16_table_gathers_its_gradient_in_float32():
    """A token's 19 uses and more: one rounding at the end, and one of the table."""
    with use(make_mesh(LayoutConfig(fsdp=8))):
        rows = jax.jit(tables.lookup, static_argnums=2)(TABLE, TOKENS, jnp.bfloat16)
        got = jax.jit(jax.grad(weighted), static_argnums=2)(TABLE, TOKENS, jnp.bfloat16)
    rounded = TABLE.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(rows, rounded[TOKENS])
    want = jax.grad(weighted)(rounded, TOKENS, jnp.float32)
    np.testing.assert_allclose(got, want, rtol=2**-8, atol=1e-6)
    assert rows.dtype == got.dtype == jnp.float32


def test_it_can_be_differentiated_twice():
    """Forward over backward, as Sophia's Hessian does."""

    def curved(table):
        gradient = jax.grad(weighted)
        return jax.jvp(lambda t: gradient(t, TOKENS, jnp.float32), (table,), (table,))

    _, want = curved(TABLE)
    with use(make_mesh(LayoutConfig(data=2, fsdp=4))):
        _, got = jax.jit(curved)(TABLE)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_divide_are_read_all_the_same():
    tokens = TOKENS[:3]
    with use(make_mesh(LayoutConfig(data=8))):
        assert tables.lookup_layout(tokens, 16) is None
        rows = jax.jit(tables.lookup, static_argnums=2)(TABLE, tokens, jnp.float32)
    np.testing.assert_array_equal(rows, TABLE[tokens])
