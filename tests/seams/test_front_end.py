"""A front end outside the package: patches in place of tokens, one module more."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax import config
from llmjax.config import FullRemat, LayoutConfig, ModelConfig
from llmjax.models.forward import forward, variables
from llmjax.models.heads.language import LanguageModel
from llmjax.models.layers import Projection, compute_dtype

SIZES = {"vocab_size": 40, "d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 4}
TOKENS = jnp.arange(12).reshape(2, 6) * 7 % 40


class PatchModel(nn.Module):
    """A language model that reads patches [B, T, P], each projected to a vector."""

    cfg: ModelConfig
    layout: LayoutConfig
    patch_size: int

    def setup(self):
        cfg = self.cfg
        self.front = Projection(
            "BTP,PD->BTD",
            (self.patch_size, cfg.d_model),
            (None, "D"),
            cfg.init_std,
            bias=1,
            dtype=compute_dtype(self.layout),
        )
        self.model = LanguageModel(cfg, self.layout)

    def __call__(self, batch):
        """Float32 logits [B, T, V]."""
        embeddings_BTD = self.front(batch["patches"])
        return self.model({**batch, "embeddings": embeddings_BTD})[0]


def test_it_trains():
    model = PatchModel(
        ModelConfig(**SIZES), LayoutConfig(remat=FullRemat()), patch_size=5
    )
    patches = np.random.default_rng(0).standard_normal((2, 6, 5))
    batch = {"patches": jnp.float32(patches), "segment_ids": jnp.ones((2, 6), int)}
    params = flax.core.meta.unbox(jax.jit(model.init)(jax.random.key(0), batch))
    params = params["params"]
    optimizer = optax.adam(1e-2)

    def loss(params):
        logits_BTV, _ = forward(model, variables(params), batch)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, TOKENS)
        return jnp.mean(losses)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    start = params["front"]["kernel"]
    for _ in range(8):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.9 * values[0]
    assert not np.allclose(params["front"]["kernel"], start)


MODELS = {
    "decoder": ModelConfig(**SIZES, embedding_scale=4.0),
    "factorised": ModelConfig(
        **SIZES,
        architecture="encoder",
        positions=config.Learned(8),
        token_types=2,
        embedding_norm=True,
        embedding_size=8,
        output=config.Transformed(),
    ),
    "encoder_decoder": ModelConfig(**SIZES, architecture="encoder_decoder"),
}


@pytest.mark.parametrize("precision", [config.Float32(), config.BFloat16()])
@pytest.mark.parametrize("name", MODELS)
def test_the_tables_vectors_are_the_tokens(name, precision, random_params):
    model = LanguageModel(MODELS[name], LayoutConfig(precision=precision))
    batch = {"tokens": TOKENS, "token_types": TOKENS % 2}
    if name == "encoder_decoder":
        batch["encoder_tokens"] = TOKENS[:, ::-1]
    params = random_params(model, batch)
    table_VM = params["transformer"]["embedder"]["table"]
    embedded = {
        key.replace("tokens", "embeddings"): table_VM[value]
        if key.endswith("tokens")
        else value
        for key, value in batch.items()
    }
    apply = jax.jit(lambda batch: model.apply({"params": params}, batch)[0])
    np.testing.assert_array_equal(apply(embedded), apply(batch))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"segment_ids": TOKENS}, "neither tokens nor embeddings, but segment_ids"),
        (
            {"embeddings": jnp.zeros((2, 6, 7))},
            r"embeddings have shape \(2, 6, 7\); the model reads \[B, T, 16\]",
        ),
    ],
)
def test_what_is_no_input_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(ModelConfig(**SIZES)).init(jax.random.key(0), batch)
