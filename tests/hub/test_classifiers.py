"""Classifiers of texts and tokens in the hub's format; outputs are in the goldens."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llmjax import hub
from llmjax.config import (
    Alibi,
    DenseHead,
    LayerNorm,
    Learned,
    LinearHead,
    ModelConfig,
    MultiLabel,
    NormedHead,
    Plain,
    PoolerHead,
    Regression,
)
from llmjax.hub import families, forms
from llmjax.hub.save import find_family, way_to_classes
from llmjax.hub.stored_model import open_model
from llmjax.hub.table import Classification
from llmjax.models.heads.classifier import SequenceClassifier
from llmjax.models.heads.token import TokenClassifier
from llmjax.tasks.registry import task_of

TOKENS = {"tokens": jnp.arange(12).reshape(2, 6) % 30}
MODERN = families.family("modernbert").to_config(
    {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2),
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
    }
)
LABELS = ("bad", "so so", "good")


@pytest.fixture(scope="module")
def bert() -> ModelConfig:
    return ModelConfig(
        architecture="encoder",
        vocab_size=40,
        d_model=16,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        token_types=2,
        embedding_norm=True,
        positions=Learned(32),
        mlp=Plain(),
        norm=LayerNorm(1e-12),
        norm_position="post",
        biases="all",
        dropout=0.1,
    )


@pytest.fixture(scope="module")
def classifier(bert):
    return SequenceClassifier(bert, 3, "first", form=PoolerHead(), labels=LABELS)


@pytest.fixture
def folder(tmp_path, classifier, random_params):
    params = random_params(classifier, TOKENS)
    hub.save(classifier, params, tmp_path / "model")
    return tmp_path / "model"


def test_a_classifier_and_back(folder, classifier, random_params, same, tmp_path):
    model, params = hub.load(folder)
    assert model.clone(cfg=classifier.cfg) == classifier and model.labels == LABELS
    same(params, random_params(classifier, TOKENS))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "so so", "2": "good"}
    assert config["label2id"] == {"bad": 0, "so so": 1, "good": 2}
    assert "problem_type" not in config  # the usual one
    renamed = model.clone(labels=("a", "b", "c"))  # the folder's own keys give way
    hub.save(renamed, params, tmp_path / "renamed")
    assert hub.load(tmp_path / "renamed")[0].labels == ("a", "b", "c")
    one, two = (
        load_file(f / "model.safetensors") for f in (folder, tmp_path / "renamed")
    )
    assert one.keys() == two.keys() >= {"classifier.weight", "bert.pooler.dense.bias"}


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_the_kind_of_problem_is_kept(problem, folder, edit, tmp_path):
    edit(folder / "config.json", problem_type=problem)
    model, params = hub.load(folder)
    assert model.problem == problem
    hub.save(model, params, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["problem_type"] == problem
    usual = model.clone(problem="single_label_classification")
    hub.save(usual, params, tmp_path / "usual")
    assert hub.load(tmp_path / "usual")[0].problem == usual.problem


def test_one_score_says_what_it_is_or_stays_unsaid(bert, random_params, edit, tmp_path):
    """transformers' pipeline takes one that says nothing for a class's logit."""
    kind = {"labels": ("stars",), "problem": "regression"}
    model = SequenceClassifier(bert, 1, "first", form=PoolerHead(), **kind)
    hub.save(model, random_params(model, TOKENS), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    assert json.loads(file.read_text())["problem_type"] == "regression"
    assert task_of(hub.load(tmp_path / "model")[0]).problem == Regression()
    edit(file, problem_type=None)
    model, params = hub.load(tmp_path / "model")
    assert model.problem is None and task_of(model).problem == MultiLabel()
    hub.save(model, params, tmp_path / "again")
    assert hub.load(tmp_path / "again")[0].problem is None
    edit(file, problem_type="single_label_classification")
    assert task_of(hub.load(tmp_path / "model")[0]).problem == MultiLabel()


def test_classes_without_names_have_transformers_names(folder, edit):
    edit(folder / "config.json", id2label=None, num_labels=3, problem_type=None)
    model, _ = hub.load(folder)
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert model.problem == "single_label_classification"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": ["a"]}, "id2label is .*; accepted: a name for each class from 0"),
        ({"id2label": {}}, "id2label is {}; accepted"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is .*; accepted"),
        ({"id2label": None, "num_labels": 1.5}, "num_labels is 1.5; accepted"),
        ({"id2label": None, "num_labels": -1}, "num_labels is -1; accepted"),
        ({"problem_type": "riddle"}, "problem_type is 'riddle'; accepted: 'single_"),
        (
            {"id2label": {"0": "a", "1": "b"}},
            r"'classifier.weight' has the shape \(3, ",
        ),
    ],
)
def test_classes_that_cannot_be_are_named(changes, message, folder, edit):
    edit(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        hub.load(folder)


def test_a_way_to_classes_that_the_family_lacks_is_named(bert, random_params, tmp_path):
    model = SequenceClassifier(bert, 2, "mean", form=LinearHead())
    params = random_params(model, TOKENS)
    with pytest.raises(ValueError, match="bert: task.pooling is 'mean' and task.head"):
        hub.save(model, params, tmp_path / "out")
    ours = Classification("first", DenseHead("relu"))
    head = "SequenceClassifier"
    with pytest.raises(ValueError, match="the family bert: task.pooling is 'first' an"):
        find_family(bert, head, "bert", classification=ours)
    untyped = dataclasses.replace(bert, token_types=0)
    assert find_family(untyped, head, classification=ours).name == "distilbert"


def test_the_last_token_of_a_decoder_is_scored_without_a_bias(
    cfg, random_params, tmp_path
):
    model = SequenceClassifier(cfg, 3, "last", form=LinearHead(bias=False))
    params = random_params(model, TOKENS)
    assert params["classifier"].keys() == {"kernel"}
    assert hub.save(model, params, tmp_path / "out").name == "llama"
    again, loaded = hub.load(tmp_path / "out")
    assert again.clone(cfg=cfg) == model
    np.testing.assert_array_equal(
        again.apply({"params": loaded}, TOKENS), model.apply({"params": params}, TOKENS)
    )


def test_a_model_s_family_has_a_way_to_classes(cfg, bert):
    assert way_to_classes(bert) == Classification("first", PoolerHead())
    assert way_to_classes(cfg) == Classification("last", LinearHead(bias=False))
    assert way_to_classes(dataclasses.replace(cfg, positions=Alibi())) is None


def test_a_folder_s_way_is_its_own(folder, edit):
    assert open_model(folder).way_to_classes() == Classification("first", PoolerHead())
    edit(folder / "config.json", architectures=["BertModel"])
    assert open_model(folder).way_to_classes() == Classification("first", PoolerHead())


# --- of tokens -----------------------------------------------------------------------

TAGS = ("O", "B-X", "I-X")


@pytest.mark.parametrize(
    ("family", "form", "tensor"),
    [
        ("bert", LinearHead(), "classifier.weight"),
        ("llama", LinearHead(), "score.bias"),
        ("modernbert", NormedHead(), "head.norm.weight"),
    ],
)
def test_a_tagger_and_back(family, form, tensor, cfg, bert, random_params, tmp_path):
    cfg = {"bert": bert, "llama": cfg, "modernbert": MODERN}[family]
    model = TokenClassifier(cfg, 3, form=form, labels=TAGS)
    params = random_params(model, TOKENS)
    assert way_to_classes(cfg, "TokenClassifier") == Classification("none", form)
    assert hub.save(model, params, tmp_path / "out").name == family
    again, loaded = hub.load(tmp_path / "out")
    assert again.clone(cfg=cfg) == model and again.labels == TAGS
    np.testing.assert_array_equal(
        again.apply({"params": loaded}, TOKENS), model.apply({"params": params}, TOKENS)
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"][0].endswith("ForTokenClassification")
    assert config["label2id"] == {"O": 0, "B-X": 1, "I-X": 2}
    assert "problem_type" not in config
    assert tensor in load_file(tmp_path / "out" / "model.safetensors")


def test_a_tagger_that_no_format_holds_is_refused(bert, random_params, tmp_path):
    model = TokenClassifier(bert, 3, crf=True)
    params = random_params(model, TOKENS)
    with pytest.raises(ValueError, match=r"conditional random field \(task.crf\)"):
        hub.save(model, params, tmp_path / "out")
    assert not forms.exportable(model)
    plain = TokenClassifier(bert, 3, form=LinearHead(bias=False))
    with pytest.raises(ValueError, match="bert: task.head is LinearHead"):
        hub.save(plain, random_params(plain, TOKENS), tmp_path / "out")


def test_a_head_of_texts_is_not_one_of_tokens(folder):
    stored = open_model(folder)
    assert stored.way_to_classes("TokenClassifier") == Classification(
        "none", LinearHead()
    )
