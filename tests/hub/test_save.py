"""Saving: what the hub calls it, whole or not at all."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llmjax import config, hub
from llmjax.config import Alibi, LayerNorm, LayoutConfig, Sinusoidal
from llmjax.hub import families
from llmjax.hub.files import INDEX
from llmjax.hub.save import find_family
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from llmjax.parallel.mesh import make_mesh


def test_names_and_layouts_are_the_hub_s(folder, params, cfg):
    tensors = load_file(folder / "model.safetensors")
    block = params["transformer"]["stack"]["group_0"]["layer_0"]
    D, N, H = cfg.d_model, cfg.num_heads, cfg.H
    query = np.asarray(block["attention"]["query"]["kernel"])[2]  # [D, N, H]
    np.testing.assert_array_equal(
        tensors["model.layers.2.self_attn.q_proj.weight"], query.reshape(D, N * H).T
    )
    out = np.asarray(block["attention"]["out"]["kernel"])[0]  # [N, H, D]
    np.testing.assert_array_equal(
        tensors["model.layers.0.self_attn.o_proj.weight"], out.reshape(N * H, D).T
    )
    np.testing.assert_array_equal(tensors["lm_head.weight"], params["unembedding"])
    assert len(tensors) == 3 + 9 * cfg.L


def test_config_says_what_transformers_reads(folder):
    hf = json.loads((folder / "config.json").read_text())
    assert hf["architectures"] == ["LlamaForCausalLM"]
    assert (hf["model_type"], hf["dtype"]) == ("llama", "float32")
    assert (hf["head_dim"], hf["num_key_value_heads"]) == (6, 2)
    assert hf["rope_parameters"] == {"rope_theta": 10_000.0, "rope_type": "default"}


def test_shards_and_index_hold_all(shards, folder):
    index = json.loads((shards / INDEX).read_text())
    whole = load_file(folder / "model.safetensors")
    files = sorted(p.name for p in shards.glob("*.safetensors"))
    assert files[0].startswith("model-00001-of-0") and len(files) > 2
    assert set(index["weight_map"].values()) == set(files)
    parts = {name: load_file(shards / name) for name in files}
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(parts[file][name], whole[name])
    assert sum(map(len, parts.values())) == len(whole)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())
    assert all((shards / name).stat().st_size < 6000 for name in files)


def test_sharded_parameters_save_the_same(shards, folder, tmp_path, model):
    _, sharded = hub.load(shards, mesh=make_mesh(LayoutConfig(data=1, fsdp=8)))
    hub.save(model, sharded, tmp_path / "again")
    a, b = (p / "model.safetensors" for p in (tmp_path / "again", folder))
    assert a.read_bytes() == b.read_bytes()


def test_to_hub_is_what_save_writes(folder, cfg, params):
    tensors = load_file(folder / "model.safetensors")
    named = hub.to_hub(families.family("llama"), cfg, params)
    assert named.keys() == tensors.keys()
    for name, array in named.items():
        np.testing.assert_array_equal(array, tensors[name])
    del tensors["lm_head.weight"]
    body = {"transformer": params["transformer"]}
    bare = hub.to_hub(families.family("llama"), cfg, body, bare=True)
    assert {f"model.{name}" for name in bare} == tensors.keys()


def test_files_are_copied_along(tmp_path, model, params):
    (tmp_path / "tokenizer.json").write_text("{}")
    hub.save(model, params, tmp_path / "m", beside=[tmp_path / "tokenizer.json"])
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "{}"


# --- which family --------------------------------------------------------------------


def test_training_s_fields_do_not_matter(cfg):
    trained = dataclasses.replace(cfg, dropout=0.3, init_std=0.5)
    assert find_family(trained, "LanguageModel").name == "llama"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": Sinusoidal()}, "the family llama: .*'sinusoidal'"),
        ({"positions": Alibi()}, "the family llama: .*'alibi'"),
        ({"softcap": 30.0}, "llama: softcap is 30.0 and would become None"),
        ({"norm": LayerNorm()}, "llama: norm is LayerNorm.* and would become RMSNorm"),
    ],
)
def test_a_model_that_a_family_cannot_say(cfg, change, message):
    cfg = dataclasses.replace(cfg, **change)
    with pytest.raises(ValueError, match=message):
        find_family(cfg, "LanguageModel", "llama")


def test_a_head_that_a_family_lacks(cfg):
    with pytest.raises(ValueError, match="llama: it has no Discriminator"):
        find_family(cfg, "Discriminator", "llama")


# --- errors --------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, model, params):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; give a new folder"):
        hub.save(model, params, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note"]


def test_what_fails_leaves_nothing(tmp_path, model, params, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        hub.save(model, params, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_another_model(tmp_path, cfg, params):
    other = LanguageModel(dataclasses.replace(cfg, d_ff=32))
    with pytest.raises(ValueError, match=r"\(3, 24, 16\) at transformer/stack/group_0"):
        hub.save(other, params, tmp_path / "m")
    tied = LanguageModel(dataclasses.replace(cfg, tie_embeddings=True))
    with pytest.raises(ValueError, match="at unembedding; the model has no such leaf"):
        hub.save(tied, params, tmp_path / "m")


def test_integers_are_no_weights(tmp_path, model, params):
    params = jax.tree.map(lambda x: x.astype(jnp.int32), params)
    with pytest.raises(ValueError, match="is of type int32; accepted: BF16"):
        hub.save(model, params, tmp_path / "m")


def test_no_family_says_what_each_cannot(cfg):
    strange = dataclasses.replace(cfg, positions=Alibi(), softcap=30.0)
    with pytest.raises(
        ValueError, match="no family of the hub.*llama: .*'alibi'.*gpt2"
    ):
        find_family(strange, "LanguageModel")


def test_fields_that_a_head_does_not_read_do_not_matter(tmp_path, random_params):
    """BERT's bare models have a pooler and its language models none."""
    cfg = config.ModelConfig(
        architecture="encoder",
        vocab_size=40,
        d_model=12,
        d_ff=20,
        num_layers=1,
        num_heads=3,
        token_types=2,
        embedding_norm=True,
        positions=config.Learned(16),
        mlp=config.Plain(),
        norm=config.LayerNorm(1e-12),
        norm_position="post",
        biases="all",
        output=config.Transformed(),
        output_bias=True,
    )
    batch = {"tokens": np.zeros((1, 4), np.int32)}
    bare = dataclasses.replace(
        cfg, pooler=True, output=config.Direct(), output_bias=False
    )
    for name, model in {"lm": LanguageModel(cfg), "bare": Encoder(bare)}.items():
        params = random_params(model, batch)
        assert hub.save(model, params, tmp_path / name).name == "bert"
        _, loaded = hub.load(tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_families_of_another_architecture_are_left_out_of_the_reasons(
    monkeypatch, tiny
):
    """Whatever a near family says of an architecture inside its own reason."""
    save = importlib.import_module("llmjax.hub.save")
    told = {"bert": "its layer: architecture is odd", "t5": "architecture is a decoder"}
    monkeypatch.setattr(save, "_problem", lambda family, *_: told[family.name])
    monkeypatch.setattr(save.families, "MODULES", {name: name for name in told})
    with pytest.raises(ValueError, match=r"model\. bert: its layer: .* is odd$"):
        save.find_family(tiny, "LanguageModel")
    with pytest.raises(ValueError, match="the family t5: architecture is a decoder; "):
        save.find_family(tiny, "LanguageModel", "t5")
