"""Loading: every tensor accounted for, in its type, on every mesh."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from llmjax import hub
from llmjax.config import LayoutConfig, Pipeline
from llmjax.hub.files import INDEX
from llmjax.models.forward import forward, variables
from llmjax.parallel.mesh import make_mesh

LOADING = importlib.import_module("llmjax.hub.load")  # hub.load is the function


def rewrite(folder, change):
    """Applies `change` to the dict of tensors in model.safetensors."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_one_file_and_shards_load_the_same(folder, shards, params, cfg, same):
    for path in (folder, shards):
        model, loaded = hub.load(path)
        same(loaded, params)
        assert model.cfg.layers == cfg.layers


def test_logits_are_those_of_the_saved_model(folder, model, params):
    loaded_model, loaded = hub.load(folder)
    batch = {"tokens": jnp.arange(6)[None]}
    (expected, _), _ = forward(model, variables(params), batch)
    (logits, _), _ = forward(loaded_model, variables(loaded), batch)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("base", [True, False])
def test_a_bare_model_has_names_with_or_without_the_prefix(folder, edit, base):
    def change(tensors):
        del tensors["lm_head.weight"]
        for name in list(tensors) if not base else ():
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    rewrite(folder, change)
    edit(folder / "config.json", architectures=["LlamaModel"])
    model, loaded = hub.load(folder)
    assert type(model).__name__ == "Encoder"
    assert set(loaded) == {"transformer"}


LAYOUTS = {
    "fsdp": LayoutConfig(data=1, fsdp=8),
    "tensor": LayoutConfig(data=1, tensor=2, fsdp=4),
    "data": LayoutConfig(data=8),
    "pipeline": LayoutConfig(data=-1, pipeline=Pipeline(3)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_sharded_is_the_same_and_lies_where_it_should(shards, params, same, name):
    devices = jax.devices()[: 6 if name == "pipeline" else 8]
    mesh = make_mesh(LAYOUTS[name], devices)
    _, loaded = hub.load(shards, mesh=mesh)
    same(loaded, params)
    kernel = loaded["transformer"]["stack"]["group_0"]["layer_0"]["mlp"]["up"]["kernel"]
    L, D, F = kernel.shape
    shape = {
        "fsdp": (L, D // 8, F),
        "tensor": (L, D // 4, F // 2),
        "data": (L, D, F),
        "pipeline": (L // 3, D, F),
    }
    assert {s.data.shape for s in kernel.addressable_shards} == {shape[name]}


def test_each_slice_is_read_once_and_nothing_twice(shards, monkeypatch):
    """Over eight devices, replicas included, as many values are read as are stored."""
    source = LOADING.open_model(shards)
    read = dict.fromkeys(source.tensors, 0)

    def counting(name, stored):
        def f(index):
            array = stored.read(index)
            read[name] += array.size
            return array

        return f

    for name, stored in dict(source.tensors).items():
        source.tensors[name] = dataclasses.replace(stored, read=counting(name, stored))
    monkeypatch.setattr(LOADING, "open_model", lambda path: source)
    mesh = make_mesh(LayoutConfig(data=2, tensor=2, fsdp=2))
    hub.load(shards, mesh=mesh)
    sizes = {k: int(np.prod(s.shape)) for k, s in source.tensors.items()}
    assert read == sizes


def test_a_mesh_of_other_axes_names_the_one_that_is_missing(folder):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
    with pytest.raises(ValueError, match="'data', 'model' and lacks 'pipeline'.*make_"):
        hub.load(folder, mesh=mesh)


def test_a_mesh_that_does_not_divide_names_the_leaf(shards):
    mesh = make_mesh(LayoutConfig(data=2, pipeline=Pipeline(4)))
    with pytest.raises(ValueError, match=r"group_0/layer_0.*'L' of size 3"):
        hub.load(shards, mesh=mesh)


# --- types ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_stored_type_is_kept(tmp_path, model, params, same, dtype):
    half = jax.tree.map(lambda x: x.astype(dtype), params)
    hub.save(model, half, tmp_path / "half")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == dtype
    same(hub.load(tmp_path / "half")[1], half)


def test_dtype_converts(folder, params, same):
    _, loaded = hub.load(folder, dtype="bfloat16")
    same(loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))


def test_types_that_differ_within_a_leaf_need_dtype(folder, params, same):
    name = "model.layers.1.mlp.up_proj.weight"

    def change(tensors):
        tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)

    rewrite(folder, change)
    with pytest.raises(ValueError, match=r"mlp.up_proj.weight.*bfloat16.*dtype="):
        hub.load(folder)
    _, loaded = hub.load(folder, dtype="float32")
    flat = traverse_util.flatten_dict(loaded, sep="/")
    assert {leaf.dtype for leaf in flat.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", ["int8", "float64"])
def test_dtype_must_be_one_that_weights_have(folder, dtype):
    with pytest.raises(ValueError, match="accepted: bfloat16, float16, float32"):
        hub.load(folder, dtype=dtype)


# --- strict --------------------------------------------------------------------------

UP = "model.layers.2.mlp.up_proj.weight"


def drop(tensors):
    del tensors[UP]


def add(tensors):
    tensors["model.layers.3.mlp.up_proj.weight"] = tensors[UP]


def turn(tensors):
    tensors[UP] = np.ascontiguousarray(tensors[UP].T)


def integers(tensors):
    tensors[UP] = tensors[UP].astype(np.int32)


def doubles(tensors):
    tensors[UP] = tensors[UP].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, rf"lacks the tensor '{UP}' \(24, 16\).*llama.*mlp/up/kernel"),
        (add, r"model.safetensors has the tensor 'model.layers.3.mlp.*llama"),
        (turn, rf"model.safetensors: tensor '{UP}' has the shape \(16, 24\).*llama"),
        (doubles, rf"model.safetensors: tensor '{UP}' is of type F64.*llama"),
        (integers, rf"model.safetensors: tensor '{UP}' is of type I32.*llama"),
    ],
)
def test_a_tensor_that_is_not_as_it_should_names_itself(
    folder, monkeypatch, change, message
):
    rewrite(folder, change)

    def nothing(*args, **kwargs):
        raise AssertionError("something was allocated before the check")

    monkeypatch.setattr(LOADING, "_array", nothing)
    with pytest.raises(ValueError, match=message):
        hub.load(folder)


def test_buffers_are_ignored(folder, params, same):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda tensors: tensors.update({name: np.zeros(3, np.float32)}))
    same(hub.load(folder)[1], params)


YARN = {
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 8,
    "rope_theta": 1e4,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "'lama'; accepted: llama"),
        ({"model_type": None}, "config.json: model_type is None"),
        (
            {"architectures": ["LlamaForTokens"]},
            ": LlamaForCausalLM, LLaMAForCausalLM, LlamaModel",
        ),
        ({"architectures": "LlamaModel"}, "architectures 'LlamaModel'"),
        (
            {"architectures": [["LlamaModel"]]},
            ": LlamaForCausalLM, LLaMAForCausalLM, LlamaModel",
        ),
        ({"hidden_size": None}, "config.json lacks the key 'hidden_size'"),
        ({"hidden_size": "16"}, "config.json: "),
        ({"hidden_size": -16}, "config.json: d_model is -16"),
        (
            {"hidden_size": 16.5},
            r"config.json: [\s\S]*d_model",
        ),
        ({"vocab_size": [40]}, "config.json: "),
        ({"initializer_range": {}}, r"config.json: [\s\S]*init_std"),
        ({"tie_word_embeddings": []}, r"[\s\S]*tie_embeddings"),
        ({"rms_norm_eps": {}}, "config.json: "),
        ({"num_attention_heads": 0}, "num_heads is 0"),
        ({"head_dim": 7}, "is odd"),
        ({"hidden_act": "swish9"}, "hidden_act.*'swish9'; accepted"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_type is 'spiral'"),
        ({"rope_parameters": 7}, "config.json: "),
        # numbers that would compute NaN, or something else than they say
        ({"rms_norm_eps": -1.0}, "config.json: .*epsilon is -1.0"),
        ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps is nan; accepted"),
        ({"rope_parameters": {"rope_theta": -1.0}}, "config.json: .*theta is -1.0"),
        ({"rope_parameters": {"rope_theta": 0}}, "config.json: .*theta is 0"),
        (
            {"rope_parameters": YARN | {"mscale": float("-inf")}},
            "config.json: mscale is -inf; accepted: a finite number",
        ),
        ({"rope_parameters": YARN | {"factor": 0.0}}, "config.json: .*factor is 0.0"),
        ({"rope_parameters": YARN | {"factor": -2.0}}, "config.json: .*factor is -2.0"),
        (
            {"rope_parameters": YARN | {"original_max_position_embeddings": -4}},
            "config.json: .*original_length is -4",
        ),
        ({"attention_dropout": 1.5}, "config.json: .*attention_dropout is 1.5"),
        ({"initializer_range": -1.0}, "config.json: .*init_std is -1.0"),
        # absurd sizes: refused before anything of that size exists
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; accepted"),
        ({"num_hidden_layers": 640}, "lacks the tensor 'model.layers.3."),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000; accepted"),
        ({"hidden_size": 2**31 - 2}, "d_model is 2147483646, and no tensor of the"),
        ({"vocab_size": 641}, "vocab_size is 641, and no tensor of the file has more"),
        ({"vocab_size": 640}, r"has the shape \(40, 16\).*needs \(640, 16\)"),
        ({"head_dim": 2**31 - 2}, "head_dim is 2147483646, and no tensor"),
        ({"max_position_embeddings": 2**31 - 1}, None),
    ],
)
def test_a_strange_config(folder, edit, changes, message):
    edit(folder / "config.json", **changes)
    if message is None:
        hub.load(folder)
        return
    with pytest.raises(ValueError, match=message):
        hub.load(folder)


@pytest.mark.parametrize(
    ("family", "name", "what", "body"),
    [
        (
            "marian",
            "MarianForSequenceClassification",
            "classifier of texts",
            "MarianModel",
        ),
        ("opt", "OPTForTokenClassification", "classifier of tokens", "OPTModel"),
        ("gpt2", "GPT2ForQuestionAnswering", "marks answers", "GPT2Model"),
        ("electra", "ElectraForMultipleChoice", "of choices", "ElectraModel"),
    ],
)
def test_a_classifier_says_what_it_is(folder, edit, family, name, what, body):
    edit(folder / "config.json", architectures=[name], model_type=family)
    with pytest.raises(ValueError, match=rf"of a {name}, a .*{what}.*{body}.from_pre"):
        hub.load(folder)


def test_a_classifier_s_head_under_a_plain_name(folder):
    """config.json may lack `architectures`; the tensor still says what it is."""

    def change(tensors):
        tensors["score.weight"] = np.zeros((2, 16), np.float32)

    rewrite(folder, change)
    with pytest.raises(ValueError, match=r"'score.weight' \(2, 16\).*a classifier's"):
        hub.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff", "9" * 5000])
def test_a_broken_config_names_the_file(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json"):
        hub.load(folder)


# --- files ---------------------------------------------------------------------------


def test_a_pickle_is_refused_with_the_way_out(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin and no.*save_pretrained"):
        hub.load(folder)
    for name in ("model.bin", "model.pt", "model.pth", "model.ckpt"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        with pytest.raises(ValueError, match=rf"{name} is not read.*save_pretrained"):
            hub.load(tmp_path / name)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_names_itself(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=missing):
        hub.load(folder)


def test_a_path_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="give a folder with config.json"):
        hub.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        ".hidden.safetensors",
        "a\0.safetensors",
        "..",
        "",
        7,
        "model.bin",
        "absent.safetensors",
    ],
)
def test_an_index_names_files_beside_it_only(shards, edit, name):
    index = json.loads((shards / INDEX).read_text())
    edit(shards / INDEX, weight_map=index["weight_map"] | {UP: name})
    with pytest.raises(ValueError, match="safetensors"):
        hub.load(shards)


def test_an_index_must_fit_its_shards(shards, edit):
    where = json.loads((shards / INDEX).read_text())["weight_map"]
    file = where[UP]
    edit(shards / INDEX, weight_map={k: v for k, v in where.items() if k != UP})
    with pytest.raises(ValueError, match=rf"{file} holds '{UP}'"):
        hub.load(shards)
    edit(shards / INDEX, weight_map=where | {"more": file})
    with pytest.raises(ValueError, match=rf"{file} lacks 'more'"):
        hub.load(shards)
    edit(shards / INDEX, weight_map=None)
    with pytest.raises(ValueError, match="no 'weight_map'"):
        hub.load(shards)


@pytest.mark.parametrize("size", [0, 7, 100, 20_000])
def test_a_truncated_file_names_itself(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model.safetensors.*download it again"):
        hub.load(folder)
