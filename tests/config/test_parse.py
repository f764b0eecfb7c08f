"""From a person's ConfigDict to frozen values, and what they read when it is wrong."""

import dataclasses
import json
import typing

import ml_collections
import pytest

from llmjax import config


def changed(path: str, value) -> dict:
    """The default config as plain dicts, with one key set."""
    draft = config.default().to_dict()
    *parents, key = path.split(".")
    node = draft
    for parent in parents:
        node = node[parent]
    node[key] = value
    return draft


def leaves(draft: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    found = []
    for key in draft:
        value = draft.get(key)
        nested = isinstance(value, ml_collections.ConfigDict)
        path = f"{prefix}{key}"
        found += leaves(value, path + ".") if nested else [path]
    return found


def test_default_parses_to_the_dataclasses_defaults():
    assert config.parse(config.default()) == config.RunConfig()


def test_every_dataclass_field_is_a_key_and_every_key_a_field():
    keys = set(leaves(config.default()))

    def check(value, prefix):
        for f in dataclasses.fields(value):
            item = getattr(value, f.name)
            if dataclasses.is_dataclass(item):
                check(item, f"{prefix}{f.name}.")
                if hasattr(item, "kind"):
                    assert f"{prefix}{f.name}.kind" in keys
            else:
                assert f"{prefix}{f.name}" in keys

    check(config.RunConfig(), "")


# the other value of every field, where it is not simply one more or another name
OTHER = {
    "layout.pipeline.recompute": True,
    "model.architecture": "encoder",
    "model.groups": ({"repeat": 2},),
    "model.encoder_groups": ({"repeat": 2},),
    "model.embedding_norm": True,
    "model.qk_norm": "head",
    "model.softcap": 50.0,
    "model.sinks": True,
    "model.residual": "parallel",
    "model.output_bias": True,
    "model.output_softcap": 30.0,
    "model.pooler": True,
    "model.num_kv_heads": 2,
    "model.head_dim": 8,
    "model.norm_position": "both",
    "model.biases": "all",
    "model.tie_embeddings": False,
    "model.dropout": 0.5,
    "model.attention_dropout": 0.5,
    "model.layer_drop": 0.5,
    "data.mixture": ({"source": "tfds:a", "weight": 2.0}, {"max_epochs": 4.0}),
    "data.encoder_seq_len": 64,
    "data.packing": "pad",
    "data.batch_sizes": ({"step": 0, "value": 4}, {"step": 9, "value": 16}),
    "data.seq_lens": ({"step": 0, "value": 64}, {"step": 9, "value": 256}),
    "data.augment.share": 0.25,
    "data.augment.synonyms": 0.1,
    "data.augment.insertion": 0.1,
    "data.augment.swap": 0.1,
    "data.augment.deletion": 0.1,
    "data.prepare.fields": ({"name": "a"}, {"name": "b", "type": {"kind": "tags"}}),
    "data.prepare.label": "label",
    "data.prepare.language": "en",
    "data.prepare.quality": "gopher",
    "train.damaged": "set_aside",
    "data.prepare.near_duplicates": False,
    "data.prepare.exact_duplicates": False,
    "data.prepare.split": "fold",
    "layout.data": 4,
    "layout.plan_topology": "v5e:4x4",
    "layout.plan_gpus": "h100:8x4",
    "layout.compiler_options": ("xla_a=1", "xla_b=x=y"),
    "layout.optimizer_sharding": "data",
    "layout.optimizer_memory": "host",
    "data.prepare.cleaning": ("nfc",),
    "layout.pipeline.microbatches": 4,
    "layout.microbatches": 2,
    "optimizer.decay": "all",
    "optimizer.clip_norm": None,
    "optimizer.ema": 0.99,
    "optimizer.layer_decay": 0.9,
    "optimizer.unfreeze_every": 100,
    "optimizer.freeze": ("transformer/embedder/*",),
    "loss.label_smoothing": 0.1,
    "craft.mixout": 0.1,
    "train.eval_batches": 3,
    "train.best_mode": "max",
    "train.patience": 4,
    "train.writers": ("jsonl", "tensorboard"),
}
VARIANTS = {
    "model.norm": ("layer_norm", {"epsilon": 1e-3}),
    "model.positions": ("learned", {"max_length": 300}),
    "model.scores": ("cosine", {"init_scale": 2.0}),
    "model.mlp": ("plain", {"activation": "relu"}),
    "model.heads": ("latent", {"rank": 64, "query_rank": 32}),
    "model.output": ("transformed", {"activation": "relu", "bias": False}),
    "task": ("sequence_classification", {"num_labels": 9, "pooling": "last"}),
    "data.tokenizer": ("wordpiece", {"vocab_size": 500, "lowercase": False}),
    "data.weighting": ("temperature", {"temperature": 3.0}),
    "layout.precision": ("bfloat16", {"masters": "bfloat16"}),
    "layout.attention": ("blocked", {"block": 32}),
    "layout.context": ("ring", {"sequence_parallel": True}),
    "layout.remat": ("names", {"saved": ("query",), "offloaded": ("context",)}),
    "layout.quantization": ("int8", {"backward": False}),
    "optimizer.algorithm": ("lion", {"b2": 0.5}),
    "optimizer.schedule": ("linear", {"warmup_steps": 7, "final": 0.25}),
    "craft.loss": ("smart", {"proximal": 0.0, "momentum": 0.9}),
    "peft": ("lora", {"rank": 4, "targets": ("key",), "magnitude": True}),
    "init": ("checkpoint", {"path": "runs/a", "step": 3}),
}


def plain_fields() -> list[str]:
    inside = tuple(f"{v}." for v in VARIANTS)
    return [k for k in leaves(config.default()) if not k.startswith(inside)]


def read(value, path: str):
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("path", plain_fields())
def test_every_field_can_be_overridden(path):
    draft = config.default()
    old = read(config.RunConfig(), path)
    new = OTHER.get(path)
    if path not in OTHER:
        new = f"{old}x" if isinstance(old, str) else old * 2 if old else 1
    if path == "data.max_segments":
        draft.data.packing = "first_fit"
    draft.update_from_flattened_dict({path: new})  # what --config.a.b=c does
    got = read(config.parse(draft), path)
    if path in ("model.groups", "model.encoder_groups"):
        new = (config.Group(2),)
    if path == "data.mixture":
        new = config.MixturePart("tfds:a", 2.0), config.MixturePart(max_epochs=4.0)
    if path == "data.prepare.fields":
        new = config.RecordField("a"), config.RecordField("b", "", config.Tags())
    if path in ("data.batch_sizes", "data.seq_lens"):
        new = tuple(config.Stage(**stage) for stage in new)
    assert got == new != old
    assert type(got) is type(new) or isinstance(old, float)


@pytest.mark.parametrize("path", VARIANTS)
def test_every_variant_can_be_chosen_with_its_parameters(path):
    kind, parameters = VARIANTS[path]
    draft = config.default()
    node = draft
    for name in path.split("."):
        node = node[name]
    assert set(parameters) <= set(node)
    node.kind = kind
    node.update(parameters)
    got = read(config.parse(draft), path)
    assert got.kind == kind
    assert {k: getattr(got, k) for k in parameters} == parameters


def test_a_variants_own_defaults_fill_what_is_not_given():
    draft = config.default()
    draft.optimizer.algorithm.kind = "lion"
    assert config.parse(draft).optimizer.algorithm == config.Lion()


def test_to_dict_goes_through_json_and_back():
    run = config.RunConfig(
        model=config.ModelConfig(
            groups=(
                config.Group(
                    2, (config.LayerSpec(config.SlidingWindow(8)), config.LayerSpec())
                ),
                config.Group(1),
            ),
            positions=config.Learned(512),
            mlp=config.Plain("relu"),
        ),
        task=config.SequenceClassification(num_labels=5),
        optimizer=config.OptimizerConfig(algorithm=config.Adafactor(), clip_norm=None),
        train=config.TrainConfig(writers=("jsonl", "wandb")),
        init=config.Checkpoint("runs/a"),
    )
    assert config.parse(json.loads(json.dumps(config.to_dict(run)))) == run
    assert config.parse(config.to_dict(config.RunConfig())) == config.RunConfig()


def test_groups_are_given_as_nested_dicts():
    draft = config.default()
    draft.model.groups = (
        {
            "repeat": 3,
            "pattern": [
                {"pattern": {"kind": "sliding_window", "window": 4}},
                {"pattern": {"kind": "global"}},
            ],
        },
        {"repeat": 1},
    )
    model = config.parse(draft).model
    local, full = config.LayerSpec(config.SlidingWindow(4)), config.LayerSpec()
    assert model.groups == (config.Group(3, (local, full)), config.Group(1))
    assert model.L == 7


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        # unknown keys, at every depth
        ("modle", {}, "unknown config key 'modle'; did you mean 'model'?"),
        ("model.num_layer", 4, "did you mean 'model.num_layers'?"),
        ("model.norm.epsilom", 1.0, "did you mean 'model.norm.epsilon'?"),
        ("train.wandb", True, "'wandb' is a value of 'train.writers'"),
        ("train.zzzzzz", 1, "'train.zzzzzz'; known: best_metric, "),
        (
            "model.groups",
            [{"repeat": 1}, {"repeat": 1, "patern": []}],
            "'model.groups[1].patern'; did you mean 'model.groups[1].pattern'?",
        ),
        (
            "model.groups",
            [{"repeat": 1, "pattern": [{"pattern": {"kind": "global", "windw": 2}}]}],
            "unknown config key 'model.groups[0].pattern[0].pattern.windw'",
        ),
        # wrong types
        ("model.num_layers", "4", "'model.num_layers' is '4' of type str; accepted: "),
        ("model.num_layers", 4.0, "4.0 of type float; accepted: int"),
        ("model.num_layers", True, "True of type bool; accepted: int"),
        ("model.dropout", True, "True of type bool; accepted: float"),
        ("model.tie_embeddings", 1, "1 of type int; accepted: bool"),
        ("model.norm", "rms_norm", "'model.norm' is 'rms_norm' of type str; accepted"),
        ("model", 3, "'model' is 3 of type int; accepted: a dict"),
        ("model.groups", 3, "accepted: a tuple"),
        ("model.groups", [3], "'model.groups[0]' is 3 of type int; accepted: a dict"),
        ("model.groups", [{}], "'model.groups[0].repeat' is missing; give it"),
        ("train.steps", None, "'train.steps' is None of type NoneType; accepted: int"),
        # wrong values
        (
            "layout.remat.kind",
            "some",
            "'layout.remat.kind' is 'some'; accepted: 'none', 'full', 'dots', 'names'",
        ),
        ("train.writers", ["csv"], "'train.writers[0]' is 'csv'; accepted: 'jsonl'"),
        ("model.norm.kind", "batch", "'batch'; accepted: 'layer_norm', 'rms_norm'"),
        ("model.mlp.activation", "tanh", "'model.mlp.activation' is 'tanh'; accepted"),
        # a parameter of another variant
        (
            "model.positions.max_length",
            64,
            "'model.positions.max_length' is not read by kind 'rotary', only by "
            "'learned'; set it to None, or change 'model.positions.kind'",
        ),
        ("optimizer.algorithm.decay_rate", 0.5, "by kind 'adamw', only by 'adafactor'"),
        # values that don't fit together
        ("model.num_heads", 7, "config model: d_model=256 is not a multiple of num_he"),
        ("layout.microbatches", 3, "data.batch_size=16 is not a multiple of layout.mi"),
    ],
)
def test_a_wrong_config_says_which_key_and_what_to_write(path, value, says):
    with pytest.raises(ValueError) as error:
        config.parse(changed(path, value))
    assert says in str(error.value)


def test_an_int_is_a_float():
    got = config.parse(changed("model.dropout", 0)).model.dropout
    assert got == 0.0
    assert type(got) is float


def test_an_empty_tuple_of_another_kind_is_nothing():
    """A flag can empty what a config file sets, and not remove it."""
    draft = config.default()
    draft.layout.remat.saved = ()
    assert config.parse(draft).layout.remat == config.NoRemat()
    draft.layout.remat.saved = ("query",)
    with pytest.raises(ValueError, match="'layout.remat.saved' is not read by kind"):
        config.parse(draft)


def test_an_absent_parameter_is_its_default():
    """A draft holds None for what nobody gave: no other default may stand for it."""
    for cls in vars(config).values():
        for f in dataclasses.fields(cls) if hasattr(cls, "kind") else ():
            optional = type(None) in typing.get_args(f.type)
            assert not optional or f.default is None, (cls, f.name)


def test_variants_within_variants():
    draft = config.default()
    draft.update_from_flattened_dict(
        {
            "model.positions.scaling.kind": "yarn",
            "model.positions.scaling.factor": 4.0,
            "model.mlp.kind": "mixture",
            "model.mlp.router.kind": "sigmoid",
            "model.mlp.router.groups": 2,
            "model.mlp.dispatch.kind": "capacity",
        }
    )
    run = config.parse(draft)
    assert run.model.positions == config.Rotary(scaling=config.YaRN(4.0))
    assert run.model.mlp == config.Mixture(
        router=config.SigmoidRouter(groups=2), dispatch=config.Capacity()
    )
    assert config.parse(config.to_dict(run)) == run
    draft.model.mlp.router.normalize = False
    draft.model.mlp.router.kind = "softmax"
    with pytest.raises(ValueError, match=r"mlp.router.groups' is not read by kind 'so"):
        config.parse(draft)


def test_a_layer_may_have_an_mlp_of_its_own():
    dense = {"mlp": {"kind": "plain"}, "d_ff": 48, "positions": None}
    draft = config.default()
    draft.model.groups = ({"repeat": 1, "pattern": (dense,)}, {"repeat": 2})
    (first, second) = config.parse(draft).model.layers
    assert first.pattern == (config.LayerSpec(mlp=config.Plain(), d_ff=48),)
    assert second.pattern == (config.LayerSpec(),)
