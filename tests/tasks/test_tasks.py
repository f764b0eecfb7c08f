"""Features on the host, losses and predictions on the device, errors at the border."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    CausalLM,
    DataConfig,
    LayoutConfig,
    RunConfig,
    SequenceClassification,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import rngs


@dataclasses.dataclass
class Vocabulary(PlainVocabulary):
    vocab_size: int = 38

    def __post_init__(self):
        self.token_bytes = np.arange(38, dtype=np.int32) % 4 + 1


@pytest.fixture
def lm(tiny):
    return make_task(RunConfig(tiny), Vocabulary())


def classification(tiny, **fields):
    task = SequenceClassification(3, **fields)
    return RunConfig(tiny, task, DataConfig(packing="pad"))


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
    assert made["tokens"].tolist() == [1, 7, 8, 9] and len(made["tokens"]) == 4
    assert made["label"].shape == () and made["label"] == 2
    assert task.length(3) == 4


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
    total, count, metrics, extra = jax.jit(lm.loss(model))(params, {}, 7, batch, None)
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
    smooth = make_task(
        RunConfig(tiny, CausalLM(z_loss=0.1, label_smoothing=0.2)), Vocabulary()
    )
    model = plain.model(tiny, LayoutConfig())
    params = random_params(model, BATCH)
    one = jax.jit(plain.loss(model))(params, {}, {}, BATCH, None)
    other = jax.jit(smooth.loss(model))(params, {}, {}, BATCH, None)
    assert abs(float(other[0] - one[0])) > 0.1
    np.testing.assert_allclose(other[2]["loss"], one[2]["loss"], rtol=1e-6)


def test_predictions_are_the_likeliest(lm, tiny, random_params):
    model = lm.model(tiny, LayoutConfig())
    params = random_params(model, BATCH)
    logits, _ = jax.jit(model.apply)({"params": params}, BATCH)
    found = jax.jit(lm.predict(model))(params, BATCH)
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
    loss = jax.jit(task.loss(model))
    first = jax.tree.map(lambda x: x[:1], batch)
    alone = loss(params, {}, {}, first, None)
    filled = loss(params, {}, {}, {**batch, "valid": jnp.int32([1, 0])}, None)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), filled, alone
    )
    both = loss(params, {}, {}, batch, None)
    assert float(both[1]) == 2 and float(both[2]["accuracy"][1]) == 2
    chosen = jax.jit(task.predict(model))(params, batch)
    right = (np.asarray(chosen) == np.asarray(batch["label"])).sum()
    assert float(both[2]["accuracy"][0]) == right


def test_rngs_are_named_streams():
    key = jax.random.key(0)
    assert rngs(None) == {} and rngs(key) == {"dropout": key}


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
            lambda c: dataclasses.replace(c, task=SequenceClassification()),
            "'sequence_classification' needs data.packing='pad', not 'concat'",
        ),
    ],
    ids=["vocabulary", "architecture", "packing"],
)
def test_what_does_not_fit_a_task_is_named(change, message, tiny):
    with pytest.raises(ValueError, match=message):
        make_task(change(RunConfig(tiny)), Vocabulary())
