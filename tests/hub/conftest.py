"""A tiny Llama of our own making, in the hub's formats."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from llmjax import hub
from llmjax.config import ModelConfig
from llmjax.hub.files import INDEX
from llmjax.models.heads.language import LanguageModel


@pytest.fixture(scope="session")
def cfg() -> ModelConfig:
    """Grouped keys, and a head size that is not D / N."""
    return ModelConfig(
        vocab_size=40,
        d_model=16,
        d_ff=24,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        tie_embeddings=False,
    )


@pytest.fixture(scope="session")
def model(cfg) -> LanguageModel:
    return LanguageModel(cfg)


@pytest.fixture(scope="session")
def params(model, random_params):
    return random_params(model, {"tokens": jnp.zeros((1, 4), jnp.int32)})


@pytest.fixture
def folder(tmp_path, model, params):
    """The tiny model in one safetensors file."""
    hub.save(model, params, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def shards(tmp_path, model, params):
    """The tiny model in several files and an index."""
    hub.save(model, params, tmp_path / "shards", shard_bytes=5000)
    assert (tmp_path / "shards" / INDEX).exists()
    return tmp_path / "shards"


@pytest.fixture
def edit():
    """(a json file, changes) -> the file, changed; None deletes a key."""

    def change(path, **changes):
        value = json.loads(path.read_text()) | changes
        value = {k: v for k, v in value.items() if v is not None}
        path.write_text(json.dumps(value))

    return change


@pytest.fixture(scope="session")
def same():
    """Asserts that two trees hold the same bits in the same types."""

    def check(a, b):
        a, b = (traverse_util.flatten_dict(t, sep="/") for t in (a, b))
        assert a.keys() == b.keys()
        for path in a:
            assert a[path].dtype == b[path].dtype, path
            np.testing.assert_array_equal(
                jax.device_get(a[path]), jax.device_get(b[path]), path
            )

    return check


GGUF_NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="session")
def write_gguf():
    """(path, cfg, the hub's tensors, quantise) -> a file as llama.cpp converts them.

    `quantise` names the type of a tensor of two axes, or None for its own; `also` are
    keys by their whole names, instead of those that follow from `cfg`.
    """
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quants

    def interleave(array, heads):
        """The permutation of queries and keys in convert_hf_to_gguf.py."""
        shape = array.shape
        halves = array.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
        return halves.swapaxes(1, 2).reshape(shape)

    def write(path, cfg, tensors, quantise=lambda name: None, *, also=None, **metadata):
        writer = GGUFWriter(path, "llama")
        writer.add_block_count(cfg.L)
        writer.add_context_length(64)
        writer.add_embedding_length(cfg.d_model)
        writer.add_feed_forward_length(cfg.d_ff)
        writer.add_head_count(cfg.num_heads)
        writer.add_head_count_kv(cfg.K)
        writer.add_key_length(cfg.H)
        writer.add_rope_freq_base(cfg.positions.theta)
        writer.add_layer_norm_rms_eps(cfg.norm.epsilon)
        writer.add_vocab_size(cfg.vocab_size)
        for key, value in metadata.items():
            getattr(writer, f"add_{key}")(value)
        for key, value in (also or {}).items():
            writer.kv_data[0].pop(key, None)
            writer.add_key_value(key, value, GGUFValueType.get_type(value))
        for name, array in tensors.items():
            for heads, part in ((cfg.num_heads, ".q_proj."), (cfg.K, ".k_proj.")):
                if part in name:
                    array = interleave(array, heads)
            for theirs, ours in GGUF_NAMES.items():
                name = name.replace(theirs, ours)
            kind = quantise(name) if array.ndim == 2 else None
            if kind is not None:
                kind = GGMLQuantizationType[kind]
                array = quants.quantize(np.float32(array), kind)
            writer.add_tensor(name, np.ascontiguousarray(array), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
