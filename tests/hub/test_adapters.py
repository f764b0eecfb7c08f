"""peft's format both ways, against what peft computed (tests/parity/adapters.py)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from llmjax import hub
from llmjax.config import LoRA
from llmjax.hub.adapters.places import our_names
from llmjax.hub.stored_model import open_model
from llmjax.peft import adapted
from tests.parity import adapters, goldens

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.parametrize("name", adapters.CASES)
def test_equals_peft(name, tmp_path):
    errors = adapters.ours(adapters.read(name), tmp_path)
    assert max(errors.values()) < adapters.TOLERANCE, errors


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A case, its base and the folder of both."""
    folder, case = tmp_path_factory.mktemp("llama"), adapters.read("llama-lora")
    (folder / "base").mkdir()
    case.base.write(folder / "base")
    model, params = hub.load(folder / "base", dtype="float32")
    return case, model, params, folder


def random_adapters(model, peft, params):
    """The weights of the base with adapters that change what it says."""
    batch = {"tokens": jnp.ones((1, 4), jnp.int32)}
    fresh = adapted.adapted(model, peft).init(jax.random.key(0), batch)["params"]
    rng, flat = np.random.default_rng(0), dict(flatten_dict(params, sep="/"))
    for name, leaf in flatten_dict(fresh, sep="/").items():
        if adapted.of_adapters(peft, name):
            shape = getattr(leaf, "value", leaf).shape
            flat[name] = np.float32(0.1 * rng.standard_normal(shape))
    return unflatten_dict(flat, sep="/")


def test_what_we_write_says_what_peft_reads(llama, tmp_path):
    _, model, params, _ = llama
    peft = LoRA(rank=2, alpha=3.0, targets=("query", "mlp/down"))
    whole = random_adapters(model, peft, params)
    hub.adapters.save(model, whole, peft, tmp_path / "out", base="the/base")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert (config["r"], config["lora_alpha"]) == (2, 3.0)
    assert config["base_model_name_or_path"] == "the/base"
    assert config["task_type"] == "CAUSAL_LM" and not config["modules_to_save"]
    read, own = hub.adapters.load(tmp_path / "out", model, params)
    assert (read.rank, read.scale) == (peft.rank, peft.scale)
    kept = flatten_dict(whole, sep="/")
    for name, leaf in flatten_dict(own, sep="/").items():
        np.testing.assert_array_equal(leaf, kept[name])


@pytest.mark.parametrize(
    ("name", "targets", "ours"),
    [
        ("llama/default", ("q_proj", "mlp/up"), ["attention/query", "mlp/up"]),
        (
            "gpt2/tied",
            ("c_attn", "mlp.c_proj"),
            ["attention/query", "attention/key", "attention/value", "mlp/down"],
        ),
        (
            "bert/tied",
            ("query", "output.dense"),
            ["query", "attention/out", "mlp/down"],
        ),
        ("llama/default", ("no_such", "*/mlp/*"), ["no_such", "*/mlp/*"]),
    ],
)
def test_the_hubs_names_of_matrices_are_known(tmp_path, name, targets, ours):
    goldens.read(goldens.path(name)).write(tmp_path)
    model = open_model(tmp_path).model()
    found = our_names(model, targets)
    ends = [
        "/".join(path.split("/")[-2:]) if "*" not in path else path for path in found
    ]
    assert list(dict.fromkeys(ends)) == ours


def broken(case, folder, change):
    """A folder whose config and tensors `change` has changed."""
    config, tensors = dict(case.config), dict(case.tensors)
    change(config, tensors)
    type(case)(case.base, config, tensors, case.logits, {}).write(folder)
    return folder


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c, t: t.pop(A.replace("lora_A", "lora_B")), "lacks .*q_proj.lora_B"),
        (lambda c, t: t.pop(A), "q_proj.lora_B.weight.* is of no matrix"),
        (lambda c, t: t.update({"x.lora_A.weight": t[A]}), "'x.lora_A.weight'"),
        (lambda c, t: t.update({A: t[A][:, :3]}), "q_proj has factors of"),
        (lambda c, t: c.update(r=4), "q_proj has factors of .*want"),
        (lambda c, t: c.update(peft_type="VERA"), "peft_type is 'VERA'; accepted"),
        (lambda c, t: c.update(bias="all"), "bias='all' has an effect"),
        (lambda c, t: c.update(use_dora=True), "lacks .*lora_magnitude_vector"),
        (lambda c, t: c.update(warp=2), "warp=2 has an effect"),
    ],
)
def test_what_has_no_place_is_said(llama, tmp_path, change, says):
    case, model, params, _ = llama
    folder = broken(case, tmp_path / "adapter", change)
    with pytest.raises(ValueError, match=says):
        hub.adapters.load(folder, model, params)


def test_no_folder_of_peft_is_said(llama, tmp_path):
    case, model, params, _ = llama
    with pytest.raises(ValueError, match="has no adapter_config.json"):
        hub.adapters.load(tmp_path, model, params)
    folder = broken(case, tmp_path / "adapter", lambda c, t: None)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="no adapter_model.safetensors; .* hold code"):
        hub.adapters.load(folder, model, params)


@pytest.mark.parametrize("name", ["gpt_oss/alternating", "mixtral/window"])
def test_experts_that_peft_has_no_module_for_are_said(tmp_path, name):
    goldens.read(goldens.path(name)).write(tmp_path)
    model, params = hub.load(tmp_path, dtype="float32")
    peft = LoRA(rank=2, targets=("query", "experts/up"))
    whole = random_adapters(model, peft, params)
    with pytest.raises(ValueError, match="holds no adapters of .*experts/up"):
        hub.adapters.save(model, whole, peft, tmp_path / "out")
    assert not (tmp_path / "out").exists()
