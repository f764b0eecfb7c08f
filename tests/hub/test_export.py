"""A run as a folder of the hub: its model's form there, its tokenizer, its ids."""

import dataclasses
import json
import re
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

from llmjax import config, hub
from llmjax.config import DataConfig, RunConfig
from llmjax.data.prepare.prepare import prepare
from llmjax.data.tokenizers import comparison
from llmjax.models.forward import forward, variables
from llmjax.models.heads.language import LanguageModel
from llmjax.tasks.registry import make_model
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.state import State
from tests.experiments.forked import Mains

pytestmark = pytest.mark.usefixtures("quick_compile")
SIZES = {"vocab_size": 300, "d_model": 16, "d_ff": 24, "num_layers": 3, "num_heads": 2}
BERT = {
    "architecture": "encoder",
    "token_types": 2,
    "embedding_norm": True,
    "positions": config.Learned(32),
    "mlp": config.Plain(),
    "norm": config.LayerNorm(1e-12),
    "norm_position": "post",
    "biases": "all",
    "output": config.Transformed(),
    "output_bias": True,
}
BATCH = {"tokens": jnp.arange(12).reshape(2, 6)}


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "texts").mkdir()
    for i in range(30):
        text = f"Text {i} is of words, and of numbers such as {i * i}.\n" * 3
        (folder / "texts" / f"{i}.txt").write_text(text)
    data = DataConfig(
        source=str(folder / "texts"),
        directory=str(folder / "cache"),
        tokenizer=config.BPE(300),
        prepare=config.PrepareConfig(validation=0.0, test=0.0),
        seq_len=24,
    )
    prepare(data)
    return data


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, random_params):
    """(name, task, fields of the model) -> workdir of a run, its model and params."""

    def make(name, task, init=None, data=data, **fields):
        model_config = config.ModelConfig(**SIZES | fields)
        run_config = RunConfig(model=model_config, task=task, data=data)
        if init is not None:
            run_config = dataclasses.replace(run_config, init=config.Checkpoint(init))
        model = make_model(run_config)
        params = random_params(model, BATCH)
        workdir = tmp_path_factory.mktemp(name)
        checkpoints = Checkpoints(workdir, run_config)
        checkpoints.save(State(np.zeros((), np.int32), params, {}, {}, {}))
        checkpoints.close()
        return workdir, model, params

    return make


def converted(mains, source, target, *args):
    done = mains.run("convert", f"--source={source}", f"--target={target}", *args)
    assert done.code == 0, done.err
    return done


def logits(model, params):
    return np.asarray(forward(model, variables(params), BATCH)[0][0])


def test_of_several_heads_the_first(mains, run, tmp_path):
    workdir, model, params = run("multi", config.MultiTokenPrediction(depth=3))
    converted(mains, workdir, tmp_path / "m")
    again, loaded = hub.load(tmp_path / "m")
    assert type(again) is LanguageModel
    np.testing.assert_allclose(logits(again, loaded), logits(model, params), atol=1e-6)


@pytest.mark.parametrize("task", [config.NextSentence(), config.SentenceOrder()])
def test_of_sentence_pairs_the_masked_language_model(mains, run, tmp_path, task):
    workdir, model, params = run("pairs", task, **BERT)
    done = converted(mains, workdir, tmp_path / "m")
    again, loaded = hub.load(tmp_path / "m")
    assert written(tmp_path / "m")["architectures"] == ["BertForMaskedLM"]
    np.testing.assert_allclose(logits(again, loaded), logits(model, params), atol=1e-6)
    assert re.search(r"^left out +2: pair, pooler$", done.out, re.MULTILINE), done.out


def test_of_replaced_tokens_the_discriminator(mains, run, tmp_path):
    workdir, model, params = run("replaced", config.ReplacedTokens(), **BERT)
    done = converted(mains, workdir, tmp_path / "m")
    again, loaded = hub.load(tmp_path / "m")
    assert written(tmp_path / "m")["architectures"] == ["ElectraForPreTraining"]
    expected = forward(model, variables(params), BATCH)[0]
    ours = forward(again, variables(loaded), BATCH)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert re.search(r"^left out +\d: .*generator", done.out, re.MULTILINE), done.out


def test_gpt2_names_its_positions_once(mains, run, tmp_path, data):
    """transformers reads max_position_embeddings as n_positions, the table's size."""
    fields = {
        "d_ff": 64,
        "positions": config.Learned(32),
        "mlp": config.Plain("gelu_tanh"),
        "norm": config.LayerNorm(1e-5),
        "biases": "all",
    }
    workdir, _, _ = run("gpt2", config.CausalLM(), **fields)
    assert data.seq_len == 24
    converted(mains, workdir, tmp_path / "m", "--family=gpt2")
    about = written(tmp_path / "m")
    assert about["n_positions"] == 32 and "max_position_embeddings" not in about
    assert written(tmp_path / "m", "tokenizer_config.json")["model_max_length"] == 24


def written(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def test_a_run_brings_its_tokenizer_and_its_ids(mains, run, tmp_path, data):
    workdir, _, _ = run("causal", config.CausalLM())
    converted(mains, workdir, tmp_path / "m")
    tokenizer = hub.tokenizer(tmp_path / "m")
    text = "Text 3 is of words."
    np.testing.assert_array_equal(
        tokenizer.encode(text), prepare(data).tokenizer.encode(text)
    )
    hf = written(tmp_path / "m")
    assert (hf["bos_token_id"], hf["eos_token_id"], hf["pad_token_id"]) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    assert hf["max_position_embeddings"] == 24
    about = written(tmp_path / "m", "tokenizer_config.json")
    assert about["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert about["eos_token"] == tokenizer.specials["eos"]


@pytest.mark.parametrize("whole", [False, True])
def test_special_tokens_stand_around_a_text_there_too(
    whole, mains, run, tmp_path, data
):
    """Before a prompt, and at both ends of an encoder's text."""
    task, fields = (config.MaskedLM(), BERT) if whole else (config.CausalLM(), {})
    workdir, _, _ = run("specials", task, **fields)
    converted(mains, workdir, tmp_path / "m")
    own = prepare(data).tokenizer
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    ids = own.encode("Text 3 is of words.")
    around = own.with_specials(ids) if whole else own.with_beginning(ids)
    assert library.encode("Text 3 is of words.").ids == around.tolist()
    two = own.pair_with_specials(ids, ids)[0].tolist()
    pair = library.encode("Text 3 is of words.", "Text 3 is of words.")
    assert (pair.ids == two) == whole
    assert comparison.agree(own, hub.tokenizer(tmp_path / "m"))


def test_a_run_whose_corpus_is_gone_says_so(mains, run, tmp_path, data):
    moved = dataclasses.replace(data, directory=str(tmp_path / "nowhere"))
    workdir, _, _ = run("moved", config.CausalLM(), data=moved)
    done = converted(mains, workdir, tmp_path / "m")
    assert "the target gets no tokenizer: " in done.err
    assert not (tmp_path / "m" / "tokenizer.json").exists()


def test_from_the_hub_to_a_checkpoint_and_back(mains, folder, tmp_path, edit):
    """Everything that the folder said comes back, by way of a checkpoint too."""
    edit(folder / "config.json", model_type="mistral", max_position_embeddings=4096)
    edit(folder / "config.json", architectures=["MistralForCausalLM"], eos_token_id=7)
    for name in ("tokenizer.json", "generation_config.json", "vocab.json"):
        (folder / name).write_text('{"a": 1}')
    converted(mains, folder, tmp_path / "run")
    converted(mains, tmp_path / "run", tmp_path / "m")
    assert written(tmp_path / "m") == written(folder)
    for name in ("tokenizer.json", "generation_config.json", "vocab.json"):
        assert written(tmp_path / "m", name) == {"a": 1}
    a, b = (load_file(p / "model.safetensors") for p in (folder, tmp_path / "m"))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_from_the_hub_stays_of_its_family(mains, folder, tmp_path, edit, run):
    """Fine-tuned on a corpus of its own: its tokenizer, its length, their family."""
    edit(folder / "config.json", model_type="qwen3", use_cache=False, eos_token_id=7)
    edit(folder / "config.json", architectures=["Qwen3ForCausalLM"])
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    workdir, _, _ = run("tuned", config.CausalLM(), init=str(folder), qk_norm="head")
    converted(mains, workdir, tmp_path / "m")
    hf = written(tmp_path / "m")
    assert (hf["model_type"], hf["use_cache"]) == ("qwen3", False)
    assert hf["eos_token_id"] == hub.tokenizer(tmp_path / "m").eos_id != 7
    assert written(tmp_path / "m", "generation_config.json") == {"temperature": 0.6}


def test_all_files_may_be_read_by_all_who_may_read_one(folder, tmp_path):
    """safetensors makes files that only their owner reads."""
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer.json").chmod(0o600)
    model, params = hub.load(folder)
    beside = [tmp_path / "tokenizer.json"]
    hub.save(model, params, tmp_path / "m", beside=beside, shard_bytes=5000)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "m").iterdir()}
    assert modes == {stat.S_IMODE((folder / "config.json").stat().st_mode)}


@pytest.mark.parametrize("dtype", ["bf16", "int8", "double"])
def test_a_type_that_weights_do_not_have_is_one_line(mains, folder, tmp_path, dtype):
    args = f"--source={folder}", f"--target={tmp_path / 'm'}", f"--dtype={dtype}"
    done = mains.run("convert", *args, "--to=hub")
    message = f"dtype is '{dtype}'; accepted: bfloat16, float16, float32"
    assert done.code == 2 and message in done.err and "Traceback" not in done.err
    with pytest.raises(ValueError, match=message):
        hub.load(folder, dtype=dtype)
