"""Runs of every kind of task: the mains use the model that the task trained."""

import contextlib
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llmjax import hub
from llmjax.config import (
    DataConfig,
    Group,
    LayerSpec,
    MaskedLM,
    ModelConfig,
    MultiTokenPrediction,
    NextSentence,
    RunConfig,
    SequenceClassification,
)
from llmjax.data.prepare.prepare import open_corpus
from llmjax.hub import families
from llmjax.infer.generate import generate, generates
from llmjax.infer.sampling import Sampling
from llmjax.models.heads.language import LanguageModel
from llmjax.models.heads.multi_token import PredictionHeads, first_head, last_apart
from llmjax.tasks.registry import make_model
from llmjax.train.checkpoints.checkpoints import Checkpoints
from llmjax.train.checkpoints.reading import load_params
from llmjax.train.state import State
from tests.experiments.forked import Mains

PRETRAIN = [
    "--config=configs/pretrain/python_docs.py",
    "--config.data.tokenizer.vocab_size=300",
    "--config.data.seq_len=16",
    "--config.data.batch_size=4",
    "--config.model.vocab_size=300",
    "--config.model.d_model=16",
    "--config.model.d_ff=32",
    "--config.model.num_layers=3",
    "--config.model.num_heads=2",
    "--config.task.kind=multi_token_prediction",
    "--config.task.depth=3",
    "--config.train.steps=2",
    "--config.train.eval_every=2",
    "--config.train.checkpoint_every=2",
    "--config.optimizer.schedule.warmup_steps=1",
]
TOKENS = {"tokens": jnp.arange(12).reshape(2, 6) % 9}


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


def flags(folder):
    return [
        *PRETRAIN,
        f"--config.data.source={folder}/texts",
        f"--config.data.directory={folder}/cache",
    ]


@pytest.fixture(scope="module")
def heads(mains, tmp_path_factory):
    """The folder of a multi-token run of two steps."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "texts").mkdir()
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice([*"abdegiklmnorstu"], 5)) for _ in range(400)]
    for i in range(80):
        text = ".\n".join(" ".join(rng.choice(words, 9)) for _ in range(6))
        (folder / "texts" / f"{i}.txt").write_text(text)
    args = flags(folder)
    for main in ("prepare_data", "pretrain"):
        done = mains.run(main, *args, f"--workdir={folder}/{main}")
        assert done.code == 0, done.err
    return folder / "pretrain"


@pytest.mark.parametrize("place", ["/sys/run", "/dev/null/run"])
def test_a_workdir_that_cannot_be_made_is_one_line(place, heads, mains):
    """Nobody may make a folder in /sys, nor below a file."""
    done = mains.run("pretrain", *flags(heads.parent), f"--workdir={place}")
    assert done.code == 2
    (line,) = [x for x in done.err.splitlines() if "error" in x]
    assert line.startswith(f"error: {place}: ") and line.endswith("give another place")
    assert "Traceback" not in done.err


def test_a_run_of_weights_that_are_not_finite(heads, mains, tmp_path):
    """Neither its loss nor its texts are printed as if they were numbers."""
    config, params = load_params(heads)
    nans = jax.tree.map(lambda x: x * jnp.nan, params)
    state = State(np.zeros((), np.int32), nans, {}, {}, {})
    with contextlib.closing(Checkpoints(tmp_path, config)) as checkpoints:
        checkpoints.save(state)
    shutil.copy(heads / "config.json", tmp_path)
    for main in "evaluate", "generate":
        done = mains.run(main, f"--run={tmp_path}")
        assert done.code == 2 and not done.out, done.out
        assert "not finite" in done.err and "Traceback" not in done.err
        assert "values of the weight" in done.err


def checkpoint(folder, config: RunConfig):
    """A run's checkpoint of step 0, with its initial weights."""
    params = make_model(config).init(jax.random.key(0), TOKENS)["params"]
    params = jax.tree.map(np.asarray, nn.unbox(params))
    checkpoints = Checkpoints(folder, config)
    checkpoints.save(State(np.zeros((), np.int32), params, {}, {}, {}))
    checkpoints.close()
    return folder


def test_a_run_that_came_from_the_hub_keeps_its_tokenizer(mains, heads, tmp_path):
    """Its config names no corpus of its own; a corpus' tokenizer would be another."""
    hub_folder, run = tmp_path / "hub_folder", tmp_path / "run"
    for source, target in ((heads, hub_folder), (hub_folder, run)):
        done = mains.run("convert", f"--source={source}", f"--target={target}")
        assert done.code == 0, done.err
    texts = []
    for place in (hub_folder, run):
        flags = [f"--run={place}", "--prompt=bad", "--seed=3", "--max_new_tokens=9"]
        done = mains.run("generate", *flags, f"--workdir={tmp_path}")
        assert done.code == 0, done.err
        said = json.loads((tmp_path / "result.json").read_text())
        texts.append(said["generations"])
    assert texts[0] == texts[1]


def test_a_multi_token_run_continues_by_its_first_head(mains, heads, tmp_path):
    flags = [f"--run={heads}", "--temperature=0", "--max_new_tokens=6"]
    done = mains.run("generate", *flags, "--prompt=bad", f"--workdir={tmp_path}")
    assert done.code == 0, done.err
    (item,) = json.loads((tmp_path / "result.json").read_text())["generations"]

    config, params = load_params(heads)
    stack = params["transformer"]["stack"]
    assert {"group_0", "group_1", "head_2", "head_3"} <= stack.keys()
    alone = {k: v for k, v in stack.items() if not k.startswith("head_")}
    alone = params | {"transformer": params["transformer"] | {"stack": alone}}
    tokenizer = open_corpus(config.data).tokenizer
    (ids,) = generate(
        LanguageModel(last_apart(config.model)),
        alone,
        [[tokenizer.bos_id, *tokenizer.encode("bad").tolist()]],
        max_new_tokens=6,
        sampling=Sampling(temperature=0.0),
        stop_tokens=(tokenizer.eos_id,),
        pad_id=tokenizer.pad_id,
    )
    assert len(ids) > 0
    assert (item["text"], item["tokens"]) == (tokenizer.decode(ids), len(ids))


def test_a_multi_token_run_is_converted_as_its_first_head(mains, heads, tmp_path):
    done = mains.run("convert", f"--source={heads}", f"--target={tmp_path}/hub")
    assert done.code == 0, done.err
    config, params = load_params(heads)
    tensors = load_file(tmp_path / "hub" / "model.safetensors")
    family = families.family(
        json.loads((tmp_path / "hub" / "config.json").read_text())["model_type"]
    )
    alone = first_head(config.model, params, depth=3)
    for name, tensor in hub.to_hub(family, config.model, alone).items():
        np.testing.assert_array_equal(tensors[name], tensor)


@pytest.mark.parametrize(
    "groups",
    [
        (Group(3),),
        (Group(1), Group(1)),
        (Group(1), Group(2, (LayerSpec(), LayerSpec()))),
        (Group(2), Group(1, shared=True)),
    ],
    ids=["repeated", "single", "pattern", "shared"],
)
def test_the_first_head_is_a_model_of_the_runs_own_config(groups, random_params):
    cfg = ModelConfig(vocab_size=11, d_model=16, d_ff=32, num_heads=2, groups=groups)
    model = PredictionHeads(last_apart(cfg), depth=2)
    params = random_params(model, TOKENS)
    expected = model.apply({"params": params}, TOKENS)[0]
    alone = first_head(cfg, params, depth=2)
    own = random_params(LanguageModel(cfg), TOKENS)
    assert jax.tree.map(jnp.shape, alone) == jax.tree.map(jnp.shape, own)
    logits, _ = LanguageModel(cfg).apply({"params": alone}, TOKENS)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


REFUSED = {
    "SequenceClassifier": RunConfig(
        ModelConfig(vocab_size=300, d_model=16, d_ff=32, num_heads=2, num_layers=1),
        SequenceClassification(num_labels=3),
    ),
    "PairModel": RunConfig(
        ModelConfig(
            vocab_size=300,
            d_model=16,
            d_ff=32,
            num_heads=2,
            num_layers=1,
            architecture="encoder",
        ),
        NextSentence(),
        DataConfig(packing="pad"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_without_a_language_model_is_refused(mains, name, tmp_path):
    config = REFUSED[name]
    folder = checkpoint(tmp_path / "run", config)
    done = mains.run("generate", f"--run={folder}")
    assert done.code == 2 and "Traceback" not in done.err, done.err
    (line,) = done.err.strip().splitlines()
    assert f"task.kind={config.task.kind!r}" in line and name in line


def test_models_that_generate():
    cfg = ModelConfig(vocab_size=300, d_model=16, d_ff=32, num_heads=2, num_layers=2)
    assert generates(make_model(RunConfig(cfg)))
    assert generates(make_model(RunConfig(cfg, MultiTokenPrediction(2))))
    for config in REFUSED.values():
        assert not generates(make_model(config))
    encoder = REFUSED["PairModel"].model
    assert not generates(make_model(RunConfig(encoder, MaskedLM())))
