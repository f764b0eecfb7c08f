"""Features on the host, losses and predictions on the device, errors at the border."""

import dataclasses
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    LossConfig,
    RunConfig,
    SentenceEmbedding,
    SequenceClassification,
)
from llmjax.data.store.corpus import Corpus
from llmjax.data.store.tokens import from_documents
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import loss_of


@dataclasses.dataclass
class Vocabulary(PlainVocabulary):
    vocab_size: int = 38

    def __post_init__(self):
        self.token_bytes = np.arange(38, dtype=np.int32) % 4 + 1


@pytest.fixture
def lm(tiny):
    return make_task(RunConfig(tiny), Vocabulary())


def classification(tiny, packing="pad", **loss):
    data = DataConfig(packing=packing)
    return RunConfig(tiny, SequenceClassification(3), data, loss=LossConfig(**loss))


def test_every_token_of_a_text_is_predicted_once(lm):
    text = {"tokens": np.int32([7, 8, 9]), "label": np.int32(0)}
    made = lm.features(text, np.random.default_rng(0))
    assert made["tokens"].tolist() == [1, 7, 8, 9]
    assert made["targets"].tolist() == [7, 8, 9, 2]
    assert made["num_bytes"].tolist() == [4, 1, 2, 3]
    assert len(made["tokens"]) == lm.length(3)


def test_a_text_and_its_label(tiny):
    task = make_task(classification(tiny), Vocabulary())
    text = {"tokens": np.int32([7, 8, 9]), "label": np.int32(2)}
    made = task.features(text, np.random.default_rng(0))
    assert made["tokens"].tolist() == [1, 7, 8, 9, 2]
    assert made["label"].shape == () and made["label"] == 2
    assert task.length(3) == 5


BATCH = {
    "tokens": jnp.arange(24).reshape(2, 12) % 38,
    "targets": (jnp.arange(24).reshape(2, 12) * 5 + 1) % 38,
    "num_bytes": jnp.arange(24).reshape(2, 12) % 3 + 1,
    "segment_ids": jnp.int32([[1] * 5 + [2] * 7, [1] * 8 + [0] * 4]),
}


@pytest.mark.parametrize("bytes_known", [True, False])
def test_language_modelling_is_cross_entropy_over_real_tokens(
    bytes_known, lm, tiny, random_params
):
    batch = dict(BATCH) if bytes_known else {**BATCH}
    if not bytes_known:
        del batch["num_bytes"]
    model = lm.model(tiny, LayoutConfig(loss_block=4))
    params = random_params(model, batch)
    total, count, metrics, extra = jax.jit(loss_of(lm, model))(
        params, {}, 7, batch, None
    )
    logits, _ = jax.jit(model.apply)({"params": params}, batch)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    nll = -np.take_along_axis(np.asarray(log_p), batch["targets"][..., None], 2)
    real = np.asarray(batch["segment_ids"]) > 0
    wanted = (nll[..., 0] * real).sum()
    assert (float(count), int(extra)) == (20, 7)
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (wanted, 20), rtol=1e-5)
    if bytes_known:
        spoken = (np.asarray(batch["num_bytes"]) * real).sum()
        bits = wanted / math.log(2)
        np.testing.assert_allclose(metrics["bits_per_byte"], (bits, spoken), rtol=1e-5)
    else:
        assert set(metrics) == {"loss", "accuracy"}


def test_what_is_minimised_may_be_smoothed_and_what_is_told_is_not(tiny, random_params):
    plain = make_task(RunConfig(tiny), Vocabulary())
    loss = LossConfig(z_loss=0.1, label_smoothing=0.2)
    smooth = make_task(RunConfig(tiny, loss=loss), Vocabulary())
    model = plain.model(tiny, LayoutConfig())
    params = random_params(model, BATCH)
    one = jax.jit(loss_of(plain, model))(params, {}, {}, BATCH, None)
    other = jax.jit(loss_of(smooth, model))(params, {}, {}, BATCH, None)
    assert abs(float(other[0] - one[0])) > 0.1
    np.testing.assert_allclose(other[2]["loss"], one[2]["loss"], rtol=1e-6)


def test_predictions_are_the_likeliest(lm, tiny, random_params):
    model = lm.model(tiny, LayoutConfig())
    params = random_params(model, BATCH)
    logits, _ = jax.jit(model.apply)({"params": params}, BATCH)
    found = jax.jit(lm.predict(model))({"params": params}, BATCH)
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1))


def test_rows_that_only_fill_up_do_not_count(tiny, random_params):
    config = classification(tiny, label_smoothing=0.1)
    task = make_task(config, Vocabulary())
    model = task.model(tiny, LayoutConfig())
    batch = {
        "tokens": BATCH["tokens"],
        "segment_ids": BATCH["segment_ids"],
        "label": jnp.int32([2, 0]),
    }
    params = random_params(model, batch)
    loss = jax.jit(loss_of(task, model))
    first = jax.tree.map(lambda x: x[:1], batch)
    alone = loss(params, {}, {}, first, None)
    filled = loss(params, {}, {}, {**batch, "valid": jnp.int32([1, 0])}, None)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), filled, alone
    )
    both = loss(params, {}, {}, batch, None)
    assert float(both[1]) == 2 and float(both[2]["accuracy"][1]) == 2
    chosen = jax.jit(task.predict(model))({"params": params}, batch)
    right = (np.asarray(chosen["label"]) == np.asarray(batch["label"])).sum()
    assert float(both[2]["accuracy"][0]) == right


class Labelled(Corpus):
    """A corpus in memory: three texts, one of them without a label."""

    def __init__(self, *class_names: str):
        object.__setattr__(self, "class_names", class_names)

    def source(self, split: str, field: str = "text"):
        assert (split, field) == ("train", "masked_text")
        return from_documents([[3, 4, 5], [6], [7, 8]], [2, -1, 0])


@pytest.mark.parametrize("packing", ["pad", "first_fit"])
def test_labelled_texts_of_a_split_are_cut_to_a_row(packing, tiny):
    config = classification(tiny, packing)
    task = dataclasses.replace(config.task, text_field="masked_text")
    data = dataclasses.replace(config.data, seq_len=4)
    bound = make_task(dataclasses.replace(config, task=task, data=data), Vocabulary())
    source = bound.source(Labelled("a", "b", "c"), "train")
    examples = [source[i] for i in range(len(source))]
    assert [x["tokens"].tolist() for x in examples] == [[3, 4], [7, 8]]
    assert [int(x["label"]) for x in examples] == [2, 0]
    values = {"label": np.array([2, 0]), "probabilities": np.eye(3)[[2, 0]]}
    named = bound.decode(values, Labelled("a", "b", "c"))
    assert named[0]["label"] == "c" and named[1]["probability"] == 1
    assert named[1]["probabilities"] == {"a": 1, "b": 0, "c": 0}
    with pytest.raises(
        ValueError, match=r"num_labels=3, and the corpus has 2 classes \(a, b\)"
    ):
        bound.source(Labelled("a", "b"), "train")
    named = dataclasses.replace(task, labels=("a", "b", "d"))
    bound = make_task(dataclasses.replace(config, task=named, data=data), Vocabulary())
    with pytest.raises(ValueError, match=r"class 'c' \(document 0 of the split 'train"):
        bound.source(Labelled("a", "b", "c"), "train")


def test_an_example_batch_is_full_rows_of_the_pipeline(lm, tiny):
    rows = lm.example_batch(3)
    assert set(rows) == {"tokens", "targets", "num_bytes", "segment_ids", "positions"}
    assert rows["tokens"].shape == (3, lm.run.data.seq_len)
    assert (rows["segment_ids"] == 1).all()
    labelled = make_task(classification(tiny), Vocabulary()).example_batch(4)
    assert sorted(labelled["label"]) == [0, 0, 1, 2] and labelled["valid"].all()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "no classes; name the column .* in data.prepare.label"),
        (
            ("a", "b"),
            r"num_labels=3, and the corpus has 2 classes \(a, b\); set it to 2",
        ),
    ],
)
def test_a_corpus_of_other_classes_is_refused(names, says, tiny):
    task = make_task(classification(tiny), Vocabulary())
    own = {"class_names": names, "manifest": {"dataset": {}}}
    corpus = mock.create_autospec(Corpus, instance=True, **own)
    with pytest.raises(ValueError, match=says):
        task.documents(corpus, "train")


def test_tokens_of_a_padded_vocabulary_have_no_bytes(tiny):
    task = make_task(RunConfig(tiny), Vocabulary())
    assert len(task.token_bytes) == 40 and not task.token_bytes[38:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: dataclasses.replace(
                c, model=dataclasses.replace(c.model, vocab_size=30)
            ),
            "vocab_size=30 is less than the 38 ids of the tokenizer; set it to",
        ),
        (
            lambda c: dataclasses.replace(
                c, model=dataclasses.replace(c.model, architecture="encoder")
            ),
            "'causal_lm' needs model.architecture='decoder', not 'encoder'",
        ),
        (
            lambda c: dataclasses.replace(
                c,
                task=SentenceEmbedding(),
                data=DataConfig(packing="pad"),
                loss=LossConfig(label_smoothing=0.1),
            ),
            "loss.label_smoothing=0.1 is a term of a cross entropy over .* task "
            "'sentence_embedding' is another; set it to 0",
        ),
        (
            lambda c: dataclasses.replace(c, task=SequenceClassification()),
            "'sequence_classification' needs data.packing='pad' or 'first_fit', not",
        ),
    ],
    ids=["vocabulary", "architecture", "loss", "packing"],
)
def test_what_does_not_fit_a_task_is_named(change, message, tiny):
    with pytest.raises(ValueError, match=message):
        make_task(change(RunConfig(tiny)), Vocabulary())
