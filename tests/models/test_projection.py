"""Every matrix of every model goes through `Projection.__call__`, once a use."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax import config
from llmjax.config import FullRemat, LayoutConfig, ModelConfig, NoRemat
from llmjax.models.cache import empty_cache
from llmjax.models.forward import forward, variables
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.pairs import PairModel
from llmjax.models.heads.replaced_tokens import Discriminator
from llmjax.models.layers import Projection

TOKENS = jnp.arange(12).reshape(2, 6) * 7 % 40
BATCH = {"tokens": TOKENS, "encoder_tokens": TOKENS[:, ::-1], "token_types": TOKENS % 2}
SIZES = {"vocab_size": 40, "d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 4}
MATRICES = (
    "kernel",
    "table",
    "unembedding",
    "positions",
    "token_types",
    "bias_table",
    "segments",
)
VECTORS = ("scale", "bias", "output_bias", "position_bias", "segment_bias")
VECTORS += ("content_bias", "query_stream", "balance")


def mixture(dispatch) -> config.Mixture:
    return config.Mixture(4, 2, 8, 8, dispatch=dispatch, balance=config.BalanceBias())


BERT = ModelConfig(
    **SIZES,
    architecture="encoder",
    positions=config.Learned(16),
    token_types=2,
    embedding_size=8,
    output=config.Transformed(),
    tie_embeddings=False,
    biases="all",
)
MODELS = {
    "decoder": LanguageModel(ModelConfig(**SIZES)),
    "untied": LanguageModel(ModelConfig(**SIZES, tie_embeddings=False)),
    "dropless": LanguageModel(ModelConfig(**SIZES, mlp=mixture(config.Dropless()))),
    "capacity": LanguageModel(ModelConfig(**SIZES, mlp=mixture(config.Capacity(8.0)))),
    "latent": LanguageModel(ModelConfig(**SIZES, heads=config.Latent(8, 8, 4, 4))),
    "pairs": PairModel(BERT),
    "discriminator": Discriminator(BERT),
    "encoder_decoder": LanguageModel(
        ModelConfig(
            **SIZES, architecture="encoder_decoder", positions=config.RelativeBias()
        )
    ),
    "disentangled": LanguageModel(
        ModelConfig(**SIZES, positions=config.Disentangled(4, 8))
    ),
    "transformer_xl": LanguageModel(
        ModelConfig(**SIZES, positions=config.TransformerXL(segments=True))
    ),
}


def perturb(call, args, kwargs, context):
    """Adds to each matrix a parameter `*_delta` that the interceptor creates."""
    y = call(*args, **kwargs)
    module = context.module
    if not (isinstance(module, Projection) and context.method_name == "__call__"):
        return y
    name = f"{module.parameter}_delta"
    delta = module.param(name, nn.initializers.zeros, module.shape)
    return y + (jnp.einsum(module.equation, args[0], delta) if args else delta)


def with_deltas(params, deltas):
    """`params` with a leaf `*_delta` beside each of those in `deltas`."""
    beside = {(*p[:-1], f"{p[-1]}_delta"): d for p, d in deltas.items()}
    return {"params": unflatten_dict({**flatten_dict(params), **beside})}


def plus(params, deltas):
    flat = flatten_dict(params)
    added = {path: flat[path] + delta for path, delta in deltas.items()}
    return {"params": unflatten_dict({**flat, **added})}


def check(model, params, call):
    """`call` gives values and gradients by the kernels as by what is added to them."""
    flat = flatten_dict(params)
    assert {path[-1] for path in flat} <= {*MATRICES, *VECTORS}
    rng = np.random.default_rng(1)
    deltas = {
        path: jnp.float32(0.1 * rng.standard_normal(leaf.shape))
        for path, leaf in flat.items()
        if path[-1] in MATRICES
    }

    def loss(add):
        def of(deltas):
            out = call(add(params, deltas))
            leaves = [x for x in jax.tree.leaves(out) if x.dtype == jnp.float32]
            return sum(jnp.sum(jnp.sin(x)) for x in leaves)

        return jax.jit(jax.value_and_grad(of))(deltas)

    with nn.intercept_methods(perturb):
        value, gradient = loss(with_deltas)
    expected, expected_gradient = loss(plus)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    for path, leaf in expected_gradient.items():
        # tables of positions that nobody reads have none
        np.testing.assert_allclose(
            gradient[path], leaf, rtol=2e-3, atol=2e-4, err_msg="/".join(path)
        )


@pytest.mark.parametrize("name", MODELS)
def test_what_is_added_at_the_projection_is_added_to_the_matrix(name, random_params):
    model = MODELS[name]
    params = random_params(model, BATCH)
    check(model, params, lambda v: model.apply(v, BATCH))


@pytest.mark.parametrize("name", ["latent", "decoder", "encoder_decoder"])
def test_so_it_is_with_a_cache(name, random_params):
    model = MODELS[name]
    params = random_params(model, BATCH)
    cache = empty_cache(model.cfg, 2, 6, jnp.dtype("float32"), encoder_length=6)
    check(model, params, lambda v: model.apply(v, BATCH, cache)[0])


class LowRank(nn.Module):
    """x A B beside a projection "BTD,DNH->BTNH"."""

    base: Projection

    @nn.compact
    def __call__(self, x_BTD):
        (D, *heads), axes = self.base.shape, self.base.axes
        normal, zeros = nn.initializers.normal(1.0), nn.initializers.zeros
        down = nn.with_logical_partitioning(normal, ("D", None))
        up = nn.with_logical_partitioning(zeros, (None, *axes[1:]))
        a_DR = self.param("a", down, (D, 3))
        b_RNH = self.param("b", up, (3, *heads))
        return jnp.einsum("BTD,DR,RNH->BTNH", x_BTD, a_DR, b_RNH)


def low_rank(call, args, kwargs, context):
    """Queries and values get a `LowRank`, created in the scan."""
    y = call(*args, **kwargs)
    module = context.module
    if not isinstance(module, Projection) or module.name not in ("query", "value"):
        return y
    return y + LowRank(module, name="low_rank")(*args)


@pytest.mark.parametrize("remat", [NoRemat(), FullRemat()])
def test_an_interceptor_creates_parameters_in_the_scan(remat, random_params):
    cfg = ModelConfig(**SIZES)
    plain = LanguageModel(cfg, LayoutConfig(remat=remat))

    def initial():
        return jax.jit(lambda: plain.init(jax.random.key(0), BATCH))()["params"]

    base = flatten_dict(flax.core.meta.unbox(initial()))
    with nn.intercept_methods(low_rank):
        adapted = flatten_dict(initial())
    unboxed = {path: flax.core.meta.unbox(leaf) for path, leaf in adapted.items()}
    for path, leaf in base.items():
        np.testing.assert_array_equal(leaf, unboxed[path])  # the same initial bits
    query = ("transformer", "stack", "group_0", "layer_0", "attention", "query")
    assert adapted[*query, "low_rank", "a"].names == ("L", "D", None)
    assert unboxed[*query, "low_rank", "a"].shape == (2, 16, 3)
    assert not np.array_equal(
        *unboxed[*query, "low_rank", "a"]
    )  # a draw of its own a layer

    rng = np.random.default_rng(0)
    trained = {
        path: jnp.float32(0.3 * rng.standard_normal(leaf.shape))
        for path, leaf in unboxed.items()
        if path not in base
    }

    def logits(trained, base):
        params = unflatten_dict(trained)
        merged = variables(params, {"params": unflatten_dict(base)})
        return forward(plain, merged, BATCH)[0][0]

    with nn.intercept_methods(low_rank):
        got = jax.jit(logits)(trained, base)
        gradient = jax.jit(jax.grad(lambda t: jnp.sum(logits(t, base) ** 2)))(trained)
    merged = dict(base)
    for name in ("query", "value"):
        path = (*query[:-1], name)
        delta = jnp.einsum(
            "LDR,LRNH->LDNH",
            trained[*path, "low_rank", "a"],
            trained[*path, "low_rank", "b"],
        )
        merged[*path, "kernel"] = base[*path, "kernel"] + delta
    want = jax.jit(logits)({}, merged)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert len(gradient) == 4
    assert all(float(jnp.abs(g).max()) > 0 for g in gradient.values())
