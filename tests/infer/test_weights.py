"""8- and 4-bit weights: how far off, how many bytes, and that all goes on as before."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from llmjax.config import Mixture, ModelConfig
from llmjax.infer.generate import generate
from llmjax.infer.sampling import Sampling
from llmjax.infer.weights import quantize_weights
from llmjax.models.heads.language import LanguageModel

CFG = ModelConfig(
    vocab_size=40,
    d_model=128,
    d_ff=256,
    num_layers=2,
    num_heads=2,
    mlp=Mixture(num_experts=2, top_k=1, d_ff=128),
)
MODEL = LanguageModel(CFG)
BATCH = {"tokens": jnp.arange(24).reshape(2, 12) * 7 % 40}


@pytest.fixture
def params(random_params):
    return random_params(MODEL, BATCH, std=0.05)


def leaves(tree) -> dict:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def num_bytes(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 64)])
def test_kernels_are_off_by_half_a_step_at_most(params, bits, group):
    narrow = leaves(quantize_weights(MODEL, params, BATCH, bits=bits, group=group))
    for name, wide in leaves(params).items():
        if not name.endswith("kernel") or "router" in name:
            assert narrow[name] is wide
            continue
        kernel = narrow[name]
        assert kernel.qvalue.dtype == {8: jnp.int8, 4: jnp.int4}[bits]
        # by output: but for experts the summed axis is the third from the end
        summed = {"out": (-3, -2), "query": (-3,), "key": (-3,), "value": (-3,)}
        axes = summed.get(name.split("/")[-2], (-2,))
        shape = [
            n if i - wide.ndim not in axes else 1 for i, n in enumerate(wide.shape)
        ]
        shape[axes[-1]] = wide.shape[axes[-1]] // group if group else 1
        assert kernel.scale.shape == tuple(shape), name
        step = jnp.repeat(
            kernel.scale, wide.shape[axes[-1]] // shape[axes[-1]], axis=axes[-1]
        )
        error = jnp.abs(qwix.dequantize(kernel) - wide)
        assert jnp.max(error) > 0 and jnp.all(error <= 0.51 * step)


def test_8_bits_take_a_quarter_and_generate_what_they_say(params):
    narrow = quantize_weights(MODEL, params, BATCH)
    kernels = [n for n in leaves(params) if "kernel" in n and "router" not in n]
    wide_bytes = sum(num_bytes(leaves(params)[n]) for n in kernels)
    assert sum(num_bytes(leaves(narrow)[n]) for n in kernels) < 0.27 * wide_bytes

    logits = jax.jit(lambda p: MODEL.apply({"params": p}, BATCH)[0])
    wide, near = logits(params), logits(narrow)
    assert 0 < jnp.linalg.norm(near - wide) < 0.03 * jnp.linalg.norm(wide)

    prompt = np.asarray(BATCH["tokens"][0])
    greedy = Sampling(temperature=0.0)
    (tokens,) = generate(MODEL, narrow, [prompt], max_new_tokens=1, sampling=greedy)
    assert tokens == [jnp.argmax(near[0, -1])]


def test_what_cannot_be_quantised_is_refused(params):
    with pytest.raises(ValueError, match="bits is 3; accepted: 8, 4"):
        quantize_weights(MODEL, params, BATCH, bits=3)
    with pytest.raises(ValueError, match="group=48 does not divide axis"):
        quantize_weights(MODEL, params, BATCH, bits=4, group=48)
