"""`--config.a.b=c`: what it accepts, and the one line of each mistake."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from llmjax import config
from tests.config.test_parse import changed, read


def test_what_ml_collections_raises_is_reworded():
    draft = config.default()
    for key, value, says in [
        ("model.num_layer", 3, "unknown config key .*did you mean '.*num_layers'"),
        ("optimiser", 3, "unknown config key 'optimiser'; did you mean 'optimizer'"),
        ("model.num_layers", "three", "'num_layers' is .*str.*; accepted: .*int"),
        ("model.num_kv_heads", "three", "'num_kv_heads' is .*str.*; accepted: .*int"),
    ]:
        with pytest.raises(ValueError, match=says), config.reworded():
            draft.update_from_flattened_dict({key: value})
    with (
        pytest.raises(ValueError, match="did you mean 'model.num_layers'"),
        config.reworded(),
    ):
        draft.model.num_layer = 3


# a value where the key has keys of its own, and a key that lies deeper
MISPLACED = [
    (
        "layout.pipeline",
        4,
        "'layout.pipeline' is 4.*; accepted: a dict; set layout.pipeline.stages, "
        "layout.pipeline.rounds, layout.pipeline.microbatches",
    ),
    (
        "layout.remat",
        "full",
        "'layout.remat' is .?full.*; accepted: a dict; set layout.remat.kind, "
        "layout.remat.saved, layout.remat.offloaded",
    ),
    ("layout.context", "ring", "accepted: a dict; set layout.context.kind, layout.con"),
    ("layout.pipeline_rounds", 2, "did you mean 'layout.pipeline.rounds'"),
    ("layout.pipeline_microbatches", 2, "did you mean 'layout.pipeline.microbatches'"),
    ("layout.saved", ("query",), "did you mean 'layout.remat.saved'"),
    ("layout.sequence_parallel", True, "'layout.context.sequence_parallel'"),
]


def flag(monkeypatch, *words: str, draft=None):
    """The draft after `--config.…` flags, as a program reads them."""
    config.accept_none()
    argv = ["program", *words]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for them
    values = flags.FlagValues()
    draft = draft or config.default()
    with config.reworded():
        config_flags.DEFINE_config_dict("config", draft, flag_values=values)
        values(argv)
    return draft


@pytest.mark.parametrize(
    ("path", "before"),
    [
        ("optimizer.clip_norm", 1.0),
        ("model.num_kv_heads", 2),
        ("data.prepare.language", "en"),
        ("layout.plan_topology", "v5e:4x4"),
    ],
)
def test_none_can_be_said_of_an_optional_key(path, before, monkeypatch):
    draft = config.default()
    draft.update_from_flattened_dict({path: before})
    assert read(config.parse(draft), path) == before
    draft = flag(monkeypatch, f"--config.{path}=None", draft=draft)
    assert read(config.parse(draft), path) is None
    draft = flag(monkeypatch, f"--config.{path}={before}", draft=config.default())
    assert read(config.parse(draft), path) == before


@pytest.mark.parametrize(
    ("path", "kind"),
    [("train.steps", "int"), ("model.dropout", "float"), ("train.best_metric", "str")],
)
def test_none_of_a_key_that_has_none_is_refused(path, kind, monkeypatch):
    draft = flag(monkeypatch, f"--config.{path}=None")
    with pytest.raises(ValueError, match=f"'{path}' is None .*; accepted: {kind}$"):
        config.parse(draft)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.d_model.x=3", "'model.d_model.x' lies below 'model.d_model', which"),
        ("train.steps.x.y=3", "'train.steps.x.y' lies below 'train.steps', which"),
        ("mixture[0].source=a", "'mixture'; did you mean 'data.mixture'"),
        ("data.mixture[0].source=a", "is a part of 'data.mixture'; set all of it, in"),
        ("train.wandb=True", "'wandb' is a value of 'train.writers'"),
        ("wandb=True", "'wandb'; 'wandb' is a value of 'train.writers'"),
        (
            "data.tokenizer.vocab_sise=300",
            "'data.tokenizer.vocab_sise'; did you mean 'data.tokenizer.vocab_size'",
        ),
        ("model.vocab_sise=300", "'model.vocab_sise'; did you mean 'model.vocab_size'"),
        ("model.learning_rte=1", "did you mean 'optimizer.learning_rate'"),
        ("optimizer.lion=1", "'lion' is a value of 'optimizer.algorithm.kind'"),
    ],
)
def test_a_flag_in_the_wrong_place_is_one_line(word, says, monkeypatch):
    with pytest.raises(ValueError, match=says) as error:
        flag(monkeypatch, f"--config.{word}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("path", "value", "says"), MISPLACED)
def test_a_key_that_lies_deeper_is_named(path, value, says, monkeypatch):
    """In a dict, a config file, and a flag."""
    with pytest.raises(ValueError, match=says):
        config.parse(changed(path, value))
    draft = config.default()
    with pytest.raises(ValueError, match=says), config.reworded():
        draft.update_from_flattened_dict({path: value})
    with pytest.raises(ValueError, match=says):
        flag(monkeypatch, f"--config.{path}={value}")


def test_other_errors_pass_through_reworded():
    with pytest.raises(AttributeError, match="nothing"), config.reworded():
        raise AttributeError("nothing of ml_collections")
    with pytest.raises(TypeError, match="another"), config.reworded():
        raise TypeError("another")
