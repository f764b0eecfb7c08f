"""experiments.convert: the hub, GGUF and checkpoints into each other."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmjax import hub
from llmjax.config import Checkpoint, DataConfig, RunConfig
from llmjax.data.tokenizers import comparison, tokenizer
from llmjax.hub import families
from llmjax.hub.stored_model import open_model
from llmjax.models.heads.language import LanguageModel
from llmjax.train import initial
from llmjax.train.checkpoints.reading import load_params
from tests.experiments.forked import Mains
from tests.hub.test_gguf_vocabulary import describe, train

TINY_BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "architectures": ["BertForMaskedLM"],
}


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def shown(done, name):
    """What the words at the end say of `name`."""
    assert done.code == 0, done.err
    return re.findall(rf"^{name} +(.*)$", done.out, re.MULTILINE)[-1]


def test_hub_to_checkpoint_and_back(mains, folder, tmp_path, cfg, params, same):
    (folder / "tokenizer.json").write_text("{}")
    run = tmp_path / "run"
    done = mains.run("convert", f"--source={folder}", f"--target={run}")
    assert shown(done, "written") == "checkpoint"
    assert int(shown(done, "tensors read")) == len(open_model(folder).tensors)
    assert "model.layers" not in done.out and "older names" not in done.out
    config, loaded = load_params(run)
    same(loaded, params)
    assert config.model.layers == cfg.layers

    again = tmp_path / "again"
    done = mains.run("convert", f"--source={run}", f"--target={again}")
    assert shown(done, "written") == "hub, llama"
    a, b = (load_file(p / "model.safetensors") for p in (folder, again))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("to", ["hub", "checkpoint"])
def test_every_leaf_is_shown_where_asked_for(mains, folder, tmp_path, to):
    flags = (f"--source={folder}", f"--target={tmp_path / to}", f"--to={to}")
    done = mains.run("convert", *flags, "--leaves")
    line = r"^transformer/stack/group_0/layer_0/mlp/up/kernel .*up_proj\.weight$"
    assert re.search(line, done.out, re.MULTILINE), done.out


def test_what_became_of_the_files_tensors(mains, random_params, tmp_path):
    """A BERT as of 2018: old names of norms, its table under two names, a buffer."""
    cfg = families.family("bert").to_config(TINY_BERT)
    params = random_params(LanguageModel(cfg), {"tokens": np.ones((1, 2), np.int32)})
    hub.save(LanguageModel(cfg), params, tmp_path / "new", family="bert")
    old = tmp_path / "old"
    old.mkdir()
    shutil.copyfile(tmp_path / "new" / "config.json", old / "config.json")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    old_names = ("LayerNorm.weight", "LayerNorm.gamma")
    named = {name.replace(*old_names): value for name, value in tensors.items()}
    copy = named["bert.embeddings.word_embeddings.weight"].copy()
    ids = np.arange(8.0, dtype=np.float32)[None]
    more = {"cls.predictions.decoder.weight": copy, "bert.embeddings.position_ids": ids}
    save_file(named | more, old / "model.safetensors", {"format": "pt"})
    done = mains.run("convert", f"--source={old}", f"--target={tmp_path / 'run'}")
    assert shown(done, "older names").startswith("4: bert.")
    assert shown(done, "copies") == "1: cls.predictions.decoder.weight"
    assert shown(done, "left out") == "1: bert.embeddings.position_ids"
    assert shown(done, "tied") == "the head is the table of the tokens"
    assert int(shown(done, "tensors read")) == len(tensors)


def test_gguf_to_hub_in_another_type(mains, tmp_path, cfg, params, write_gguf):
    tensors = hub.to_hub(families.family("llama"), cfg, params)
    path = write_gguf(tmp_path / "m.gguf", cfg, tensors)
    target = tmp_path / "hub"
    args = (f"--source={path}", f"--target={target}", "--to=hub", "--dtype=bfloat16")
    done = mains.run("convert", *args)
    assert shown(done, "leaves") == "12; --leaves prints them"
    written = load_file(target / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    np.testing.assert_array_equal(
        written[name], tensors[name].astype(written[name].dtype)
    )
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_tokenizer_of_a_gguf_file_comes_along(
    mains, tmp_path, cfg, random_params, write_gguf
):
    """Into a folder of the hub, and as that of a run which starts from the file."""
    metadata = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in describe(train(), "gpt-2").items()
    }
    cfg = dataclasses.replace(cfg, vocab_size=len(metadata["tokenizer.ggml.tokens"]))
    params = random_params(LanguageModel(cfg), {"tokens": np.ones((1, 2), np.int32)})
    tensors = hub.to_hub(families.family("llama"), cfg, params)
    path = write_gguf(tmp_path / "m.gguf", cfg, tensors, also=metadata)
    target = tmp_path / "hub"
    done = mains.run("convert", f"--source={path}", f"--target={target}", "--to=hub")
    assert done.code == 0, done.err
    own = hub.tokenizer(path)
    assert comparison.agree(own, hub.tokenizer(target))
    data = DataConfig(directory=str(tmp_path / "cache"))
    complete = initial.complete(RunConfig(data=data, init=Checkpoint(str(path))))
    assert complete.model.vocab_size == cfg.vocab_size
    made = tokenizer.make(complete.data.tokenizer, ())
    assert comparison.agree(own, made)


def test_the_tokenizer_comes_along(mains, folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    target = tmp_path / "copy"
    done = mains.run("convert", f"--source={folder}", f"--target={target}", "--to=hub")
    assert re.fullmatch(r"[1-9][\d,]*, float32", shown(done, "parameters"))
    assert shown(done, "beside") == "tokenizer.json"
    assert (target / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--source=nothing", "--target=x"], "error: nothing is no model; give"),
        (["--source=package:evil", "--target=x"], "error: package:evil is not on"),
        (["--target=x"], "--source"),
    ],
)
def test_a_mistake_is_one_line(mains, args, message):
    done = mains.run("convert", *args)
    assert done.code != 0 and message in done.err and "Traceback" not in done.err


def test_what_is_there_is_not_overwritten(mains, folder, tmp_path):
    args = (f"--source={folder}", f"--target={tmp_path / 'run'}")
    shown(mains.run("convert", *args), "written")
    done = mains.run("convert", *args)
    assert done.code == 2 and "checkpoints exists; give a new folder" in done.err
