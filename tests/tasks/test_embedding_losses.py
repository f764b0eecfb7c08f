"""Losses of vectors by hand, and against sentence-transformers' own with gradients.

The golden file is written by `python -m tests.parity.embeddings --write`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import (
    AllNegatives,
    GuidedNegatives,
    Ranking,
    TextEmbedding,
    Truncation,
)
from llmjax.data.tokenizers.vocabulary import PlainVocabulary
from llmjax.tasks.embedding import losses
from llmjax.tasks.embedding.losses import Texts, Vectors
from llmjax.tasks.registry import make_task
from llmjax.tasks.task import loss_of
from tests.parity import given_vectors
from tests.tasks.embeddings import of_config

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.mark.parametrize("name", given_vectors.CASES)
def test_equals_sentence_transformers(name):
    golden = given_vectors.golden()
    assert golden.keys() == given_vectors.CASES.keys()
    ours = given_vectors.ours(given_vectors.CASES[name])
    assert given_vectors.difference(ours, golden[name]) <= 1e-5
    assert all(np.abs(g).max() > 1e-3 for g in golden[name][1].values())


def random_vectors(B=5, C=2, D=8, seed=0):
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((B, D)), rng.standard_normal((B, C, D))
    return Vectors(*(jnp.asarray(x, jnp.float32) for x in made))


def distinct(B=5, C=2):
    ids = np.arange(1, 1 + 2 * B * (1 + C)).reshape(-1, 2)
    return Texts(
        jnp.ones(B, bool),
        jnp.ones((B, C), bool),
        jnp.asarray(ids[:B]),
        jnp.asarray(ids[B:].reshape(B, C, 2)),
    )


def by_hand(vectors, texts, temperature, masked=()):
    """The loss of each anchor among all documents but `masked` (row, row', c)."""
    a, d = np.asarray(vectors.anchor_BD), np.asarray(vectors.docs_BCD)
    a, d = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, d))
    z = np.exp(np.einsum("bd,ecd->bec", a, d) / temperature)
    z *= np.asarray(texts.there_BC & texts.valid_B[:, None])[None]
    own = z[np.arange(len(a)), np.arange(len(a)), 0].copy()
    for place in masked:
        z[place] = 0
    return np.log(z.sum((1, 2)) / own)


def test_ranking_leaves_out_what_is_not_there_and_copies():
    vectors, texts = random_vectors(), distinct()
    nll, _ = losses.ranking(Ranking(0.3), vectors, texts)
    np.testing.assert_allclose(nll, by_hand(vectors, texts, 0.3), rtol=1e-5)
    there = texts.there_BC.at[1, 1].set(False)
    less = texts.replace(there_BC=there, valid_B=jnp.arange(5) < 4)
    nll, _ = losses.ranking(Ranking(0.3), vectors, less)
    with np.errstate(divide="ignore"):
        wanted = by_hand(vectors, less, 0.3)
    np.testing.assert_allclose(nll[:4], wanted[:4], rtol=1e-5)
    assert jnp.isfinite(nll).all()
    # row 2's negative is a copy of row 0's positive; rows 3 and 4 ask the same
    ids = texts.doc_id_BC2.at[2, 1].set(texts.doc_id_BC2[0, 0])
    asks = texts.anchor_id_B2.at[4].set(texts.anchor_id_B2[3])
    copied = texts.replace(doc_id_BC2=ids, anchor_id_B2=asks)
    nll, _ = losses.ranking(Ranking(0.3), vectors, copied)
    masked = [(0, 2, 1), (3, 4, 0), (4, 3, 0)]
    np.testing.assert_allclose(nll, by_hand(vectors, texts, 0.3, masked), rtol=1e-5)


def test_a_guide_leaves_out_what_it_finds_near():
    vectors, guide, texts = random_vectors(), random_vectors(seed=1), distinct()
    config = Ranking(0.3, negatives=GuidedNegatives(margin=0.1))
    a, d = (np.asarray(losses.unit(x)) for x in (guide.anchor_BD, guide.docs_BCD))
    near = np.einsum("bd,ecd->bec", a, d)
    limit = near[np.arange(5), np.arange(5), 0] - 0.1
    masked = [
        (b, e, c)
        for b, e, c in np.ndindex(near.shape)
        if near[b, e, c] > limit[b] and (b, 0) != (e, c)
    ]
    assert 3 < len(masked) < 40
    nll, _ = losses.ranking(config, vectors, texts, guide)
    np.testing.assert_allclose(nll, by_hand(vectors, texts, 0.3, masked), rtol=1e-5)


def test_both_ways_and_cosent_by_hand():
    vectors, texts = random_vectors(C=1), distinct(C=1)
    both = Ranking(0.3, ("query_to_doc", "doc_to_query"), "each")
    nll, _ = losses.ranking(both, vectors, texts)
    back = Vectors(vectors.docs_BCD[:, 0], vectors.anchor_BD[:, None])
    wanted = (by_hand(vectors, texts, 0.3) + by_hand(back, texts, 0.3)) / 2
    np.testing.assert_allclose(nll, wanted, rtol=1e-5)
    score = jnp.array([0.1, 0.9, 0.5, 0.5, 0.0])
    cosine = np.asarray(losses.cosines(vectors))
    valid = jnp.arange(5) < 4
    terms = [
        np.exp((cosine[i] - cosine[j]) / 0.3)
        for i in range(4)
        for j in range(4)
        if score[i] < score[j]
    ]
    value = losses.cosent(jnp.asarray(cosine), score, valid, 0.3)
    np.testing.assert_allclose(value, np.log(1 + sum(terms)), rtol=1e-5)


def test_equal_texts_are_known_whatever_their_row():
    tokens = jnp.array([[5, 6, 7, 9], [5, 6, 7, 0], [6, 5, 7, 0], [5, 6, 0, 0]])
    there = jnp.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]) > 0
    ids = np.asarray(losses.identity(tokens, there))
    assert len({tuple(i) for i in ids.tolist()}) == 3 and (ids[0] == ids[1]).all()
    short = losses.identity(tokens[:, :3], there[:, :3])
    np.testing.assert_array_equal(ids, short)


@pytest.mark.parametrize(
    ("architecture", "pooling"), [("encoder", "mean"), ("decoder", "last")]
)
def test_truncations_are_a_weighted_sum(architecture, pooling, tiny, random_params):
    """And each is the loss of vectors that are cut and made of length 1 again."""
    parts = (Truncation(16), Truncation(4, 0.5))
    run = of_config(tiny, truncations=parts, pooling=pooling)
    cfg = dataclasses.replace(run.model, architecture=architecture)
    task = make_task(dataclasses.replace(run, model=cfg), PlainVocabulary(38))
    batch = jax.tree.map(jnp.asarray, task.example_batch(6))
    model = task.model(cfg, run.layout)
    params = random_params(model, batch)

    @jax.jit
    def made(params):
        return loss_of(task, model)(params, {}, {}, batch, None), task.outputs(model)(
            {"params": params}, batch, None
        )

    (total, count, metrics, _), outputs = made(params)
    vectors = outputs["vectors"]
    anchors = {k: batch[f"anchor_{k}"] for k in ("tokens", "segment_ids", "positions")}
    x_BTD = model.apply({"params": params}, anchors, method="hidden")
    pooled = x_BTD.mean(1) if pooling == "mean" else x_BTD[:, -1]  # no padding
    np.testing.assert_allclose(vectors.anchor_BD, pooled, rtol=1e-4, atol=1e-5)
    whole, _ = losses.ranking(Ranking(), vectors.truncated(16), distinct(6))
    short, _ = losses.ranking(Ranking(), vectors.truncated(4), distinct(6))
    np.testing.assert_allclose(total, whole.sum() + 0.5 * short.sum(), rtol=1e-5)
    assert count == 6 and {"accuracy", "accuracy_4", "chance"} < metrics.keys()


def test_negatives_are_a_variant_of_their_own():
    assert Ranking().negatives == AllNegatives()
    with pytest.raises(ValueError, match="directions has doc_to_query; accepted"):
        Ranking(directions=("doc_to_query",))
    with pytest.raises(
        ValueError, match="query_to_query, which never has the positive"
    ):
        Ranking(directions=("query_to_doc", "query_to_query"), partition="each")
    with pytest.raises(
        ValueError, match="truncations has the sizes 4, 4; give each on"
    ):
        TextEmbedding(truncations=(Truncation(4), Truncation(4)))
