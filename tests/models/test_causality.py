"""Who depends on whom, by the gradient of each logit by each position's embedding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import config
from llmjax.models.heads.language import LanguageModel

pytestmark = pytest.mark.usefixtures("quick_compile")

T = 9


def influence(cfg, layout, random_params, **more) -> np.ndarray:
    """[T, V]: the largest |d logits[t] / d embedding of token v|.

    Untied tables and a token of its own at every position make the embedding of a
    position a row of the table.
    """
    cfg = dataclasses.replace(cfg, tie_embeddings=False)
    model = LanguageModel(cfg, layout)
    batch = {"tokens": jnp.arange(T)[None], **more}
    params = random_params(model, batch)
    table = params["transformer"]["embedder"].pop("table")
    weights_V = jnp.float32(np.random.default_rng(0).standard_normal(cfg.vocab_size))

    @jax.jit
    def jacobian(table):
        def outputs(table):
            embedder = params["transformer"]["embedder"] | {"table": table}
            transformer = params["transformer"] | {"embedder": embedder}
            logits, _ = model.apply(
                {"params": params | {"transformer": transformer}}, batch
            )
            return logits[0] @ weights_V

        return jnp.abs(jax.jacrev(outputs)(table)).max(-1)

    return np.asarray(jacobian(table))


LOCAL = (config.LayerSpec(config.SlidingWindow(3)),)
ahead_TS = np.arange(T)[:, None] - np.arange(T)


@pytest.mark.parametrize(
    ("model", "attention", "visible_TS"),
    [
        ({"num_layers": 1}, config.EinsumAttention(), ahead_TS >= 0),
        (
            {"positions": config.Learned(T), "num_layers": 1},
            config.BlockedAttention(5),
            ahead_TS >= 0,
        ),
        # two layers with a window of 3 reach 2 + 2 positions back
        (
            {"groups": (config.Group(2, LOCAL),)},
            config.BlockedAttention(5),
            (ahead_TS >= 0) & (ahead_TS < 5),
        ),
        (
            {"architecture": "encoder", "num_layers": 1},
            config.EinsumAttention(),
            ahead_TS < T,
        ),
        (
            {"architecture": "encoder", "groups": (config.Group(1, LOCAL),)},
            config.BlockedAttention(4),
            abs(ahead_TS) < 3,
        ),
    ],
)
def test_a_logit_depends_on_what_it_may_see(
    model, attention, visible_TS, tiny, random_params
):
    cfg = dataclasses.replace(tiny, **model)
    layout = config.LayoutConfig(attention=attention)
    got_TS = influence(cfg, layout, random_params)[:, :T]
    assert (got_TS[~visible_TS] == 0).all()
    assert (got_TS[visible_TS] > 0).all()


def test_a_decoder_sees_all_of_the_encoder_and_its_own_past(tiny, random_params):
    cfg = dataclasses.replace(tiny, architecture="encoder_decoder", num_layers=1)
    source = {
        "encoder_tokens": jnp.arange(20, 26)[None],
        "encoder_segment_ids": jnp.array([[1, 1, 1, 1, 0, 0]]),
    }
    got_TV = influence(cfg, config.LayoutConfig(), random_params, **source)
    assert (got_TV[:, :T][ahead_TS < 0] == 0).all()
    assert (got_TV[:, :T][ahead_TS >= 0] > 0).all()
    assert (got_TV[:, 20:24] > 0).all()
    assert (got_TV[:, 24:26] == 0).all()  # padding of the source


def test_a_prefix_is_seen_by_all(tiny, random_params):
    cfg = dataclasses.replace(tiny, num_layers=1)
    prefix_T = np.arange(T) < 4
    for attention in (config.EinsumAttention(), config.BlockedAttention(5)):
        layout = config.LayoutConfig(attention=attention)
        prefix = jnp.asarray(prefix_T[None])
        got_TS = influence(cfg, layout, random_params, prefix=prefix)[:, :T]
        assert ((got_TS > 0) == ((ahead_TS >= 0) | prefix_T)).all()


def test_a_query_stream_never_sees_its_own_token(tiny, random_params):
    """Nor those after it in its order, through any number of layers (XLNet)."""
    cfg = dataclasses.replace(
        tiny,
        architecture="encoder",
        positions=config.TransformerXL(),
        num_layers=3,
        num_kv_heads=None,
    )
    place_T = np.random.default_rng(0).permutation(T)  # of each token in the order
    before_TS = place_T[None] < place_T[:, None]
    hidden = jnp.asarray(~before_TS[None])
    got_TS = influence(cfg, config.LayoutConfig(), random_params, hidden_mask=hidden)
    got_TS = got_TS[:, :T]
    assert (got_TS[~before_TS] == 0).all()
    assert (got_TS[before_TS] > 0).all()
    assert not before_TS[place_T == 0].any()  # the first sees nothing at all
