"""Algorithms against their papers, where optax goes another way."""

import math

import jax
import numpy as np
import pytest

from llmjax.config import SGD, Adafactor, Constant, Muon, OptimizerConfig
from llmjax.train.optimizers import optimizers, roles
from tests.train.test_optimizers import AXES, STEPS, draw, three_updates


def newton_schulz(x):
    """Jordan et al. 2024: five steps of the quintic a x + (b A + c A A) x, A = x x'."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / np.linalg.norm(wide)
    for _ in range(5):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def test_muon_is_its_papers():
    """M <- m M + G, and the weights move against the orthogonalised G + m M."""
    rate, m, decay = 0.1, 0.9, 0.3
    config = OptimizerConfig(Muon(m), Constant(), rate, decay, clip_norm=None)
    got, _ = three_updates(optimizers.make(config, STEPS, AXES), draw(0))
    want = np.float64(draw(0)["mlp"]["kernel"])
    momentum = np.zeros_like(want)
    for seed in (1, 2, 3):
        grad = np.float64(draw(seed)["mlp"]["kernel"])
        momentum = m * momentum + grad
        update = newton_schulz(grad + m * momentum) * 0.2 * math.sqrt(max(want.shape))
        want = want - rate * (update + decay * want)
    np.testing.assert_allclose(got["mlp"]["kernel"], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (("D", "N", "H"), (8, 2, 3)),
        (("D", "K", "H"), (8, 2, 3)),
        (("N", "H", "D"), (2, 3, 8)),
        (("N", "H"), (2, 3)),
    ],
)
def test_adafactor_factors_a_projection_as_the_matrix_that_it_is(names, shape):
    """Its second moments are a row's and a column's, and its updates the matrix's."""
    config = OptimizerConfig(Adafactor(0.7, 4), Constant(), 0.1, 0.0, clip_norm=None)
    flat, flat_names = roles.merge_heads(shape, names)
    whole = optimizers.make(config, STEPS, {"kernel": names})
    matrix = optimizers.make(config, STEPS, {"kernel": flat_names})
    params = draw(0, {"kernel": shape})
    got, state = three_updates(whole, params, {"kernel": shape})
    params = {"kernel": params["kernel"].reshape(flat)}
    want, _ = three_updates(matrix, params, {"kernel": flat})
    assert got["kernel"].shape == shape
    np.testing.assert_array_equal(got["kernel"].reshape(flat), want["kernel"])
    sizes = sorted(x.size for x in jax.tree.leaves(state) if x.size > 1)
    assert sizes == ([6] if len(shape) == 2 else [6, 8])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decay_of_sgd_does_not_enter_its_momentum(momentum):
    """SGDW, Loshchilov & Hutter 2019, algorithm 1."""
    config = OptimizerConfig(SGD(momentum), Constant(), 0.1, 0.5, "all", clip_norm=None)
    got, _ = three_updates(optimizers.make(config, STEPS, AXES), draw(0))
    want = np.float64(draw(0)["mlp"]["kernel"])
    moving = np.zeros_like(want)
    for seed in (1, 2, 3):
        moving = momentum * moving + np.float64(draw(seed)["mlp"]["kernel"])
        want = want - 0.1 * (moving + 0.5 * want)
    np.testing.assert_allclose(got["mlp"]["kernel"], want, rtol=1e-5)
