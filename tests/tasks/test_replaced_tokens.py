"""ELECTRA: what the generator writes, and what the discriminator is told of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    DataConfig,
    LayoutConfig,
    Learned,
    Mixture,
    ReplacedTokens,
    RunConfig,
    Transformed,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.models.heads.language import LanguageModel, Outputs
from llmjax.models.heads.replaced_tokens import generator_config
from llmjax.tasks.objectives.replaced_tokens import ReplacedTokensTask, sample
from llmjax.tasks.task import loss_of

T = 20
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def task(tiny):
    model = dataclasses.replace(
        tiny,
        architecture="encoder",
        num_layers=1,
        embedding_size=10,
        token_types=2,
        embedding_norm=True,
        positions=Learned(32),
        num_kv_heads=None,
    )
    data = DataConfig(packing="pad", seq_len=T)
    config = ReplacedTokens(rate=0.3, generator_size=0.5)
    return ReplacedTokensTask(RunConfig(model, config, data), PlainVocabulary(38))


@pytest.fixture(scope="module")
def batch(task):
    rng, rows = np.random.default_rng(0), []
    for n in (18, 9, 14, 3):
        made = task.features({"tokens": rng.integers(3, 37, n, dtype=np.int32)}, rng)
        made |= {"segment_ids": np.ones(n + 2, int), "positions": np.arange(n + 2)}
        rows.append({k: np.pad(v, (0, T - n - 2)) for k, v in made.items()})
    return {k: jnp.int32([row[k] for row in rows]) for k in rows[0]}


@pytest.fixture(scope="module")
def model(task):
    return task.model(task.run.model, LayoutConfig(loss_block=4))


@pytest.fixture(scope="module")
def loss(task, model):
    return jax.jit(loss_of(task, model))


@pytest.fixture(scope="module")
def params(model, batch, random_params):
    return random_params(model, batch)


def test_the_generator_is_narrower_and_has_no_embeddings_of_its_own(params, task):
    cfg = task.run.model
    assert set(params) == {"transformer", "dense", "prediction", "generator"}
    assert set(params["transformer"]["embedder"]) == {
        "table", "positions", "token_types", "norm", "projection"
    }  # fmt: skip
    generator = params["generator"]
    assert set(generator) == {"projection", "stack", "head", "output_bias"}
    shapes = jax.tree.map(lambda x: x.shape, generator["stack"]["group_0"]["layer_0"])
    assert shapes["mlp"]["up"]["kernel"] == (1, 8, 12)  # layers, D / 2, F / 2
    assert shapes["attention"]["query"]["kernel"] == (1, 8, 2, cfg.H)  # N / 2
    small = generator_config(cfg, 0.5)
    assert (small.L, small.embedding_size, small.output) == (1, 10, Transformed())


def test_the_generator_is_a_masked_language_model(params, model, batch, task):
    """It is `LanguageModel` of its config on the discriminator's embeddings."""
    cfg = dataclasses.replace(generator_config(task.run.model, 0.5), output_bias=True)
    own, embedder = params["generator"], params["transformer"]["embedder"]
    plain = {
        "transformer": {
            "embedder": {**embedder, "projection": own["projection"]},
            "stack": own["stack"],
        },
        "head": own["head"],
        "output_bias": own["output_bias"],
    }
    wanted, _ = LanguageModel(cfg).apply({"params": plain}, batch)
    places = jnp.int32([[0, 7, 3], [1, 2, 5], [0, 0, 9], [4, 2, 1]])
    outputs = model.apply({"params": params}, batch, places, method="generate")
    wanted = np.take_along_axis(np.asarray(wanted), places[..., None], 1)
    np.testing.assert_allclose(outputs.logits(), wanted, rtol=1e-4, atol=1e-4)


def test_samples_follow_the_generators_distribution():
    logits = jnp.float32([0.0, 1.0, -1.0, 2.0, 0.5])
    rows = jnp.ones((4000, 5, 1))  # 5 places of each
    outputs = Outputs(rows, logits[:, None])
    keys = jax.random.split(jax.random.key(0), 4000)
    for temperature in (1.0, 0.5):
        found = sample(outputs, keys, temperature, block=2)
        p = np.asarray(jax.nn.softmax(logits / temperature))
        counts = np.bincount(np.asarray(found).reshape(-1), minlength=5)
        errors = np.sqrt(20_000 * p * (1 - p))
        assert (np.abs(counts - 20_000 * p) < 4.5 * errors).all()
        # one place says nothing of the next, within a block and beyond
        for k in (1, 2):
            same = np.mean(np.asarray(found[:, 0] == found[:, k]))
            assert abs(same - (p**2).sum()) < 0.035
    np.testing.assert_array_equal(found, sample(outputs, keys, 0.5, block=2))


def test_both_losses_add_up(params, model, batch, task, monkeypatch):
    written = jnp.where(jnp.arange(6) % 3 == 0, batch["targets"][:, :6], 5)
    monkeypatch.setattr(
        "llmjax.tasks.objectives.replaced_tokens.sample", lambda *_: written
    )
    total, count, metrics, extra = loss_of(task, model)(params, {}, 7, batch, None)
    weights, real = np.asarray(batch["weights"]), np.asarray(batch["segment_ids"]) > 0
    targets = np.asarray(batch["targets"])
    fake = targets.copy()
    for row in range(4):  # the k-th predicted place takes the k-th sample
        places = np.flatnonzero(weights[row])
        fake[row, places] = np.asarray(written)[row, : len(places)]
    every = jnp.broadcast_to(jnp.arange(T), (4, T))
    outputs = model.apply({"params": params}, batch, every, method="generate")
    log_p = np.asarray(jax.nn.log_softmax(outputs.logits()))
    nll = -np.take_along_axis(log_p, targets[..., None], 2)[..., 0]
    logits = np.asarray(
        model.apply({"params": params}, {**batch, "tokens": jnp.asarray(fake)})
    )
    replaced = fake != targets
    assert 3 < replaced.sum() < weights.sum()
    p = 1 / (1 + np.exp(-np.float64(logits)))
    found = -np.log(np.where(replaced, p, 1 - p)) * real
    share = weights.sum(1) / real.sum(1)
    wanted = (nll * weights).sum() + 50 * (found.sum(1) * share).sum()
    np.testing.assert_allclose(total, wanted, rtol=1e-4)
    assert (float(count), extra) == (weights.sum(), 7)
    n = real.sum()
    for name, value in {
        "loss": (wanted, weights.sum()),
        "generator_loss": ((nll * weights).sum(), weights.sum()),
        "accuracy": (((log_p.argmax(-1) == targets) * weights).sum(), weights.sum()),
        "detection_loss": (found.sum(), n),
        "detection_accuracy": ((((logits > 0) == replaced) * real).sum(), n),
        "replaced": (replaced.sum(), n),
    }.items():
        np.testing.assert_allclose(metrics.pop(name), value, rtol=1e-4, err_msg=name)
    assert not metrics
    np.testing.assert_array_equal(
        task.predict(model)({"params": params}, batch).shape, (4, T)
    )


def test_a_sample_that_is_the_original_counts_as_original(params, batch, loss):
    """A generator that is sure of token 5, on a text of nothing else, and of 6."""
    real, weights = batch["segment_ids"] > 0, batch["weights"]
    bias = jnp.zeros(40).at[5].set(1e4)
    sure = {**params, "generator": {**params["generator"], "output_bias": bias}}
    for token, wanted in ((5, 0), (6, int(weights.sum()))):
        text = {**batch, "targets": jnp.where(real, token, 0)}
        replaced = loss(sure, {}, {}, text, None)[2]["replaced"]
        assert [float(x) for x in replaced] == [wanted, real.sum()]


def test_the_generator_learns_from_its_own_loss_alone(params, model, batch, task):
    loss, key = loss_of(task, model), jax.random.key(1)

    def detection(params):
        return loss(params, {}, {}, batch, key)[2]["detection_loss"][0]

    found = jax.jit(jax.grad(detection))(params)
    assert not any(x.any() for x in jax.tree.leaves(found["generator"]))
    for table in (found["transformer"]["embedder"]["table"], found["dense"]["kernel"]):
        assert np.abs(table).max() > 1e-3


def test_an_evaluation_repeats_and_a_row_does_not_hang_on_its_batch(
    params, batch, loss
):
    whole = loss(params, {}, {}, batch, None)
    alone = [
        loss(
            params, {}, {}, jax.tree.map(lambda x, k=k: x[jnp.full(4, k)], batch), None
        )
        for k in range(4)
    ]
    np.testing.assert_allclose(whole[0], sum(x[0] for x in alone) / 4, rtol=1e-5)
    replaced = [float(x[2]["replaced"][0]) for x in (whole, *alone)]
    assert replaced[0] == sum(replaced[1:]) / 4 > 0
    keys = jax.random.split(jax.random.key(0), 2)
    noisy = [float(loss(params, {}, {}, batch, key)[0]) for key in (*keys, keys[0])]
    assert noisy[0] == noisy[2] != noisy[1]


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ({"mlp": Mixture()}, 0.5, "model.mlp.kind='mixture' can't be"),
        ({"head_dim": None}, 0.69, "d_model=11 and 2 heads"),
    ],
)
def test_what_does_not_fit_is_named(model, size, message, task):
    run = dataclasses.replace(
        task.run,
        model=dataclasses.replace(task.run.model, **model),
        task=dataclasses.replace(task.config, generator_size=size),
    )
    with pytest.raises(ValueError, match=message):
        ReplacedTokensTask(run, task.vocabulary).check()
