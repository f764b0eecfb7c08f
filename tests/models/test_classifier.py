"""Texts pooled into vectors: of a row, or of each of its segments."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from llmjax.config import DenseHead, LinearHead, NormedHead, PoolerHead
from llmjax.models.heads.classifier import SequenceClassifier

pytestmark = pytest.mark.usefixtures("quick_compile")

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


FORMS = {
    LinearHead(): {"classifier/kernel", "classifier/bias"},
    LinearHead(bias=False): {"classifier/kernel"},
    PoolerHead(): {"pooler/kernel", "pooler/bias"},
    DenseHead("relu"): {"pre_classifier/kernel", "pre_classifier/bias"},
    NormedHead(): {"head/transform/kernel", "head/norm/scale"},
}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_lies_before_the_classes_drops_out(form, tiny, random_params):
    """Half of what the classifier reads is 0 while training, and nothing else is."""
    cfg = dataclasses.replace(tiny, num_layers=1, dropout=0.5, architecture="encoder")
    model = SequenceClassifier(cfg, 3, "first", form=form)
    batch = {"tokens": jnp.arange(120).reshape(10, 12) % 40}
    params = random_params(model, batch)
    own = {k: v for k, v in params.items() if k != "transformer"}
    names = {"/".join(p) for p in flatten_dict(own)}
    assert names >= FORMS[form] and ("classifier/bias" in names) == (
        form != LinearHead(bias=False)
    )
    inputs = []

    def note(call, args, kwargs, context):
        if context.module.name == "classifier":
            inputs.append(np.asarray(args[0]))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        calm = model.apply({"params": params}, batch)
        model.apply({"params": params}, batch, rngs={"dropout": jax.random.key(0)})
    assert calm.shape == (10, 3) and calm.dtype == jnp.float32
    still, noisy = (np.mean(x == 0) for x in inputs)
    assert noisy > still + 0.2
