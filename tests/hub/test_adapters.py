"""peft's format both ways, against what peft computed (tests/parity/adapters.py)."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from llmjax import hub
from llmjax.config import HRA, OFT, AdaLoRA, DeLoRA, LoRA, RankOf, SHiRA, VeRA
from llmjax.hub.adapters.places import our_names
from llmjax.hub.load import BATCH
from llmjax.hub.stored_model import open_model
from llmjax.models.heads.relation import RelationClassifier
from llmjax.peft import adapted
from llmjax.peft.matrix import size_of
from llmjax.peft.method import letters, sizes
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
    init = adapted.adapted(model, peft).init
    fresh = jax.eval_shape(init, jax.random.key(0), batch)["params"]
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


def test_names_of_a_model_of_two_entities_are_known(tiny):
    model = RelationClassifier(dataclasses.replace(tiny, architecture="encoder"), 2)
    assert our_names(model, ("query", "mlp/down")) == ("query", "mlp/down")


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
        (lambda c, t: c.update(peft_type="BOFT"), "peft_type is 'BOFT'; accepted"),
        (lambda c, t: c.update(bias="all"), "bias='all' has an effect"),
        (lambda c, t: c.update(use_dora=True), "lacks .*lora_magnitude_vector"),
        (lambda c, t: c.update(warp=2), "warp=2 has an effect"),
        (lambda c, t: c.update(init_lora_weights="pissa"), "'pissa' changes the base"),
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


def test_ranks_of_some_matrices_are_pefts(llama, tmp_path):
    """The file's patterns give each module its rank and scale; merged it is ours."""
    _, model, params, _ = llama
    ranks = (RankOf("attention/query", 1, 8.0), RankOf("*/mlp/*", 4))
    targets = ("query", "key", "mlp/down")
    peft = LoRA(rank=2, alpha=3.0, targets=targets, ranks=ranks)
    whole = random_adapters(model, peft, params)
    hub.adapters.save(model, whole, peft, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    layer = re.escape("model.layers.1.")
    own = {k: v for k, v in config["rank_pattern"].items() if k.startswith(layer)}
    assert sorted(own.values()) == [1, 4]
    alphas = {k: v for k, v in config["alpha_pattern"].items() if k.startswith(layer)}
    assert list(alphas.values()) == [8.0]
    read, tree = hub.adapters.load(tmp_path / "out", model, params)
    theirs, ours = flatten_dict(tree, sep="/"), flatten_dict(whole, sep="/")
    rule = adapted.method(peft)
    for path in ("query", "key"):
        where = f"transformer/stack/group_0/layer_0/attention/{path}"
        a, b = (f"{where}/kernel_lora/{name}" for name in "ab")
        product = rule.scale(where) * np.einsum("ldr,lrnh->ldnh", ours[a], ours[b])
        again = read.scale * np.einsum("ldr,lrnh->ldnh", theirs[a], theirs[b])
        np.testing.assert_allclose(again, product, rtol=1e-5, atol=1e-6)


METHODS = [
    AdaLoRA(rank=4, target_rank=2, targets=("query", "mlp/down")),
    VeRA(rank=5, targets=("query", "mlp/down")),
    SHiRA(rank=2, targets=("key",)),
    DeLoRA(rank=3, targets=("attention/out",)),
    OFT(block_size=3, terms=5, targets=("query",)),
]


def written(llama, peft, folder):
    """The adapters that `folder` then has, as a run would."""
    _, model, params, _ = llama
    rule, rng = adapted.method(peft), np.random.default_rng(0)
    flat = dict(flatten_dict(params, sep="/"))
    for path, module in adapted.matrices(model, BATCH).items():
        if rule.selects(path):
            size, stacked = size_of(module), flat[f"{path}/kernel"].shape[:1]
            for name, spec in rule.specs(size).items():
                value = 0.1 * rng.standard_normal((*stacked, *spec.shape(size)))
                if name == "places":
                    value = np.stack([np.arange(value.shape[1]) * 2] * len(value))
                if name in rule.fixed and name != "places":
                    value = np.stack([spec.init(None, value.shape[1:])] * len(value))
                if name == "e":
                    value[:, 1] = 0
                    value[1, 2] = 0
                    value[0] *= path.endswith("query")  # of the other none is left
                dtype = np.int32 if name == "places" else np.float32
                shape = spec_shape(module, spec, stacked)
                leaf = f"{path}/kernel_{rule.name}/{name}"
                flat[leaf] = np.asarray(value, dtype).reshape(shape)
    hub.adapters.save(model, unflatten_dict(flat, sep="/"), peft, folder)
    return {k: x for k, x in flat.items() if adapted.of_adapters(peft, k)}


def spec_shape(module, spec, stacked):
    own = letters(module)
    of = {"I": sizes(module, own.inner), "O": sizes(module, own.outer)}
    return sum(((a,) if isinstance(a, int) else of[a] for a in spec.axes), stacked)


@pytest.mark.parametrize("peft", METHODS, ids=lambda peft: peft.kind)
def test_what_is_written_is_read(llama, tmp_path, peft):
    """Cut ranks are left out of the file, and shared factors stand in it once."""
    own = written(llama, peft, tmp_path / "out")
    read, tree = hub.adapters.load(tmp_path / "out", *llama[1:3])
    assert dataclasses.replace(read, targets=peft.targets) == peft
    leaves = flatten_dict(tree, sep="/")
    assert leaves.keys() == own.keys()
    if isinstance(peft, VeRA):  # one pair of factors, and vectors that make up for it
        for tree in (own, leaves):
            for name in [k for k in own if k.endswith("/a")]:
                inner = tree.pop(f"{name.removesuffix('a')}inner")
                tree[name] = tree[name] * inner[:, None]
    if isinstance(peft, AdaLoRA):
        config = json.loads((tmp_path / "out/adapter_config.json").read_text())
        kept = [sum(mask) for mask in config["rank_pattern"].values()]
        assert sorted(kept) == [0, 2, 2, 3]
    for name, value in own.items():
        if isinstance(peft, AdaLoRA):  # of what was cut nothing is written
            kept = own[f"{name.rpartition('/')[0]}/e"] != 0
            axis = 1 if name.endswith("/b") else -1
            rows = np.moveaxis(value, axis, 1)
            rows = rows * kept.reshape(*kept.shape, *[1] * (rows.ndim - 2))
            value = np.moveaxis(rows, 1, axis)
        np.testing.assert_allclose(leaves[name], value, rtol=1e-5, atol=1e-6)


def changed(folder, change):
    """A folder whose config and tensors `change` has changed."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    change(config, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")


def times(tensors, end, factor):
    for name in tensors:
        if name.endswith(end):
            tensors[name] = (tensors[name] * factor).astype(tensors[name].dtype)


def without(tensors, end):
    del tensors[next(name for name in tensors if name.endswith(end))]


@pytest.mark.parametrize(
    ("peft", "change", "says"),
    [
        (METHODS[3], lambda c, t: without(t, "delora_B"), "has 'b' of no shape"),
        (METHODS[0], lambda c, t: c.pop("tinit"), "lacks 'tinit'"),
        (METHODS[0], lambda c, t: c.update(init_r=3), "has 'a' of .*want .*, 3"),
        (METHODS[1], lambda c, t: t.pop("base_model.vera_A"), "lacks 'base_model.vera"),
        (METHODS[1], lambda c, t: c.update(save_projection=False), "accepted: True"),
        (METHODS[2], lambda c, t: times(t, "indices", 9), "not different entries"),
        (METHODS[3], lambda c, t: times(t, "w_norm", 1.5), "lengths of rows .* not"),
        (METHODS[4], lambda c, t: c.update(coft=True), "coft=True has an effect"),
        (METHODS[4], lambda c, t: c.update(oft_block_size=4), "does not divide"),
    ],
)
def test_what_a_methods_file_lacks_is_said(llama, tmp_path, peft, change, says):
    written(llama, peft, tmp_path / "out")
    changed(tmp_path / "out", change)
    with pytest.raises(ValueError, match=says):
        hub.adapters.load(tmp_path / "out", *llama[1:3])


def test_a_fused_matrix_has_no_other_method_than_lora(tmp_path):
    goldens.read(goldens.path("gpt2/tied")).write(tmp_path)
    model, params = hub.load(tmp_path, dtype="float32")
    peft = HRA(rank=2, targets=("query",))
    with pytest.raises(ValueError, match="holds no HRA of .*c_attn.*merge"):
        written((None, model, params, None), peft, tmp_path / "out")


@pytest.mark.parametrize("name", ["gpt_oss/alternating", "mixtral/window"])
def test_experts_that_peft_has_no_module_for_are_said(tmp_path, name):
    goldens.read(goldens.path(name)).write(tmp_path)
    model, params = hub.load(tmp_path, dtype="float32")
    peft = LoRA(rank=2, targets=("query", "experts/up"))
    whole = random_adapters(model, peft, params)
    with pytest.raises(ValueError, match="holds no adapters of .*experts/up"):
        hub.adapters.save(model, whole, peft, tmp_path / "out")
    assert not (tmp_path / "out").exists()
