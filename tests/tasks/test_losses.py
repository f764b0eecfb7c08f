"""Cross-entropy against optax; its blocks against the whole and finite differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.tasks.losses import blocked_cross_entropy, cross_entropy

pytestmark = pytest.mark.usefixtures("quick_compile")

B, T, D, V = 2, 12, 8, 37


def inputs(T: int = T, dtype=jnp.float32):
    """x, table, bias, targets, and weights of which a third are zero."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((B, T, D)), dtype)
    table = jnp.float32(rng.standard_normal((V, D)))
    targets = jnp.asarray(rng.integers(V, size=(B, T)), jnp.int32)
    weights = jnp.float32(rng.integers(3, size=(B, T)) / 2)
    bias = jnp.float32(rng.standard_normal(V))
    return x, table, bias, targets, weights


def logits_and_targets():
    x, table, _, targets, _ = inputs()
    return 3 * jnp.einsum("BTD,VD->BTV", x, table), targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_cross_entropy_is_optaxs(smoothing):
    logits, targets = logits_and_targets()
    loss, nll = jax.jit(cross_entropy, static_argnums=(2, 3))(
        logits, targets, 0.0, smoothing
    )
    want = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    np.testing.assert_allclose(nll, want, rtol=1e-4, atol=1e-5)
    labels = optax.smooth_labels(jax.nn.one_hot(targets, V), smoothing)
    want = optax.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(loss, want, rtol=1e-4, atol=1e-5)


def test_z_loss_is_the_square_of_the_log_normaliser():
    """Adding c to all logits leaves the likelihood and moves log Z by c."""
    logits, targets = logits_and_targets()
    run = jax.jit(cross_entropy, static_argnums=(2, 3))
    log_z = np.log(np.exp(np.float64(logits)).sum(-1))
    for c in (0.0, 2.0):
        loss, nll = run(logits + c, targets, 0.25, 0.0)
        np.testing.assert_allclose(loss - nll, 0.25 * (log_z + c) ** 2, rtol=1e-4)
    np.testing.assert_allclose(nll, run(logits, targets, 0.0, 0.0)[1], atol=1e-5)


def test_bfloat16_logits_are_computed_in_float32():
    logits, targets = logits_and_targets()
    logits = logits.astype(jnp.bfloat16)
    got = cross_entropy(logits, targets)[0]
    want = cross_entropy(logits.astype(jnp.float32), targets)[0]
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


def plain(x, table, bias, targets, weights, z_loss, smoothing, softcap=None):
    logits = jnp.einsum(
        "BTD,VD->BTV",
        x,
        table.astype(x.dtype),
        preferred_element_type=jnp.float32,
    )
    if bias is not None:
        logits += bias
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    loss, nll = cross_entropy(logits, targets, z_loss, smoothing)
    return jnp.sum(loss * weights), jnp.sum(nll * weights)


def run(f, x, table, bias, targets, weights):
    def scaled(x, table, bias):
        total, nll = f(x, table, bias, targets, weights)
        return 0.5 * total, nll  # a cotangent that is not 1

    grad = jax.jit(jax.value_and_grad(scaled, (0, 1, 2), has_aux=True))
    return grad(x, table, bias)


@pytest.mark.parametrize(
    ("T", "block", "options"),
    [
        (12, 4, (0.0, 0.0, None)),
        (12, 12, (0.1, 0.2, None)),
        (12, 100, (0.0, 0.1, 5.0)),
        (12, 1, (0.1, 0.0, None)),
        (12, 5, (0.1, 0.2, 2.0)),
        (7, 3, (0.1, 0.2, None)),
        (7, 7, (0.0, 0.2, None)),
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_blocks_are_the_whole(T, block, options, biased):
    arrays = inputs(T)
    if not biased:
        arrays = *arrays[:2], None, *arrays[3:]
    want = run(lambda *a: plain(*a, *options), *arrays)
    got = run(lambda *a: blocked_cross_entropy(*a, block, *options), *arrays)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    (dx, *_), weights = got[1], arrays[4]
    assert not dx[weights == 0].any()


@pytest.mark.parametrize("table_dtype", ["float32", "bfloat16"])
def test_bfloat16_hidden_states(table_dtype):
    x, table, *others = inputs(dtype=jnp.bfloat16)
    arrays = x, table.astype(table_dtype), *others
    want = run(lambda *a: plain(*a, 0.1, 0.1), *arrays)
    got = run(lambda *a: blocked_cross_entropy(*a, 4, 0.1, 0.1), *arrays)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-3)
    for a, b, like in zip(got[1], want[1], arrays, strict=False):
        assert a.dtype == b.dtype == like.dtype
        a, b = np.float32(a), np.float32(b)
        assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b)


def test_the_gradient_is_a_finite_difference():
    x, table, *others = inputs()
    value = jax.jit(
        lambda x, table: blocked_cross_entropy(x, table, *others, 5, 0.1, 0.2, 9.0)[0]
    )
    dx, dtable = jax.jit(jax.grad(value, (0, 1)))(x, table)
    rng = np.random.default_rng(1)
    for _ in range(3):
        u, v = (jnp.float32(rng.standard_normal(a.shape)) for a in (x, table))
        h = 1e-2
        slope = (value(x + h * u, table + h * v) - value(x - h * u, table - h * v)) / (
            2 * h
        )
        want = jnp.sum(dx * u) + jnp.sum(dtable * v)
        np.testing.assert_allclose(slope, want, rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_program_holds_all_logits(dtype):
    """Bound on every buffer; the plain loss is seen to go past it."""
    jax.config.update("jax_disable_most_optimizations", False)
    B, T, D, V, block = 4, 64, 16, 1024, 8
    shapes = (
        jax.ShapeDtypeStruct((B, T, D), dtype),
        jax.ShapeDtypeStruct((V, D), "float32"),
        None,
        jax.ShapeDtypeStruct((B, T), "int32"),
        jax.ShapeDtypeStruct((B, T), "float32"),
    )

    def compiled(f):
        grad = jax.grad(lambda *a: f(*a)[0], (0, 1))
        return jax.jit(grad).lower(*shapes).compile()

    def largest(compiled):
        sizes = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", compiled.as_text())
        return max(int(np.prod([int(n) for n in s.split(",")])) for s in sizes)

    blocked = compiled(lambda *a: blocked_cross_entropy(*a, block, 1e-4, 0.1))
    whole = compiled(lambda *a: plain(*a, 1e-4, 0.1))
    assert largest(whole) >= B * T * V
    assert largest(blocked) <= B * block * V
    all_logits = 4 * B * T * V
    assert whole.memory_analysis().temp_size_in_bytes >= all_logits
    assert blocked.memory_analysis().temp_size_in_bytes < all_logits / 2
