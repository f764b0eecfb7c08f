"""GGUF: llama.cpp's names and row order, every type, nothing beyond the file."""

import dataclasses
import re
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType, RopeScalingType, quants

from llmjax import hub
from llmjax.config import LayoutConfig, LinearScaling, Llama3Scaling, Rotary
from llmjax.hub import families, gguf
from llmjax.models.heads.language import LanguageModel
from llmjax.models.positions.rotary import rotary
from llmjax.parallel.mesh import make_mesh


@pytest.fixture(scope="module")
def wide(cfg):
    """Sizes that blocks of 32 divide."""
    return dataclasses.replace(cfg, vocab_size=48, d_model=64, d_ff=96, head_dim=16)


@pytest.fixture(scope="module")
def wide_params(wide, random_params):
    return random_params(LanguageModel(wide), {"tokens": jnp.zeros((1, 4), jnp.int32)})


@pytest.fixture(scope="module")
def wide_tensors(wide, wide_params):
    return hub.to_hub(families.family("llama"), wide, wide_params)


def test_float32_comes_back_bit_for_bit(
    tmp_path, wide, wide_params, wide_tensors, write_gguf, same
):
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors)
    model, params = hub.load(path)
    same(params, wide_params)
    assert model.cfg == dataclasses.replace(
        wide, norm=model.cfg.norm
    )  # its epsilon was stored as a float32
    assert model.cfg.norm.epsilon == pytest.approx(wide.norm.epsilon, rel=1e-6)


def test_tied_and_linear_rope(tmp_path, wide, wide_tensors, write_gguf):
    tensors = {k: v for k, v in wide_tensors.items() if k != "lm_head.weight"}
    path = write_gguf(
        tmp_path / "m.gguf",
        wide,
        tensors,
        rope_scaling_type=RopeScalingType.LINEAR,
        rope_scaling_factor=4.0,
    )
    model, params = hub.load(path)
    assert model.cfg.tie_embeddings and "unembedding" not in params
    assert model.cfg.positions == Rotary(scaling=LinearScaling(4.0))


def test_llama_3_s_rope_is_read_from_its_frequencies(
    tmp_path, wide, wide_tensors, write_gguf
):
    scaling = Llama3Scaling(8.0, 1.0, 4.0, original_length=64)
    scaled = dataclasses.replace(wide, positions=Rotary(scaling=scaling))
    rates = 10_000.0 ** (-np.arange(8) / 8)
    turns = scaling.original_length * rates / (2 * np.pi)
    kept = np.clip((turns - 1.0) / (4.0 - 1.0), 0, 1)  # 1 fast, 0 slow
    divisors = (1 / (kept + (1 - kept) / 8.0)).astype(np.float32)
    assert divisors[0] == 1 and divisors[-1] == 8 and len(set(divisors)) > 2
    path = write_gguf(
        tmp_path / "m.gguf",
        scaled,
        wide_tensors | {"rope_freqs.weight": divisors},
        rope_dimension_count=16,
    )
    positions = hub.load(path)[0].cfg.positions
    x_BTNH = jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, 2, 16)))
    positions_BT = 7 * jnp.arange(9)[None]
    np.testing.assert_allclose(
        rotary(x_BTNH, positions_BT, positions, 16),
        rotary(x_BTNH, positions_BT, scaled.positions, 16),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_is_what_the_library_dequantises(
    tmp_path, wide, wide_tensors, write_gguf, kind
):
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors, lambda name: kind)
    _, params = hub.load(path)
    name, q = "model.layers.1.mlp.up_proj.weight", GGMLQuantizationType[kind]
    expected = quants.dequantize(quants.quantize(wide_tensors[name], q), q)
    up = params["transformer"]["stack"]["group_0"]["layer_0"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(up[1], expected.T)
    assert up.dtype == jnp.float32


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16"])
def test_sharded_is_the_same(tmp_path, wide, wide_tensors, write_gguf, same, kind):
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors, lambda name: kind)
    mesh = make_mesh(LayoutConfig(data=1, fsdp=4, tensor=2))
    _, params = hub.load(path)
    same(hub.load(path, mesh=mesh)[1], params)
    stored = {"Q8_0": "float32", "F16": "float16", "BF16": "bfloat16"}[kind]
    assert params["transformer"]["embedder"]["table"].dtype == stored


def test_slices_of_every_type_that_can_be_written(tmp_path, write_gguf, wide):
    """Slices of rows of 512, cut within and across blocks of 32 and 256."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal((6, 512)).astype(np.float32)
    cuts = (slice(0, 512), slice(5, 70), slice(256, 257), slice(300, 512))
    tested = 0
    for kind in GGMLQuantizationType:
        try:
            raw = quants.quantize(array, kind)
            whole = quants.dequantize(raw, kind)
        except NotImplementedError:
            continue
        quantise = {"w": kind.name}.get
        path = write_gguf(tmp_path / "m.gguf", wide, {"w": array}, quantise)
        stored = gguf.open_gguf(path)[1]["w"]
        for cut in cuts:
            part = stored.read((slice(1, 4), cut))
            assert part.dtype == stored.dtype
            np.testing.assert_array_equal(np.float32(part), whole[1:4, cut], kind.name)
        tested += 1
    assert tested >= 10


# --- errors --------------------------------------------------------------------------


def test_integers_are_no_weights(tmp_path, wide, wide_tensors, write_gguf):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = wide_tensors | {name: wide_tensors[name].astype(np.int32)}
    path = write_gguf(tmp_path / "m.gguf", wide, tensors)
    with pytest.raises(ValueError, match=r"'blk.1.ffn_up.weight' is of type I32"):
        hub.load(path)


@pytest.mark.parametrize("size", [7, 16])
def test_frequencies_that_do_not_fit(tmp_path, wide, wide_tensors, write_gguf, size):
    tensors = wide_tensors | {"rope_freqs.weight": np.ones(size, np.float32)}
    path = write_gguf(tmp_path / "m.gguf", wide, tensors, rope_dimension_count=16)
    with pytest.raises(ValueError, match=rf"rope_freqs.weight has the shape \({size},"):
        hub.load(path)


@pytest.mark.parametrize("name", ["rope.scaling.factor", "rope.scale_linear"])
@pytest.mark.parametrize("kind", [None, "linear", "none"])
def test_a_factor_is_linear_where_no_type_says_otherwise(
    tmp_path, wide, wide_tensors, write_gguf, name, kind
):
    """llama.cpp's default type, and its older name of the key."""
    said = {f"llama.{name}": 4.0} | ({"llama.rope.scaling.type": kind} if kind else {})
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors, also=said)
    positions = hub.load(path)[0].cfg.positions
    assert positions == (
        Rotary() if kind == "none" else Rotary(scaling=LinearScaling(4.0))
    )


def test_a_factor_and_frequencies_multiply(tmp_path, wide, wide_tensors, write_gguf):
    divisors = np.linspace(1, 8, 8, dtype=np.float32)
    path = write_gguf(
        tmp_path / "m.gguf",
        wide,
        wide_tensors | {"rope_freqs.weight": divisors},
        also={"llama.rope.scaling.factor": 2.0},
    )
    scaling = hub.load(path)[0].cfg.positions.scaling
    assert scaling.short == scaling.long == tuple(2 * d for d in divisors.tolist())


def test_one_number_for_each_layer(tmp_path, wide, wide_tensors, write_gguf):
    same = {"llama.attention.head_count_kv": [wide.K] * 3}
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors, also=same)
    assert hub.load(path)[0].cfg.K == wide.K


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope.scaling.type", "yarn", "rope.scaling.type is 'yarn'; accepted: 'none'"),
        ("rope.scaling.type", 7, "rope.scaling.type is 7; accepted: 'none'"),
        ("rope.scaling.factor", -2.0, "factor is -2.0; accepted: a finite number"),
        ("rope.scaling.factor", float("nan"), "factor is nan; accepted: a finite"),
        ("rope.scaling.factor", "4", "factor is 4; accepted: a finite number"),
        ("rope.freq_base", -1.0, "freq_base is -1.0; accepted: a finite number"),
        ("rope.dimension_count", 8, "dimension_count is 8; accepted: 16, the size of"),
        ("attention.value_length", 8, "value_length is 8; accepted: 16, the size of"),
        ("attention.key_length", -1, "key_length is -1; accepted: a whole number"),
        (
            "attention.head_count_kv",
            [2, 1, 2],
            r"kv is \[2, 1, 2\]; .* the same",
        ),
        ("attention.head_count_kv", ["a"], r"kv is \['a'\]; accepted: a whole number"),
        ("attention.head_count", 4.0, "head_count is 4.0; accepted: a whole number"),
        ("feed_forward_length", [96, 64, 96], "accepted: the same in all layers"),
        ("block_count", True, "block_count is True; accepted: a whole number"),
        ("context_length", 0, "context_length is 0; accepted: a whole number"),
        ("attention.layer_norm_rms_epsilon", -1e-5, "accepted: a finite number"),
        ("expert_count", 8, "llama.expert_count is 8; accepted: 0"),
        ("logit_scale", 0.5, "llama.logit_scale is 0.5; accepted: 0.0 or 1.0"),
        ("attention.causal", False, "llama.attention.causal is False; accepted: True"),
        ("rope.scaling.attn_factor", 1.5, "attn_factor is 1.5; accepted: 0.0 or 1.0"),
    ],
)
def test_a_key_that_is_not_this_model_s(
    tmp_path, wide, wide_tensors, write_gguf, key, value, message
):
    path = tmp_path / "m.gguf"
    write_gguf(path, wide, wide_tensors, also={f"llama.{key}": value})
    with pytest.raises(ValueError, match=f"m.gguf: llama.{key} is .*; accepted") as e:
        hub.load(path)
    assert re.search(message, str(e.value))


def test_a_key_that_is_missing(tmp_path, wide, wide_tensors, write_gguf):
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors)
    key = b"llama.attention.layer_norm_rms_epsilon"
    path.write_bytes(path.read_bytes().replace(key, key[:-1] + b"m"))
    with pytest.raises(ValueError, match="lacks the key 'llama.attention.layer_norm"):
        hub.load(path)


def test_arrays_in_arrays(tmp_path, wide, wide_tensors, write_gguf, same, wide_params):
    also = {"general.nested": [[1, 2], [3]], "general.texts": [["a"], ["b", "c"]]}
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors, also=also)
    metadata = gguf.read_metadata(path)
    assert [list(row) for row in metadata["general.nested"]] == [[1, 2], [3]]
    assert metadata["general.texts"] == [["a"], ["b", "c"]]
    same(hub.load(path)[1], wide_params)


def header(tensors=b"", count=0, *pairs) -> bytes:
    """A GGUF file of version 3 from its metadata and tensor infos as bytes."""
    counts = struct.pack("<QQ", count, len(pairs))
    return b"GGUF\x03\0\0\0" + counts + b"".join(pairs) + tensors


def text(s: bytes) -> bytes:
    return struct.pack("<Q", len(s)) + s


def info(name=b"w", shape=(4,), kind=0, offset=0) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + axes + struct.pack("<IQ", kind, offset)


def nested(depth: int) -> bytes:
    """The array [[…[]…]]."""
    return struct.pack("<IQ", 9, 1) * (depth - 1) + struct.pack("<IQ", 4, 0)


HUGE = 2**63


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"GGML" + bytes(60), "begins with b'GGML'"),
        (b"GGUF\x01\0\0\0" + bytes(60), "version is 1"),
        (b"GGUF\x03\0\0\0" + struct.pack("<QQ", HUGE, 0), "items at 16"),
        (b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, HUGE), "items at 24"),
        (header(b"", 0, text(b"k") + struct.pack("<IQ", 8, HUGE)), "items at"),
        (header(b"", 0, text(b"k") + struct.pack("<IIQ", 9, 4, HUGE)), "items at"),
        (header(b"", 0, text(b"k") + struct.pack("<IIQ", 9, 8, HUGE)), "items at"),
        (header(b"", 0, text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "1 items at 49"),
        (
            header(b"", 0, text(b"k") + struct.pack("<I", 9) + nested(9)),
            "arrays 8 deep",
        ),
        (
            b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(8),
            "big-endian machines; convert it with `gguf-convert-endian",
        ),
        (header(b"", 0, text(b"k") + struct.pack("<IQ", 99, 0)), "unknown type 99"),
        (header(b"", 0, text(b"\xff") + struct.pack("<IQ", 4, 0)), "not UTF-8"),
        (header(b"", 0, *[text(b"k") + struct.pack("<II", 4, 1)] * 2), "'k' stands"),
        (header(info(shape=(1,) * 5) + bytes(64), 1), "has 5 axes"),
        (header(info(shape=()) + bytes(64), 1), "has 0 axes"),
        (header(info(shape=(HUGE, 2)) + bytes(64), 1), "beyond the file's end"),
        (header(info(shape=(0, HUGE)) + bytes(64), 1), "has the shape"),
        (header(info(offset=HUGE) + bytes(64), 1), "beyond the file's end"),
        (header(info(kind=999) + bytes(64), 1), "the unknown type 999"),
        (header(info(kind=8) + bytes(64), 1), "blocks of 32"),
        (header(info() + info() + bytes(64), 2), "'w' stands there twice"),
        (header(info() + info(b"v", offset=8) + bytes(64), 2), "overlap"),
        (
            header(
                info() + bytes(64),
                1,
                text(b"general.alignment") + struct.pack("<II", 4, 0),
            ),
            "alignment is 0",
        ),
        (
            header(b"", 0, text(b"split.count") + struct.pack("<II", 4, 3)),
            "one of 3 parts",
        ),
    ],
)
def test_a_broken_header_names_the_file(tmp_path, content, message):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"m.gguf.*{message}"):
        gguf.open_gguf(path)


def test_an_architecture_that_is_not_known(tmp_path, wide, wide_tensors, write_gguf):
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors)
    path.write_bytes(path.read_bytes().replace(text(b"llama"), text(b"lama2")))
    with pytest.raises(ValueError, match="'lama2'; accepted:"):
        hub.load(path)


def test_a_family_without_gguf_says_so(
    tmp_path, wide, wide_tensors, write_gguf, monkeypatch
):
    path = write_gguf(tmp_path / "m.gguf", wide, wide_tensors)
    without = dataclasses.replace(families.family("llama"), gguf=None)
    monkeypatch.setattr(families, "family", lambda name: without)
    with pytest.raises(ValueError, match="llama, whose names in GGUF are unknown"):
        hub.load(path)


def test_without_the_library_the_remedy_is_named(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(header(info() + bytes(64), 1))
    monkeypatch.setitem(sys.modules, "gguf", None)
    gguf._kind.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'llmjax\[gguf\]'"):
        gguf.open_gguf(path)
