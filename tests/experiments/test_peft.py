"""Adapters from the commands: trained, written as peft's, merged again."""

import json
import types

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.experiments.forked import Mains
from tests.parity import adapters
from tests.train import folders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mains(tmp_path_factory):
    mains = Mains(tmp_path_factory.mktemp("mains"))
    yield mains
    mains.close()


@pytest.fixture(scope="module")
def tuned(mains, tmp_path_factory, random_params):
    """A classifier with adapters, fine-tuned for a few steps."""
    place = tmp_path_factory.mktemp("texts")
    folders.bert(place / "bert", random_params)
    folders.write_texts(place / "texts.csv", 60, ("bad", "good"))
    done = mains.run(
        "finetune",
        "--config=configs/finetune/text_classification.py",
        f"--config.init.path={place}/bert",
        f"--config.data.source={place}/texts.csv",
        f"--config.data.directory={place}/cache",
        "--config.data.prepare.validation=0.2",
        "--config.data.seq_len=16",
        "--config.peft.kind=lora",
        "--config.peft.rank=2",
        "--config.peft.targets=('query','intermediate.dense')",
        "--config.optimizer.learning_rate=1e-2",
        "--config.optimizer.schedule.warmup_steps=1",
        "--config.train.steps=3",
        "--config.train.eval_every=3",
        f"--workdir={place}/run",
    )
    assert done.code == 0, done.err
    return types.SimpleNamespace(place=place, done=done)


def test_few_weights_are_trained_and_said(tuned):
    assert "of them trained" in tuned.done.out
    result = json.loads((tuned.place / "run" / "result.json").read_text())
    assert result["trained_parameters"] < 0.2 * result["parameters"]


def test_adapters_are_written_and_the_run_is_merged(mains, tuned):
    place = tuned.place
    for flags in (
        (f"--target={place}/adapter", "--adapters"),
        (f"--target={place}/hub",),
    ):
        done = mains.run("convert", f"--source={place}/run", *flags)
        assert done.code == 0, done.err
    config = json.loads((place / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["base_model_name_or_path"] == str(place / "bert")
    assert config["modules_to_save"] == ["classifier"]
    assert "intermediate" in config["target_modules"]  # an expression: "dense" is many
    factors = load_file(place / "adapter" / "adapter_model.safetensors")
    whole = load_file(place / "hub" / "model.safetensors")
    base = load_file(place / "bert" / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query"
    a, b = (factors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    scale = config["lora_alpha"] / config["r"]
    own = next(k for k in base if k.endswith(f"{name.removeprefix('bert.')}.weight"))
    expected = base[own] + scale * b @ a
    assert np.abs(b @ a).max() > 0
    np.testing.assert_allclose(whole[f"{name}.weight"], expected, atol=1e-6)
    classifier = factors["base_model.model.classifier.weight"]
    np.testing.assert_array_equal(whole["classifier.weight"], classifier)


def test_a_run_without_adapters_has_none_to_write(mains, tuned, tmp_path):
    source = f"--source={tuned.place}/bert"
    done = mains.run("convert", source, f"--target={tmp_path}/run")
    assert done.code == 0, done.err
    flags = (f"--source={tmp_path}/run", f"--target={tmp_path}/x", "--adapters")
    done = mains.run("convert", *flags)
    assert done.code and "peft.kind='full' and thus no adapters" in done.err


def test_a_folder_of_peft_is_merged(mains, tmp_path):
    case = adapters.read("llama-lora")
    (tmp_path / "base").mkdir()
    case.base.write(tmp_path / "base")
    case.write(tmp_path / "adapter")
    flags = (f"--adapter={tmp_path}/adapter", f"--target={tmp_path}/out", "--to=hub")
    done = mains.run("convert", f"--source={tmp_path}/base", *flags)
    assert done.code == 0, done.err
    before, after = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("base", "out")
    )
    name = "model.layers.1.self_attn.q_proj"
    a, b = (case.tensors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    expected = before[f"{name}.weight"] + 6.0 / 3 * b @ a
    np.testing.assert_allclose(after[f"{name}.weight"], expected, atol=1e-6)
    np.testing.assert_array_equal(
        after["model.norm.weight"], before["model.norm.weight"]
    )
