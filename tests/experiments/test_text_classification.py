"""From a folder of the hub and a csv to a classifier, in one command each."""

import json
import types

import numpy as np
import pytest

from llmjax import hub
from llmjax.data.tokenizers import comparison
from llmjax.models.activations import activations
from llmjax.train import run
from llmjax.train.metrics import evaluation
from tests.experiments.forked import Mains
from tests.train import folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def tuned(mains, tmp_path_factory, random_params):
    """Fine-tuned by the config as it is, but for sizes of time."""
    place = tmp_path_factory.mktemp("texts")
    folders.bert(place / "bert", random_params)
    folders.write_texts(place / "texts.csv", 90, ("bad", "good", "so so"))
    args = [
        "--config=configs/finetune/text_classification.py",
        f"--config.init.path={place}/bert",
        f"--config.data.source={place}/texts.csv",
        f"--config.data.directory={place}/cache",
        "--config.data.prepare.validation=0.2",
        "--config.data.prepare.test=0.2",
        "--config.data.seq_len=16",
        "--config.train.eval_every=3",
        "--config.optimizer.schedule.warmup_steps=1",
        f"--workdir={place}/run",
    ]
    done = mains.run("finetune", *args, "--config.train.steps=3")
    assert done.code == 0, done.err
    return types.SimpleNamespace(place=place, args=args, done=done)


def config_of(tuned):
    return json.loads((tuned.place / "run" / "config.json").read_text())


def test_sizes_tokenizer_and_classes_are_taken(tuned):
    config = config_of(tuned)
    assert config["model"]["d_model"] == 16 and config["model"]["vocab_size"] == 64
    assert config["task"]["labels"] == ["bad", "good", "so so"]
    assert config["data"]["tokenizer"]["path"] == str(tuned.place / "bert")
    assert "texts are in the column 'sentence', their classes in 'label'" in (
        tuned.done.err
    )
    assert "transformer/embedder/table" in tuned.done.out


def test_a_flag_that_says_a_default_of_ours_is_heard(mains, tuned, tmp_path):
    """Of a new run the weights' model decides, and of one that goes on the run's."""
    *args, going_on = tuned.args
    for workdir in (going_on, f"--workdir={tmp_path}/new"):
        done = mains.run("finetune", *args, workdir, "--config.model.num_heads=4")
        assert done.code == 2 and "'model.num_heads' is 4, and the wei" in done.err
    assert not (tmp_path / "new").exists()


def test_it_is_extended_evaluated_and_exported(mains, tuned):
    place = tuned.place
    done = mains.run("finetune", *tuned.args, "--config.train.steps=5")
    assert done.code == 0, done.err
    assert "extended from 3 to 5 steps: its schedule 'linear' now ends" in done.out
    assert json.loads((place / "run" / "result.json").read_text())["step"] == 5
    again = mains.run("finetune", *tuned.args, "--config.train.steps=4")
    assert again.code == 2 and "train.steps=5 and this one has 4" in again.err

    flags = f"--run={place}/run", "--split=test", f"--workdir={place}/evaluated"
    done = mains.run("evaluate", *flags)
    assert done.code == 0, done.err
    result = json.loads((place / "evaluated" / "result.json").read_text())
    assert np.shape(result["confusion"]) == (3, 3)
    step = result["step"]

    (place / "texts.csv").rename(place / "elsewhere.csv")  # the run has its tokenizer
    try:
        flags = f"--source={place}/run", f"--target={place}/exported"
        done = mains.run("convert", *flags)
    finally:
        (place / "elsewhere.csv").rename(place / "texts.csv")
    assert done.code == 0, done.err
    assert f"/run, step {step}\n" in done.out
    own, written = hub.tokenizer(place / "bert"), hub.tokenizer(place / "exported")
    assert comparison.agree(own, written)
    about = json.loads((place / "exported" / "tokenizer_config.json").read_text())
    assert about["model_max_length"] == 16  # as the run cuts, of 32 positions


def test_a_run_is_loaded_and_looked_into(tuned):
    """The example of `run.load`."""
    program, params, batches = run.load(tuned.place / "run", split="test")
    assert 0 <= evaluation.evaluate(program, params, batches)["accuracy"] <= 1
    batch = batches.batch(0)
    inside = activations(program.model, {"params": params}, batch)
    (B, T), model = batch["tokens"].shape, program.config.model
    assert inside["hidden_states"].shape == (model.L + 1, B, T, model.d_model)
    assert inside["attentions"].shape == (model.L, B, model.num_heads, T, T)


def test_a_folder_of_the_hub_is_no_run(tuned):
    with pytest.raises(ValueError, match=r"bert is a folder of the hub.*hub\.load"):
        run.load(tuned.place / "bert")


def test_prepare_data_takes_the_same_tokenizer(mains, tuned):
    args = [a for a in tuned.args if not a.startswith("--workdir")]
    done = mains.run("prepare_data", *args, f"--workdir={tuned.place}/prepared")
    assert done.code == 0, done.err
    result = json.loads((tuned.place / "prepared" / "result.json").read_text())
    assert result["vocab_size"] == 59 and sum(result["documents"].values()) == 90
    assert result["dropped"] == {} and "file-" in result["folder"]


def test_what_does_not_fit_is_said_in_a_line(mains, tuned):
    """Before anything is traced or prepared."""
    for flag, says in (
        ("--config.model.d_model=32", "config key 'model.d_model' is 32, and"),
        ("--config.data.seq_len=64", "seq_len=64 exceeds the 32 positions that"),
        ("--config.data.tokenizer.kind=wordpiece", "'data.tokenizer' is of kind 'wor"),
        (f"--config.data.source={tuned.place}/bert/config.json", "has the columns"),
    ):
        other = [a for a in tuned.args if not a.startswith("--workdir")]
        done = mains.run("finetune", *other, flag, f"--workdir={tuned.place}/other")
        assert done.code == 2 and says in done.err, done.err
        assert done.err.strip().splitlines()[-1].startswith("error: ")
