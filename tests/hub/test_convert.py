"""experiments.convert: the hub, GGUF and checkpoints into each other."""

import dataclasses
import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from llmjax import hub
from llmjax.config import Checkpoint, DataConfig, RunConfig
from llmjax.data.tokenizers import comparison, tokenizer
from llmjax.hub import families
from llmjax.models.heads.language import LanguageModel
from llmjax.train import initial
from llmjax.train.checkpoints.checkpoints import load_params
from tests.experiments.forked import Mains
from tests.hub.test_gguf_vocabulary import describe, train


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
    assert "model.layers.{l}.mlp.up_proj.weight" in done.out
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


def test_gguf_to_hub_in_another_type(mains, tmp_path, cfg, params, write_gguf):
    tensors = hub.to_hub(families.family("llama"), cfg, params)
    path = write_gguf(tmp_path / "m.gguf", cfg, tensors)
    target = tmp_path / "hub"
    args = (f"--source={path}", f"--target={target}", "--to=hub", "--dtype=bfloat16")
    done = mains.run("convert", *args)
    assert shown(done, "leaves") == "12"
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
    assert int(shown(done, "parameters").replace(",", "")) > 0
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
