"""Texts pooled into vectors: of a row, or of each of its segments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.models.heads.classifier import SequenceClassifier

LENGTHS = (3, 5, 2)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_a_packed_text_has_the_logits_and_gradients_of_it_alone(
    architecture, pooling, tiny, random_params
):
    """Three texts in a row with places for five, against each in a row of its own."""
    cfg = dataclasses.replace(tiny, architecture=architecture, num_layers=1)
    model = SequenceClassifier(cfg, 3, pooling)
    rng = np.random.default_rng(0)
    singles = [rng.integers(3, 40, n) for n in LENGTHS]
    positions = np.concatenate([np.arange(n) for n in LENGTHS])
    segments = np.repeat([1, 2, 3], LENGTHS)
    packed = {
        "tokens": jnp.asarray(np.pad(np.concatenate(singles), (0, 2))[None]),
        "segment_ids": jnp.asarray(np.pad(segments, (0, 2))[None]),
        "positions": jnp.asarray(np.pad(positions, (0, 2))[None]),
        "valid": jnp.int32([[1, 1, 1, 0, 0]]),
    }
    params = random_params(model, packed)
    weights_GC = jnp.asarray(rng.standard_normal((3, 3)), jnp.float32)

    def together(params):
        logits_BGC = model.apply({"params": params}, packed)
        assert logits_BGC.shape == (1, 5, 3)
        return jnp.sum(logits_BGC[0, :3] * weights_GC), logits_BGC[0, :3]

    def apart(params):
        logits_GC = jnp.concatenate(
            [
                model.apply({"params": params}, {"tokens": jnp.asarray(text[None])})
                for text in singles
            ]
        )
        return jnp.sum(logits_GC * weights_GC), logits_GC

    (one, got), (other, want) = (
        jax.jit(jax.grad(f, has_aux=True))(params) for f in (together, apart)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other
    )
