"""From loading to saving nothing is lost: the family, its keys, ids of tokens."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmjax import config, hub
from llmjax.config import Rotary
from llmjax.hub import families
from llmjax.hub.save import find_family
from llmjax.models.heads.encoder import Encoder
from llmjax.models.heads.language import LanguageModel
from tests.parity import goldens

pytestmark = pytest.mark.usefixtures("quick_compile")

NAMES = sorted(path.stem for path in goldens.FOLDER.glob("*.npz"))


def written(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_is_saved_as_it_was(tmp_path, name):
    """Its family, every key of its config.json, every tensor."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    goldens.read(goldens.FOLDER / f"{name}.npz").write(theirs)
    generation = {"eos_token_id": [2, 3], "temperature": 0.6}
    (theirs / "generation_config.json").write_text(json.dumps(generation))
    hub.save(*hub.load(theirs), tmp_path / "ours")
    before, after = written(theirs), written(tmp_path / "ours")
    assert after == {k: v for k, v in before.items() if k != "transformers_version"}
    a, b = (load_file(p / "model.safetensors") for p in (theirs, tmp_path / "ours"))
    # a discriminator's pooler and the like, which no model reads, may be gone
    assert b.keys() <= a.keys() and all((a[k] == b[k]).all() for k in b)
    file = tmp_path / "ours" / "generation_config.json"
    assert json.loads(file.read_text()) == generation


def test_a_head_is_written_under_the_names_that_the_config_says(tmp_path, edit):
    """DeBERTa v3's own files have `legacy` false; we write the older names."""
    goldens.read(goldens.FOLDER / "deberta-v2-v3.npz").write(tmp_path)
    edit(tmp_path / "config.json", legacy=False)
    hub.save(*hub.load(tmp_path), tmp_path / "ours")
    assert written(tmp_path / "ours")["legacy"] is True
    names = load_file(tmp_path / "ours" / "model.safetensors").keys()
    assert any(name.startswith("cls.predictions.") for name in names)


def test_another_family_s_key_of_that_name_stays(folder, tmp_path, edit):
    edit(folder / "config.json", legacy=False)
    hub.save(*hub.load(folder), tmp_path / "ours")
    assert written(tmp_path / "ours")["legacy"] is False


KEYS = {
    "max_position_embeddings": 32768,
    "bos_token_id": 5,
    "eos_token_id": [6, 7],
    "pad_token_id": 8,
    "rope_theta": 5e5,
    "use_cache": False,
    "torch_dtype": "float16",
    "auto_map": {"AutoModel": "modeling.Model"},
}


@pytest.fixture
def loaded(folder, edit):
    """The tiny Llama as others wrote it: older spellings, keys of their own."""
    edit(folder / "config.json", rope_parameters=None, **KEYS)
    return hub.load(folder)


def test_keys_that_we_do_not_read_are_kept(tmp_path, loaded):
    hub.save(*loaded, tmp_path / "again")
    kept = written(tmp_path / "again")
    assert {k: kept.get(k) for k in KEYS} == KEYS | {"torch_dtype": None} | {
        "auto_map": None
    }
    assert kept["dtype"] == "float32"


def test_a_model_that_was_changed_keeps_what_is_still_true(tmp_path, loaded):
    model, params = loaded
    cfg = dataclasses.replace(model.cfg, positions=Rotary(9e3))
    hub.save(model.clone(cfg=cfg), params, tmp_path / "again")
    kept = written(tmp_path / "again")
    assert kept["rope_parameters"]["rope_theta"] == 9e3
    ids = {k: v for k, v in KEYS.items() if k.endswith("token_id")}
    assert ids | {"max_position_embeddings": 32768} == {
        k: kept[k] for k in (*ids, "max_position_embeddings")
    }
    assert hub.load(tmp_path / "again")[0].cfg.positions == Rotary(9e3)


def test_another_family_takes_the_ids_alone(tmp_path, loaded):
    hub.save(*loaded, tmp_path / "again", family="mistral")
    kept = written(tmp_path / "again")
    assert (kept["model_type"], kept["eos_token_id"]) == ("mistral", [6, 7])
    assert kept["max_position_embeddings"] == 32768
    assert "use_cache" not in kept


def test_a_family_that_no_longer_fits_is_left(tmp_path, folder):
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    config = written(folder) | mistral | {"sliding_window": None}
    (folder / "config.json").write_text(json.dumps(config))
    model, params = hub.load(folder)
    assert find_family(model.cfg, "LanguageModel").name == "llama"
    assert hub.save(model, params, tmp_path / "same").name == "mistral"
    biased = dataclasses.replace(model.cfg, biases="all")
    assert find_family(biased, "LanguageModel", first="mistral").name == "llama"


def test_where_a_head_came_from_is_no_part_of_its_identity(loaded):
    """Programs compiled for one serve the other."""
    model, _ = loaded
    fresh = LanguageModel(model.cfg)
    assert model == fresh and hash(model) == hash(fresh)
    assert "use_cache" not in repr(model)


# --- a family says only what its class reads -----------------------------------------

PART = Rotary(fraction=0.5)
READ_PARTS = ("phi3", "gpt_neox")  # of transformers' classes, those that read it


@pytest.mark.parametrize("name", families.MODULES)
def test_parts_of_heads_turn_where_the_class_turns_parts(name):
    """By tests.parity.saved: the others ignore partial_rotary_factor, or fail."""
    family = families.family(name)
    for cfg in (config.ModelConfig(), config.ModelConfig(biases="all")):
        for norm in (cfg.norm, config.LayerNorm()):
            for mlp in (cfg.mlp, config.Plain()):
                part = dataclasses.replace(cfg, positions=PART, norm=norm, mlp=mlp)
                try:
                    find_family(part, "LanguageModel", name)
                except ValueError:
                    continue
                assert family.name in READ_PARTS
                return
    assert family.name not in READ_PARTS


def test_a_phi_3_that_turns_parts_stays_one(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    goldens.read(goldens.path("phi3/partial")).write(theirs)
    model, params = hub.load(theirs)
    fresh = LanguageModel(model.cfg)
    for name, one in (("loaded", model), ("fresh", fresh)):
        assert hub.save(one, params, tmp_path / name).name == "phi3"
        again, _ = hub.load(tmp_path / name)
        assert again.cfg.positions == model.cfg.positions
        assert again.cfg.positions.fraction == 0.5


# --- bare models ---------------------------------------------------------------------


def test_bert_s_body_is_bert_s_with_a_pooler_or_without(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    goldens.read(goldens.path("bert/pooled")).write(theirs)
    model, params = hub.load(theirs)
    body = {"transformer": params["transformer"]}
    bare = dataclasses.replace(model.cfg, pooler=False)
    assert hub.save(Encoder(bare), body, tmp_path / "fresh").name == "bert"
    assert written(tmp_path / "fresh")["architectures"] == ["BertModel"]
    # `BertModel(config, add_pooling_layer=False)`
    file = theirs / "model.safetensors"
    tensors = {k: v for k, v in load_file(file).items() if "pooler" not in k}
    save_file(tensors, file)
    again, loaded = hub.load(theirs)
    assert again.cfg == bare and set(loaded) == {"transformer"}
    hub.save(again, loaded, tmp_path / "again")
    assert written(tmp_path / "again")["architectures"] == ["BertModel"]
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()


def test_half_a_pooler_is_refused(tmp_path):
    goldens.read(goldens.path("bert/pooled")).write(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    (bias,) = (name for name in tensors if name.endswith("pooler.dense.bias"))
    del tensors[bias]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"lacks the tensor '.*pooler.dense.bias'"):
        hub.load(tmp_path)


def test_gguf_says_ids_and_length_too(tmp_path, cfg, params, write_gguf):
    tensors = hub.to_hub(families.family("llama"), cfg, params)
    ids = {"bos_token_id": 3, "eos_token_id": 4}
    path = write_gguf(tmp_path / "m.gguf", cfg, tensors, **ids)
    hub.save(*hub.load(path), tmp_path / "again")
    kept = written(tmp_path / "again")
    assert ids.items() <= kept.items()
    assert kept["max_position_embeddings"] == 64
    np.testing.assert_equal(kept["dtype"], "float32")
