"""The field's sums over paths, against all paths written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.tasks.labelled import crf

C = 3
# rows of sentences: the places of their words
SENTENCES = (((0, 1, 3), (4, 6)), ((2,), ()), ((), ()))
T = 8


def case():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((len(SENTENCES), T, C)).astype(np.float32)
    number, start = np.zeros((len(SENTENCES), T), np.int32), 1
    for row, sentences in enumerate(SENTENCES):
        for places in sentences:
            number[row, [*places]] = start + np.arange(len(places))
            start += len(places) + 1
    beside = [jnp.float32(rng.standard_normal(s)) for s in ((C, C), C, C)]
    return (
        jnp.asarray(scores),
        crf.words_of(jnp.asarray(number)),
        crf.Transitions(*beside),
    )


def score_of(path, places, scores_TC, transitions):
    between, first, last = transitions
    total = sum(scores_TC[place, tag] for place, tag in zip(places, path, strict=True))
    total += sum(between[a, b] for a, b in itertools.pairwise(path))
    return total + first[path[0]] + last[path[-1]]


def test_all_paths_written_out():
    scores, words, transitions = case()
    normaliser = crf.log_normaliser(scores, words, transitions)
    best = np.asarray(crf.viterbi(scores, words, transitions))
    own = crf.path_score(scores, jnp.asarray(best), words, transitions)
    marginals = np.asarray(crf.marginals(scores, words, transitions))
    for row, sentences in enumerate(SENTENCES):
        log_z = highest = 0.0
        probability_TC = np.zeros((T, C))
        for places in filter(None, sentences):
            paths = [*itertools.product(range(C), repeat=len(places))]
            values = np.array(
                [score_of(p, places, scores[row], transitions) for p in paths]
            )
            log_z += np.log(np.exp(values).sum())
            highest += values.max()
            assert best[row, [*places]].tolist() == [*paths[values.argmax()]]
            for path, value in zip(paths, values, strict=True):
                share = np.exp(value) / np.exp(values).sum()
                probability_TC[[*places], [*path]] += share
        np.testing.assert_allclose(normaliser[row], log_z, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(own[row], highest, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(marginals[row], probability_TC, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    scores, words, transitions = case()
    tags = jnp.asarray(np.random.default_rng(1).integers(0, C, scores.shape[:2]))

    @jax.jit
    def loss(scores, transitions):
        normaliser = crf.log_normaliser(scores, words, transitions)
        return jnp.sum(normaliser - crf.path_score(scores, tags, words, transitions))

    gradients = jax.grad(loss, argnums=(0, 1))(scores, transitions)
    leaves, tree = jax.tree.flatten((scores, transitions))
    flat = jax.tree.leaves(gradients)
    step = 1e-2
    rng = np.random.default_rng(2)
    for k, leaf in enumerate(leaves):
        for _ in range(4):
            at = tuple(int(rng.integers(n)) for n in leaf.shape)
            sides = []
            for sign in (1, -1):
                moved = np.array(leaf)
                moved[at] += sign * step
                parts = [*leaves[:k], jnp.asarray(moved), *leaves[k + 1 :]]
                sides.append(float(loss(*jax.tree.unflatten(tree, parts))))
            numeric = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose(flat[k][at], numeric, atol=2e-3)
    assert not gradients[0][2].any()  # a row without words
    assert all(np.abs(g).max() > 0.05 for g in flat)
